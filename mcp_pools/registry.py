"""The pools of a home: which there are, opening and closing them, what routing knows of them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mcp_pools import agents, plugins
from mcp_pools.adapter import AdapterEvent, Launch, Surroundings
from mcp_pools.errors import PoolsError, nearest
from mcp_pools.events import tell
from mcp_pools.home import Home
from mcp_pools.models import Caller, Health, HealthReport, Pool, PoolDetail, PoolHealth, PoolList, PoolSpec
from mcp_pools.policy import Judge, child_environment
from mcp_pools.pool import LivePool
from mcp_pools.present import metrics_view
from mcp_pools.routing import Fleet
from mcp_pools.secret import read_secret
from mcp_pools.store import EventRow, Happened, PoolRow, PutPool
from mcp_pools.stores import store_of
from mcp_pools.telemetry import Meters, Uncounted

if TYPE_CHECKING:
    from mcp_pools.settings import Settings
    from mcp_pools.task_type import TaskType

IMPLIED: Final = "local"
"""The pool there is while nobody has configured or registered another."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MOST_WORKERS: Final = 1024


class Registry:
    """The pools of one home, and the store they are kept in.

    `sink` hears what their adapters say; the router sets it. `task_types` are those on offer.
    """

    sink: Callable[[LivePool, AdapterEvent], None]

    def __init__(self, settings: Settings, task_types: Mapping[str, TaskType]) -> None:
        self.settings = settings
        self.home = Home(settings.home)
        self.task_types = task_types
        # Shared by all pools, so that routing compares the sets by identity.
        self._prompted = frozenset({agents.PROMPT})
        self._handled = frozenset(task_types) - self._prompted
        self.store = store_of(settings)
        self.fleet = Fleet(settings.max_queue)
        self.meters = Meters() if settings.metrics else Uncounted()
        self.quotas = settings.quotas()
        self.pools: dict[str, LivePool] = {}
        self.waiting: dict[str, LivePool] = {}
        """Those that tasks wait on."""
        self._registering = asyncio.Lock()

    @asynccontextmanager
    async def owned(self, lock: bool) -> AsyncIterator[None]:
        """Hold the home and its store for as long as the block lasts."""
        self.home.create()
        held = self.home.acquire_lock() if lock else None
        if lock and held is None:
            raise PoolsError(
                "conflict",
                f"Another process owns {self.settings.home}.",
                "Use the console or MCP to share it, or set MCP_POOLS_HOME to another directory.",
            )
        try:
            await self.store.open()
            yield
        finally:
            await self.store.close()
            if held is not None:
                os.close(held)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[None]:
        """Look at the store alone: the pools are known, none is open."""
        try:
            await self.store.open(read_only=True)
            await self.load((), keep=False)
            yield
        finally:
            await self.store.close()

    # Which pools there are.

    async def load(self, in_use: Iterable[str], *, keep: bool = True) -> None:
        """Know every pool: configured ones, stored ones, and those that tasks still speak of."""
        kept = {row.spec.name: row for row in await self.store.pools()}
        for name, spec in self.settings.specs().items():
            row = self._configured(spec, kept.pop(name, None))
            self._know(row)
            if keep:
                await self.store.commit(PutPool(row, self._registered(row)))
        default = implied(self.settings)
        if IMPLIED in kept and kept[IMPLIED].pool_id == IMPLIED:
            default.fixed_workers = kept.pop(IMPLIED).fixed_workers
        for row in kept.values():
            self._know(row).draining = row.configured or row.status == "draining"
        if not self._others():
            self._know(default)
        for name in set(in_use) - set(self.pools):
            row = implied(self.settings)
            row.spec = replace(row.spec, name=name)
            self._know(row).draining = True
        for key, pool in (await self.store.affinities()).items():
            self.fleet.bind(key, pool)

    def _configured(self, spec: PoolSpec, kept: PoolRow | None) -> PoolRow:
        fixed = self.settings.fixed_workers(spec.name)
        if fixed is None and kept is not None:
            fixed = kept.fixed_workers  # scaled since; the configuration does not say otherwise
        pool_id = kept.pool_id if kept else new_pool_id()
        created = kept.created_at if kept else time.time()
        spec = replace(spec, type=plugins.ALIASES.get(spec.type, spec.type))
        return PoolRow(pool_id=pool_id, spec=spec, fixed_workers=fixed, configured=True, created_at=created)

    def _know(self, row: PoolRow) -> LivePool:
        python = row.spec.worker_type == agents.PYTHON
        pool = LivePool(row, self.quotas, self._handled if python else self._prompted)
        self.pools[pool.name] = pool
        self.fleet.put(pool.load())
        return pool

    def _others(self) -> bool:
        return any(not pool.draining and pool.row.pool_id != IMPLIED for pool in self.pools.values())

    def pool(self, name: str) -> LivePool:
        """A pool by name; raises `PoolsError` `unknown_pool`."""
        pool = self.pools.get(name)
        if pool is None:
            raise PoolsError("unknown_pool", f"There is no pool {name!r}.", nearest(name, self.pools))
        return pool

    def accepting(self, name: str, task_type: str) -> LivePool:
        """A pool that may take one more task of a type; raises `PoolsError` when it may not."""
        pool = self.pool(name)
        if task_type not in pool.types:
            raise PoolsError(
                "unsupported",
                f"Pool {name!r} does not run {task_type!r}; it runs {', '.join(sorted(pool.types))}.",
                "Name another pool, or none.",
            )
        if pool.draining:
            raise PoolsError(
                "conflict", f"Pool {name!r} is closing.", "Use another pool; pool_list shows them."
            )
        if pool.queued >= self.settings.max_queue:
            raise PoolsError(
                "queue_full",
                f"Pool {name!r} has {pool.queued} tasks waiting, the most that max_queue allows.",
                "Try again when some have finished, or name no pool.",
                retryable=True,
            )
        return pool

    # What the outside sees of them.

    def view(self, pool: LivePool) -> Pool:
        """A pool as it stands."""
        return pool.view()

    def list(self, *, active_only: bool = False, by_type: str | None = None) -> PoolList:
        """All pools, or those that match, by name."""
        wanted = plugins.ALIASES.get(by_type, by_type) if by_type else None
        found = [
            self.view(pool)
            for _, pool in sorted(self.pools.items())
            if wanted in (None, pool.row.spec.type)
            and (not active_only or pool.status in ("running", "degraded", "starting"))
        ]
        return PoolList(pools=found, total=len(found))

    async def detail(self, name: str, caller: Caller) -> PoolDetail:
        """One pool, whole; of workers whose task the caller may not see, only that they work."""
        pool = self.pool(name)
        workers = [*pool.adapter.workers] if pool.adapter else []
        if not caller.everything:
            own = {live.task_id for live in pool.running.values() if caller.sees(live.row.caller)}
            workers = [each if each.task_id in own else replace(each, task_id=None) for each in workers]
        memory = sum(worker.memory_bytes or 0 for worker in workers)
        view = self.view(pool)
        fields = {name: getattr(view, name) for name in view.__dataclass_fields__}
        metrics = metrics_view(await self.store.history(name), memory)
        return PoolDetail(**fields, worker_rows=workers, metrics=metrics)

    async def health(self, name: str | None = None) -> HealthReport:
        """Check one pool or all of them, at the same time."""
        pools = [self.pool(name)] if name else [pool for _, pool in sorted(self.pools.items())]
        checked = await asyncio.gather(*(self.check(pool) for pool in pools))
        return HealthReport(status=worst(each.status for each in checked), pools=checked)

    async def check(self, pool: LivePool) -> PoolHealth:
        """Ask a pool how it is; a change is an event, and routing's business."""
        before = pool.health
        checked = await pool.check()
        self._offers(pool)
        self._noted(pool, before)
        return checked

    def _noted(self, pool: LivePool, before: Health) -> None:
        self.loaded(pool)
        if pool.health != before:
            data = {"reason": pool.reason} if pool.reason else {}
            event = EventRow(at=time.time(), kind=f"pool.{pool.health}", pool=pool.name, data=data)
            tell(event, {})
            self.store.commit(Happened(event)).add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )

    # What routing knows.

    def loaded(self, pool: LivePool) -> None:
        """Tell routing how a pool stands now."""
        if len(pool.queue):
            self.waiting[pool.name] = pool
        else:
            self.waiting.pop(pool.name, None)
        self.fleet.change(
            pool.name,
            busy=len(pool.running),
            queued=pool.queued,
            healthy=pool.health != "unhealthy",
            open=not pool.draining,
            capacity=pool.capacity,
        )

    # Opening and closing.

    async def start(self, pool: LivePool, orphans: Sequence[Launch]) -> PoolsError | None:
        """Open a pool's adapter, which takes up `orphans`; one that will not open is unhealthy.

        Returns why it refuses its definition, when that is what it does.
        """
        async with pool.opening:
            if pool.adapter is None and pool.row.status != "closed":
                refused = await self._start(pool, orphans)
                await pool.cancel_wanted()
                return refused
        return None

    async def _start(self, pool: LivePool, orphans: Sequence[Launch]) -> PoolsError | None:
        before, refused = pool.health, None
        try:
            kind = plugins.adapter(pool.row.spec.type, self.settings.adapters)
            adapter = kind(pool.row.spec, self._surroundings(pool.row.spec, pool.row.pool_id))
            await pool.scope.enter_async_context(adapter.run(partial(self.sink, pool), orphans))
        except Exception as error:  # one sick pool hurts nobody
            pool.health, pool.reason = "unhealthy", f"it does not open: {error}"
            refused = error if isinstance(error, PoolsError) else None
        else:
            pool.adapter, pool.health, pool.reason = adapter, "healthy", None
            await pool.check()  # one that opens may still be ill: its server is away, say
            pool.resize()
            self._offers(pool)
        self._noted(pool, before)
        return refused

    def _offers(self, pool: LivePool) -> None:
        """Of a pool on another server, know what that server runs."""
        offered = getattr(pool.adapter, "task_types", None)
        if offered is not None and (types := frozenset(self.task_types) & offered) != pool.types:
            pool.types = types
            self.fleet.put(pool.load())

    def _surroundings(self, spec: PoolSpec, pool_id: str = "") -> Surroundings:
        """What a pool's adapter gets; raises `PoolsError` for a worker type unknown or not allowed."""
        agent, passed = agents.resolve(spec.worker_type, self.settings.agents), self.settings.child_env
        if agent is not None:
            Judge(self.settings.allow, (), "/").prompt(spec.worker_type)
            passed = [*passed, *agent.env]
        return Surroundings(
            directory=self.home.run_dir / spec.name,
            environment=child_environment(os.environ, passed),
            memory_bytes=self.settings.worker_memory_limit_bytes or 0,
            agent=agent,
            pool_id=pool_id,
            secret=self._secret,
        )

    def _secret(self, name: str) -> str:
        sources = self.settings.secrets.items()
        return read_secret(
            name, {key: each.model_dump(exclude_none=True, mode="json") for key, each in sources}
        )

    async def register(
        self, *, name: str, type: str, min_workers: int | None, max_workers: int | None, **rest: Any
    ) -> LivePool:
        """Open a new pool. The same definition again is the same pool; another one is a `conflict`."""
        spec = self._spec(name, type, min_workers, max_workers, rest)
        async with self._registering:
            return await self._register(name, spec)

    async def _register(self, name: str, spec: PoolSpec) -> LivePool:
        known = self.pools.get(name)
        if known is not None and (
            known.draining
            or not self.is_implied(known)
            or spec.worker_type != known.row.spec.worker_type  # it has work that the new one could not do
        ):
            return self._unchanged(known, spec)
        kind = plugins.adapter(spec.type, self.settings.adapters)
        if reserved := sorted(getattr(kind, "configured_only", frozenset()) & spec.options.keys()):
            message = f"The option {reserved[0]!r} starts a program, so nobody can register it."
            raise PoolsError("not_allowed", message, "Define the pool under `pools` in the configuration.")
        kind(spec, self._surroundings(spec))  # refuses a definition it cannot serve
        row = PoolRow(pool_id=new_pool_id(), spec=spec, created_at=time.time())
        event = self._registered(row)
        tell(event, {})
        await self.store.commit(PutPool(row, event))
        if known is not None and spec.type == known.row.spec.type:
            return self._adopt(known, row)
        pool = self._know(row)
        if (refused := await self.start(pool, ())) is not None:
            await self.close(pool)
            raise refused
        return pool

    def _registered(self, row: PoolRow) -> EventRow:
        return EventRow(
            at=row.created_at, kind="pool.registered", pool=row.spec.name, data={"type": row.spec.type}
        )

    def _adopt(self, pool: LivePool, row: PoolRow) -> LivePool:
        """The implied pool gets a definition of its own, with its work and its workers."""
        pool.row = row
        pool.draining = False
        if pool.adapter is not None:
            pool.resize()
        self.fleet.put(pool.load())
        return pool

    def is_implied(self, pool: LivePool) -> bool:
        """Whether nobody configured or registered this pool."""
        return pool.row.pool_id == IMPLIED

    async def imply(self) -> None:
        """Open the implied pool, if there is no other now."""
        if not self._others() and IMPLIED not in self.pools:
            await self.start(self._know(implied(self.settings)), ())

    def _spec(
        self, name: str, type: str, least: int | None, most: int | None, rest: dict[str, Any]
    ) -> PoolSpec:
        if not _NAME.fullmatch(name):
            message = f"{name[:80]!r} is no name for a pool."
            raise PoolsError("invalid_payload", message, "Use up to 64 letters, digits, '-', '_' and '.'.")
        defaults = self.settings
        if least is None:
            least = min(defaults.pool_default_min_workers, most or defaults.pool_default_min_workers)
        if most is None:
            most = max(defaults.pool_default_max_workers, least)
        if not (0 <= least <= most <= _MOST_WORKERS and most > 0):
            message = f"min_workers {least} and max_workers {most} do not fit."
            raise PoolsError(
                "invalid_payload",
                message,
                f"Give 0 <= min_workers <= max_workers, and max_workers 1 to {_MOST_WORKERS}.",
            )
        kind = plugins.ALIASES.get(type, type)
        return PoolSpec(name=name, type=kind, min_workers=least, max_workers=most, **rest)

    def _unchanged(self, known: LivePool, spec: PoolSpec) -> LivePool:
        old, new = asdict(known.row.spec), asdict(spec)
        differing = [key for key in new if new[key] != old[key]]
        if not differing and not known.draining:
            return known
        said = "; ".join(f"{key} is {old[key]!r}, not {new[key]!r}" for key in differing) or "it is closing"
        raise PoolsError(
            "conflict",
            f"There is a pool {spec.name!r} already: {said}.",
            "Use it as it is, scale it with pool_scale, close it with pool_close, or choose another name.",
        )

    async def scale(self, name: str, workers: int | None) -> LivePool:
        """Fix a pool's size, or with `None` let it follow its queue."""
        pool = self.pool(name)
        if workers is not None and not 0 <= workers <= _MOST_WORKERS:
            message = f"A pool cannot have {workers} workers."
            raise PoolsError("invalid_payload", message, f"Give 0 to {_MOST_WORKERS}, or auto.")
        before, pool.row.fixed_workers = pool.capacity, workers
        direction = "up" if pool.capacity > before else "down"
        event = EventRow(
            at=time.time(), kind="pool.scaled", pool=name, data={"workers": workers, "direction": direction}
        )
        await self._put(pool, event)
        if pool.adapter is not None:
            pool.resize()
        self.loaded(pool)
        return pool

    async def drain(self, pool: LivePool) -> None:
        """Take nothing new on a pool."""
        pool.draining = True
        pool.row.status = "draining"
        self.loaded(pool)
        await self._put(pool, EventRow(at=time.time(), kind="pool.drained", pool=pool.name))

    async def close(self, pool: LivePool) -> None:
        """Close a pool that is empty."""
        async with pool.opening:
            if pool.row.status == "closed":
                return
            if (discard := getattr(pool.adapter, "discard", None)) is not None:
                with suppress(PoolsError):  # a cluster that does not answer keeps nobody from closing
                    await discard()
            await pool.scope.aclose()
            pool.adapter = None
            pool.row.status = "closed"
            self.fleet.remove(pool.name)
            self.pools.pop(pool.name, None)
            # Whoever closes it as well is told so when it is on disk.
            await self._put(pool, EventRow(at=time.time(), kind="pool.closed", pool=pool.name))

    async def _put(self, pool: LivePool, event: EventRow) -> None:
        """Keep a pool, with what happened to it. Of the implied one only its size is ever read again."""
        tell(event, {})
        await self.store.commit(PutPool(pool.row, event))

    async def close_all(self) -> None:
        """End every adapter; the pools stay."""
        for pool in self.pools.values():
            await pool.scope.aclose()


def worst(healths: Iterable[Health]) -> Health:
    """The worst of them; of none, healthy."""
    order: tuple[Health, ...] = ("healthy", "degraded", "unhealthy")
    return max(healths, key=order.index, default="healthy")


def implied(settings: Settings) -> PoolRow:
    """The pool there is while there is no other."""
    most = settings.pool_default_max_workers
    spec = PoolSpec(
        name=IMPLIED, type="local", min_workers=min(settings.pool_default_min_workers, most), max_workers=most
    )
    return PoolRow(pool_id=IMPLIED, spec=spec)


def new_pool_id() -> str:
    """An id for a pool."""
    return f"p_{os.urandom(12).hex()}"
