"""One pool as the router holds it: its definition, its adapter, its queue, what runs on it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from mcp_pools.adapter import Started, Waits
from mcp_pools.models import Health, Pool, PoolHealth, PoolStatus, Progress, Task, Waiting
from mcp_pools.present import pool_view, task_view
from mcp_pools.queueing import PoolQueue
from mcp_pools.quotas import Quotas
from mcp_pools.routing import ANY, PoolLoad
from mcp_pools.secret import masked
from mcp_pools.store import EventRow, PoolRow, TaskRow
from mcp_pools.trail import Trail, trail_of

if TYPE_CHECKING:
    from mcp_pools.adapter import Adapter, Slot

ProgressReport = Callable[[float, float | None, str | None], None]
"""Hears done, total and message; at once, on the event loop's thread, without raising."""

OUTPUT_BYTES: Final = 65536
"""How much of a task's latest output is kept."""

HEALTH_SECONDS: Final = 5.0
"""How long a health check may take before the pool counts as unhealthy."""


STOLEN: Final = frozenset({"least_loaded", "map_reduce"})
"""Strategies whose tasks an idle pool takes over; the others say themselves where work belongs."""


class Lane(NamedTuple):
    """Tasks of one caller that may run on the same pools, and may or may not be taken over by an idle one."""

    caller: str
    stealable: bool
    task_type: str
    selector: tuple[tuple[str, str], ...]


@functools.lru_cache(1024)
def plain_lane(caller: str, stealable: bool, task_type: str) -> Lane:
    """The lane of tasks without a selector; kept, because thousands of parts share one."""
    return Lane(caller, stealable, task_type, ())


class Whole(Protocol):
    """What a part tells the distribution that it belongs to."""

    def happened(self, kind: str) -> None:
        """Something happened to a part: it was started, moved, retried, returned."""

    def ending(self, part: LiveTask) -> EventRow | None:
        """The part has ended and is about to be kept so; an event to be kept with it."""

    def ended_part(self, part: LiveTask) -> None:
        """The part's end is on disk."""


@dataclass(slots=True, eq=False)
class LiveTask:
    """A task that has not ended, with what is not worth keeping on disk."""

    row: TaskRow
    task_id: str = field(init=False)
    priority: int = field(init=False)
    created_at: float = field(init=False)
    slot: Slot | None = None
    launched: bool = False
    cancelling: bool = False
    why_cancelled: str = "Cancelled."
    secrets: tuple[str, ...] = ()
    printed: bytearray = field(default_factory=bytearray)
    progress: Progress | None = None
    held: Waiting | None = None
    """Why what was launched does not run yet, when its pool says so."""
    listeners: list[ProgressReport] = field(default_factory=list)
    lane: Lane = field(init=False)
    trail: Trail = field(init=False)
    """Its spans."""
    heading_for: LivePool | None = None
    """Where it will wait once its move is on disk; it counts as arriving there."""
    whole: Whole | None = None
    """The distribution it is a part of."""
    _ended: asyncio.Event | None = None
    _woken: bool = False

    def __post_init__(self) -> None:
        self.task_id, self.priority, self.created_at = (
            self.row.task_id,
            self.row.priority,
            self.row.created_at,
        )
        self.cancelling |= self.row.cancel_requested_at is not None
        self._woken = self.row.finished_at is not None
        row = self.row
        self.trail = trail_of(row)
        self.lane = plain_lane(row.caller, not row.pinned and row.strategy in STOLEN, row.task_type)
        if row.selector:
            self.lane = self.lane._replace(selector=tuple(sorted(row.selector.items())))

    def head_for(self, pool: LivePool) -> None:
        """It will wait on this pool when a change is on disk."""
        self.heading_for = pool
        pool.arriving += 1

    def arrive(self) -> None:
        """It heads for no pool any more."""
        if self.heading_for is not None:
            self.heading_for.arriving -= 1
            self.heading_for = None

    @property
    def movable(self) -> bool:
        """Whether it may wait on another pool instead."""
        return not self.row.pinned and self.row.strategy != "affinity"

    def begin(self, event: Started | Waits) -> None:
        """It runs, or was taken and does not run yet."""
        if isinstance(event, Started):
            self.row.started_at, self.held = event.at, None
        else:
            self.held = Waiting(code=event.code, message=event.message)

    def add_output(self, data: bytes) -> None:
        """Keep the latest output."""
        self.printed += data
        if len(self.printed) > OUTPUT_BYTES:
            del self.printed[:-OUTPUT_BYTES]

    def add_progress(self, progress: Progress) -> None:
        """Keep the latest word on how far it is, and pass it on."""
        self.progress = progress
        for listener in self.listeners:
            listener(progress.done, progress.total, progress.message)

    @property
    def output(self) -> str | None:
        """What it printed, as text."""
        return self.masked(bytes(self.printed)).decode(errors="replace") if self.printed else None

    def masked(self, data: bytes) -> bytes:
        """What it says, without the secrets it was given."""
        return masked(data, self.secrets) if self.secrets else data

    @property
    def is_over(self) -> bool:
        """Whether its end is on disk."""
        return self._woken

    @property
    def ended(self) -> asyncio.Event:
        """Set once the end is on disk."""
        if self._ended is None:
            self._ended = asyncio.Event()
            if self._woken:
                self._ended.set()
        return self._ended

    def wake(self) -> None:
        """Tell everybody who waits for the end, now or later."""
        self._woken = True
        if self._ended is not None:
            self._ended.set()


