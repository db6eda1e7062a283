"""One distribution's life: many tasks that were asked for in one call.

`submit` → split, judged and placed → **commit the whole, once** → its parts live their lives
in `dispatcher` → each end is counted when it is on disk → the last one folds the results →
**commit the end** → whoever waits wakes.

1. A distribution is its parts: what became of its items is read from them, now and after a restart.
2. Its events are few, however many parts it has: accepted, how far it is, ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mcp_pools import plugins, telemetry, tracing
from mcp_pools.counting import count_end
from mcp_pools.dispatcher import AT_ONCE, Dispatcher
from mcp_pools.distribution import FOLDS, Outcome, chunk_size, fold, place, split, verdict
from mcp_pools.errors import PoolsError
from mcp_pools.intake import Parts, Request, new_id, new_ids
from mcp_pools.live_distribution import LiveDistribution
from mcp_pools.models import Caller, Distribution
from mcp_pools.pool import LivePool, LiveTask
from mcp_pools.present import distribution_view, outcomes_of
from mcp_pools.routing import NAMES, TYPE
from mcp_pools.states import TERMINAL
from mcp_pools.store import FOLD, AcceptDistribution, DistributionRow, EndDistribution, TaskRow
from mcp_pools.trail import distribution_ended

if TYPE_CHECKING:
    from mcp_pools.intake import Intake
    from mcp_pools.registry import Registry

log = logging.getLogger(__name__)

T = TypeVar("T")

MANY: Final = 64
"""Items from which on they are split, judged and gathered beside the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A distribution as it was asked for; the other arguments are in its `Request`."""

    pools: Sequence[str] | None
    pool_filter: str | None
    reduce: str
    chunk_size: int | None
    on_error: str


class Distributor:
    """Accepts distributions and sees them through. `living` are those that have not ended, by id."""

    def __init__(
        self, registry: Registry, intake: Intake, dispatcher: Dispatcher, rng: random.Random
    ) -> None:
        self.living: dict[str, LiveDistribution] = {}
        self._registry = registry
        self._intake = intake
        self._dispatcher = dispatcher
        self._rng = rng

    # Accepted.

    async def submit(self, request: Request, wanted: Wanted, caller: Caller) -> LiveDistribution | None:
        """Split, place and keep it, and return once it is on disk. `None`: its key is taken.

        Raises:
            PoolsError: it was refused, and nothing was kept.
        """
        kind = self._intake.admitted(request, caller)
        selector = self._selector(request, wanted)
        rooms = [self._dispatcher.balancing.room(pool) for pool in self._candidates(request, selector)]

        def divided(items: int) -> list[range]:
            return split(items, chunk_size(request.strategy, wanted.chunk_size, items, rooms))

        def judged() -> Parts:
            if request.strategy == "broadcast":
                return self._intake.whole(kind, request.payload, caller)
            if kind.takes_items:
                return self._intake.chunks(kind, request.payload, caller, divided)
            return self._intake.filled_items(kind, request.payload, caller)

        parts = await beside(judged, request.payload.get("items"))
        pools = self._candidates(request, selector)  # once more: time has passed
        meters = self._dispatcher.meters
        if request.strategy == "broadcast":
            parts = replace(parts, payloads=parts.payloads * len(pools), items=parts.items * len(pools))
            places = [pool.name for pool in pools]
        else:
            rooms = [self._dispatcher.balancing.room(pool) for pool in pools]
            began = time.perf_counter()
            places = place(request.strategy, rooms, len(parts.payloads), self._rng)
            meters.observe(telemetry.ROUTING_SECONDS, time.perf_counter() - began)
            self._registry.fleet.placed(places)
        for name, parts_there in Counter(places).items():
            meters.add(telemetry.DECISIONS, request.strategy, name, amount=parts_there)
        row = self._row(request, wanted, caller, parts)
        common = self._intake.common(request, caller) | {"selector": selector}
        rows = await beside(lambda: self._rows(row, common, parts, places), parts.payloads)
        return await self._accept(row, rows)

    def _selector(self, request: Request, wanted: Wanted) -> dict[str, str] | None:
        """What its pools must carry, now and wherever its parts may move: labels, a name, a type."""
        selector = dict(request.selector or {})
        if wanted.pools is not None:
            accepting = self._registry.accepting
            named = [accepting(name, request.task_type).name for name in wanted.pools]
            selector[NAMES] = ",".join(sorted(named))
        if wanted.pool_filter is not None:
            selector[TYPE] = plugins.ALIASES.get(wanted.pool_filter, wanted.pool_filter)
        return selector or None

    def _candidates(self, request: Request, selector: dict[str, str] | None) -> list[LivePool]:
        every = request.strategy == "broadcast"
        loads = self._registry.fleet.rooms(request.task_type, selector or {}, all=every)
        return [self._registry.pools[load.name] for load in loads]

    def _row(self, request: Request, wanted: Wanted, caller: Caller, parts: Parts) -> DistributionRow:
        return DistributionRow(
            distribution_id=new_id("d"),
            task_type=request.task_type,
            caller=caller.name,
            created_at=time.time(),
            strategy=request.strategy,
            reduce=wanted.reduce,
            on_error=wanted.on_error,
            total=sum(1 if items is None else items for items in parts.items),
            cwd=caller.cwd,
            idempotency_key=request.idempotency_key,
            request_hash=digest(request, wanted),
            trace=tracing.here(),
        )

    def _rows(
        self, row: DistributionRow, common: dict[str, Any], parts: Parts, places: Sequence[str]
    ) -> list[TaskRow]:
        common |= {"roots": parts.roots, "distribution_id": row.distribution_id}
        common |= {"pinned": row.strategy == "broadcast"}
        types = {name: self._registry.pools[name].row.spec.type for name in set(places)}
        trace = tracing.part_of(row.trace, row.distribution_id)
        ids, created_at = new_ids("t", len(places)), common.pop("created_at")
        return [
            TaskRow(
                task_id=ids[at],
                created_at=created_at + at * 1e-6,  # in their order, as their ids are
                payload=payload,
                part=at,
                items=parts.items[at],
                pool=places[at],
                pool_type=types[places[at]],
                trace=trace if at < tracing.MOST_PARTS else None,
                **common,
            )
            for at, payload in enumerate(parts.payloads)
        ]

    async def _accept(self, row: DistributionRow, rows: Sequence[TaskRow]) -> LiveDistribution | None:
        self._fail_unreachable(row, rows)
        whole = await beside(lambda: self._whole(row, [LiveTask(part) for part in rows]), rows)
        parts = [part for part in whole.parts if part.row.status == "queued"]
        pools = {part.row.pool or "": self._registry.pools[part.row.pool or ""] for part in parts}
        for part in parts:  # while they are being kept, they count as waiting on their pools
            part.head_for(pools[part.row.pool or ""])
        self._loaded(pools)
        kept = False
        try:
            kept = await self._kept(AcceptDistribution(row, rows, whole.event("queued")))
        finally:
            if not kept:
                for part in parts:
                    part.arrive()
                self._loaded(pools)
        if not kept:
            return None
        self.living[whole.distribution_id] = whole
        self._count(rows)
        self._dispatcher.tasks.update((part.task_id, part) for part in parts)
        self._dispatcher.commits.spawn(self._dispatcher.enqueue_all(parts))
        if not parts:
            self._all_ended(whole)
        return whole

    def _count(self, rows: Sequence[TaskRow]) -> None:
        """Parts are on disk, those that failed before they began, too."""
        for (pool, task_type), number in Counter((row.pool or "", row.task_type) for row in rows).items():
            self._dispatcher.meters.add(telemetry.SUBMITTED, pool, task_type, amount=number)
        for row in rows:
            if row.finished_at is not None:
                count_end(self._dispatcher.meters, row)

    def _whole(self, row: DistributionRow, parts: list[LiveTask]) -> LiveDistribution:
        return LiveDistribution(row, parts, self._all_ended, self._one_failed)

    def _loaded(self, pools: Mapping[str, LivePool]) -> None:
        for pool in pools.values():
            self._registry.loaded(pool)

    async def _kept(self, change: AcceptDistribution) -> bool:
        try:
            return await self._dispatcher.commits.landed(change)
        except BaseException:
            self._dispatcher.commits.spawn(self._disown(change.row.distribution_id))
            raise

    def _fail_unreachable(self, row: DistributionRow, rows: Sequence[TaskRow]) -> None:
        """Parts of a broadcast whose pool is ill have failed before they begin."""
        for part in rows if row.strategy == "broadcast" else ():
            pool = self._registry.pools[part.pool or ""]
            if pool.health == "unhealthy":
                message = f"Pool {part.pool} is unhealthy: {pool.reason or 'it does not answer'}."
                error = {"code": "pool_unreachable", "message": message, "retryable": True, "details": {}}
                part.status, part.finished_at = "failed", time.time()
                part.error = json.dumps(error).encode()

    async def _disown(self, distribution_id: str) -> None:
        """Nobody was told of this distribution: should it be on disk after all, it is cancelled."""
        await self._dispatcher.keep_cancel(distribution_id, patience=float("inf"))
        kept = await self._registry.store.distribution(distribution_id)
        if kept is None or kept.finished_at is not None:
            return
        left = [part for part in await self._registry.store.parts(distribution_id) if not part.finished_at]
        tasks = [LiveTask(part, cancelling=True) for part in left]
        self._dispatcher.tasks.update((task.task_id, task) for task in tasks)
        await self.take_up(kept)
        await self._dispatcher.enqueue_all(tasks)

    # Recovered.

    async def take_up(self, row: DistributionRow) -> None:
        """Go on with a distribution that an earlier owner left; its unfinished parts are known already."""
        rows = await self._registry.store.parts(row.distribution_id)
        known = [self._dispatcher.tasks.get(part.task_id) or LiveTask(part) for part in rows]
        parts = [part for part, kept in zip(known, rows, strict=True) if kept.part != FOLD]
        whole = self._whole(row, parts)
        whole.folding = next(
            (part for part, kept in zip(known, rows, strict=True) if kept.part == FOLD), None
        )
        whole.cancelling = row.cancel_requested_at is not None
        self.living[row.distribution_id] = whole
        if whole.counts.total() == row.total:
            self._all_ended(whole)
        elif whole.cancelling or (row.on_error == "fail_fast" and whole.has_failed):
            self._dispatcher.commits.spawn(self._cancel_parts(whole, "Cancelled."))

    # Cancelled.

    async def cancel(self, whole: LiveDistribution) -> None:
        """Stop all that is left of it; the intent is on disk."""
        await self._cancel_parts(whole, "Cancelled with its distribution.")

    def _one_failed(self, whole: LiveDistribution) -> None:
        if not whole.cancelling:
            whole.cancelling = True
            why = "Cancelled because another item failed (on_error is fail_fast)."
            self._dispatcher.commits.spawn(self._cancel_parts(whole, why))

    async def _cancel_parts(self, whole: LiveDistribution, why: str) -> None:
        left = [part for part in whole.parts if part.task_id in self._dispatcher.tasks]
        if whole.folding is not None and whole.folding.task_id in self._dispatcher.tasks:
            left.append(whole.folding)
        for part in left:
            part.cancelling, part.why_cancelled = True, why
        for at, part in enumerate(left, 1):
            self._dispatcher.call_off(part)
            if at % AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*(self._dispatcher.cancel(part) for part in left if part.launched))

    # Ended.

    def _all_ended(self, whole: LiveDistribution) -> None:
        self._dispatcher.commits.spawn(self._end(whole))

    async def _end(self, whole: LiveDistribution) -> None:
        row = whole.row
        row.status = verdict(whole.counts, row.total, row.on_error)
        if row.cancel_requested_at is not None and whole.counts["cancelled"]:
            row.status = "cancelled"
        status, row.status = row.status, "running"  # it has not ended before it is folded
        if row.strategy == "map_reduce" or row.reduce != "concat":
            try:
                row.reduced = await self._reduced(whole)
            except PoolsError as error:
                told = {
                    "code": error.code,
                    "message": str(error),
                    "retryable": False,
                    "details": error.details,
                }
                row.error = json.dumps(told).encode()
        row.status, row.finished_at = status, time.time()
        ended = EndDistribution(row, whole.event(status))
        await self._dispatcher.commits.landed(ended, patience=float("inf"))
        distribution_ended(row)
        self.living.pop(whole.distribution_id, None)
        whole.over.set()

    async def _reduced(self, whole: LiveDistribution) -> bytes | None:
        rows = [part.row for part in whole.parts]
        if whole.folding is None and whole.row.reduce in FOLDS:
            return await beside(partial(folded, rows, whole.row.reduce), rows)
        if whole.folding is None:
            results = await beside(lambda: results_of(rows), rows)
            if not results:
                return None
            whole.folding = await self._fold_task(whole, results)
        folding: LiveTask = whole.folding
        await folding.ended.wait()
        row = folding.row
        if row.status != "completed":
            error = json.loads(row.error or b"{}")
            message = f"The fold {row.task_type!r} ended as {row.status}: {error.get('message')}"
            details = {"task_id": row.task_id}
            raise PoolsError(error.get("code") or "task_error", message, details=details)
        return row.result

    async def _fold_task(self, whole: LiveDistribution, results: list[Any]) -> LiveTask:
        """The task that folds the results, on any pool that runs its type."""
        first, row = whole.parts[0].row, whole.row
        request = Request(
            task_type=row.reduce,
            payload={"items": results},
            pool=None,
            strategy="least_loaded",
            selector=None,
            affinity_key=None,
            timeout=first.timeout,
            priority=first.priority,
            max_attempts=first.max_attempts,
            idempotency_key=None,
        )
        caller = Caller(name=row.caller, cwd=row.cwd, depth=first.depth)
        task = await beside(lambda: self._intake.row(request, caller), results)
        task.distribution_id, task.part = row.distribution_id, FOLD
        task.trace = tracing.part_of(row.trace, row.distribution_id)
        live = await self._dispatcher.accept(task, self._dispatcher.choose(task))
        assert live is not None, "it has no idempotency key"
        if whole.cancelling:
            live.cancelling = True
            await self._dispatcher.cancel(live)
        return live

    # Shown.

    async def view(self, whole: LiveDistribution) -> Distribution:
        """A distribution that lives, or has just ended, as it stands."""
        row, parts = replace(whole.row, status=whole.status), whole.parts
        return await beside(lambda: distribution_view(row, [shown(part) for part in parts]), parts)

    async def kept(self, distribution_id: str) -> Distribution | None:
        """A distribution as it is kept; `None` when there is none."""
        row = await self._registry.store.distribution(distribution_id)
        if row is None:
            return None
        kept = await self._registry.store.parts(distribution_id)
        parts = [part for part in kept if part.part != FOLD]
        return await beside(lambda: distribution_view(row, parts), parts)


async def beside(work: Callable[[], T], size: Any) -> T:
    """Do work at once when it is little, else on a thread, so that nobody waits for it."""
    few = not isinstance(size, list) or len(size) <= MANY
    return work() if few else await asyncio.to_thread(work)


def error_of(code: str, message: str, details: dict[str, Any]) -> bytes:
    """Why the fold failed, as it is kept."""
    told = {"code": code, "message": message, "retryable": False, "details": details}
    return json.dumps(told).encode()


def shown(part: LiveTask) -> TaskRow:
    """A part's row as it may be shown: an end that is not on disk yet has not happened.

    The event loop may go on with the part meanwhile, so a row that can still change is copied.
    """
    if part.is_over:
        return part.row
    row = replace(part.row, result=None, error=None)
    return replace(row, status="running") if row.status in TERMINAL else row


def results_of(rows: Iterable[TaskRow]) -> list[Any]:
    """The results of the items that succeeded, in their order."""
    found: list[Outcome] = [outcome for row in rows for outcome in outcomes_of(row)]
    return [outcome.result for outcome in found if outcome.status == "completed"]


def folded(rows: Iterable[TaskRow], how: str) -> bytes:
    """The results of the items that succeeded, folded, as JSON."""
    return json.dumps(fold(how, results_of(rows)), ensure_ascii=False).encode()


def digest(request: Request, wanted: Wanted) -> str | None:
    """The same for the same request; of one without a key, nothing."""
    if request.idempotency_key is None:
        return None
    told = [request.digest(), *(getattr(wanted, name) for name in wanted.__dataclass_fields__)]
    return json.dumps(told, default=list)