class LivePool:
    """A pool that is open, or draining on its way to be closed."""

    def __init__(self, row: PoolRow, quotas: Quotas, types: frozenset[str] = ANY) -> None:
        self.row = row
        self.quotas = quotas
        self.adapter: Adapter | None = None
        """`None` when nobody owns the home and only the store is looked at."""
        self.types = types
        """The task types it runs."""
        self.queue: PoolQueue[LiveTask] = PoolQueue()
        self.running: dict[str, LiveTask] = {}
        """By attempt id: reserved, launched, or being committed as such."""
        self.scope = AsyncExitStack()
        self.health: Health = "healthy"
        self.reason: str | None = None
        self.draining = False
        self.arriving = 0
        """Tasks that are being kept and will wait in its queue."""
        self.wakes_at = 0.0
        """When it is next looked at because of a limit, in monotonic seconds."""
        self.emptied = asyncio.Event()
        self.opening = asyncio.Lock()
        self.counted_workers: set[str] = set()
        """The workers it had when they were last counted."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.row.spec.name

    @property
    def capacity(self) -> int:
        """Workers at most, or its fixed size."""
        fixed = self.row.fixed_workers
        return self.row.spec.max_workers if fixed is None else fixed

    @property
    def queued(self) -> int:
        """Tasks that wait here, or are about to."""
        return len(self.queue) + self.arriving

    def resize(self) -> None:
        """Tell the adapter the size that holds now."""
        fixed = self.row.fixed_workers
        assert self.adapter is not None
        self.adapter.spec = (
            self.row.spec if fixed is None else replace(self.row.spec, min_workers=fixed, max_workers=fixed)
        )

    async def cancel_wanted(self) -> None:
        """Cancel what an earlier owner was asked to, and that still runs elsewhere."""
        for live in list(self.running.values()):
            if live.cancelling and live.launched and self.adapter is not None:
                await self.adapter.cancel(live.row.attempt_id)

    def load(self) -> PoolLoad:
        """What routing needs to know of it."""
        return PoolLoad(
            name=self.name,
            capacity=self.capacity,
            busy=len(self.running),
            queued=self.queued,
            healthy=self.health != "unhealthy",
            open=not self.draining,
            type=self.row.spec.type,
            types=self.types,
            labels=self.row.spec.labels,
            region=self.row.spec.region,
        )

    @property
    def status(self) -> PoolStatus:
        """Its status in the contract's words."""
        if self.row.status == "closed":
            return "closed"
        if self.draining:
            return "draining"
        return {"healthy": "running", "degraded": "degraded", "unhealthy": "failed"}[self.health]  # type: ignore[return-value]

    def view(self) -> Pool:
        """The pool as `pool_list` shows it."""
        return pool_view(
            self.row,
            status=self.status,
            workers=self.adapter.workers if self.adapter else (),
            queue_size=len(self.queue),
            task_types=sorted(self.types),
        )

    def task(self, live: LiveTask, *, whole_output: bool = False) -> Task:
        """A task of this pool as it stands."""
        now = time.time()
        return task_view(
            live.row,
            now,
            waiting=self.waiting(live, now) if live.row.status == "queued" else live.held,
            progress=live.progress,
            printed=live.output if live.printed else None,
            whole_output=whole_output,
        )

    def waiting(self, live: LiveTask, now: float) -> Waiting:
        """Why a queued task waits."""
        not_before = live.row.not_before
        if not_before is not None and not_before > now:
            return Waiting(
                code="retry_backoff",
                message=f"Attempt {live.row.attempt + 1} starts in {not_before - now:.1f} s.",
            )
        if self.health == "unhealthy":
            return Waiting(code="pool_unhealthy", message=f"Pool {self.name} is unhealthy: {self.reason}")
        if self.draining:
            return Waiting(code="pool_draining", message=f"Pool {self.name} is closing.")
        if (refused := self.quotas.refused(self.name, live.row.caller, time.monotonic())) is not None:
            return Waiting(code=refused.reason, message=refused.message)
        ahead = f"{len(self.running)} running, {len(self.queue)} waiting, {self.capacity} workers at most"
        return Waiting(code="no_idle_worker", message=f"Pool {self.name} has no idle worker: {ahead}.")

    async def check(self) -> PoolHealth:
        """Ask the adapter how it is, for at most `HEALTH_SECONDS`."""
        if self.adapter is None:
            reason = self.reason or "no owner"
            return PoolHealth(
                name=self.name, status=self.health, workers=0, latency_seconds=0.0, reason=reason
            )
        started = time.perf_counter()
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                self.health, self.reason = await self.adapter.health()
        except TimeoutError:
            self.health, self.reason = "unhealthy", f"its health check took over {HEALTH_SECONDS:g} s"
        except Exception as error:  # an adapter's bug or its peer's: this pool's matter alone
            self.health, self.reason = (
                "unhealthy",
                f"its health check failed: {type(error).__name__}: {error}",
            )
        return PoolHealth(
            name=self.name,
            status=self.health,
            workers=len(self.adapter.workers),
            latency_seconds=round(time.perf_counter() - started, 6),
            reason=self.reason,
        )
