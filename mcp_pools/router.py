"""The core: what the tools call. Here decisions meet I/O, and nowhere else.

A call becomes a task in `intake` (policy, schema), gets a pool from `routing`, and lives
its life in `dispatcher`; pools come and go in `registry`. An id is given out only for a
task on disk.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from mcp_pools import plugins, tracing
from mcp_pools.balancing import STRATEGIES, told
from mcp_pools.discovery import Finder
from mcp_pools.dispatcher import Dispatcher
from mcp_pools.distribution import check
from mcp_pools.distributor import Distributor, Wanted, digest
from mcp_pools.errors import PoolsError, key_conflict, nearest, unknown_task
from mcp_pools.history import LONGEST_WATCH, History
from mcp_pools.intake import Intake, Request
from mcp_pools.live_distribution import LiveDistribution
from mcp_pools.models import Caller, Cancelled, Discovered, Distribution, Pool, Rebalanced, Task, Watched
from mcp_pools.outward import news_sent, spans_exported
from mcp_pools.pool import LivePool, LiveTask, ProgressReport
from mcp_pools.present import part_of, part_of_distribution, task_view
from mcp_pools.registry import IMPLIED, Registry
from mcp_pools.settings import CallDefaults, Settings, working_directory_defaults
from mcp_pools.store import DistributionRow, Prune, TaskRow

WATCH_SECONDS: Final = 2.0
"""How often the pools are asked how they are."""

PRUNE_SECONDS: Final = 3600.0
_FOREVER: Final = float("inf")


class Router:
    """The router of one home. Open it with `Router.open`.

    `caller` says on whose behalf the tools run; `bound` gives the same router for another.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self.caller = Caller(cwd=os.getcwd())
        self.accepted: list[str] = []
        """Ids of the tasks accepted through this view of the router."""
        self._report: ProgressReport | None = None
        self._intake = Intake(settings, registry.task_types)
        self._rng = random.Random(os.urandom(8))  # noqa: S311 - spreads load, guards nothing
        self.dispatcher = Dispatcher(registry, self._intake, self._rng)
        self.distributor = Distributor(registry, self._intake, self.dispatcher, self._rng)
        self.history = History(registry.store, self._living, settings)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, lock: bool = True) -> AsyncIterator[Router]:
        """Own the home, recover what an earlier owner left, serve until the block ends.

        Args:
            lock: take the home's lock; only an owner that holds it already says no.

        Raises:
            PoolsError: `conflict` when somebody else owns the home, or it cannot be used.
        """
        registry = Registry(settings, plugins.task_types(settings))
        async with (
            spans_exported(),
            registry.owned(lock),
            news_sent(settings, registry.store),
        ):
            router = cls(settings, registry)
            try:
                await router._recover()
                yield router
            finally:
                await router.dispatcher.stop()
                await registry.close_all()

    def bound(self, caller: Caller | None = None, progress: ProgressReport | None = None) -> Router:
        """The same router on behalf of `caller`; `progress` hears how far awaited tasks are."""
        view = copy.copy(self)
        view.caller = caller or self.caller
        view.accepted = []
        view._report = progress
        if view.caller.cwd != self.caller.cwd:
            view.__dict__.pop("_here", None)
        return view

    @cached_property
    def _here(self) -> CallDefaults:
        return working_directory_defaults(self.caller.cwd, self.settings)

    @property
    def defaults(self) -> dict[str, Any]:
        """What a tool's arguments are when the caller did not say.

        Raises `PoolsError` when the caller's directory has a file that may not be followed.
        """
        return {"timeout": self._here.default_timeout, "max_attempts": self._here.default_max_attempts}

    def unfinished(self) -> int:
        """Tasks and distributions that have not ended."""
        return len(self.dispatcher.tasks) + len(self.distributor.living)

    def disowned(self) -> bool:
        """Whether another router has taken the store over: nothing is kept here any more."""
        return self.registry.store.lost

    # Tasks.

    async def execute(self, *, pool: str | None = None, wait: bool = True, **wanted: Any) -> Task:
        """Accept a task and, with `wait`, wait for its end as long as the caller's patience lasts.

        Args:
            wanted: the other arguments of the tool `pool_execute`.
        """
        strategy = wanted.pop("strategy", None)
        if strategy is None:
            affine = wanted.get("affinity_key") is not None
            strategy = "affinity" if affine else self._here.pool_routing_strategy
        request = Request(pool=pool, strategy=strategy, **wanted)
        row = self._intake.row(request, self.caller)
        known = await self._already(row)
        if known is None:
            chosen = (
                self.dispatcher.choose(row) if pool is None else self.registry.accepting(pool, row.task_type)
            )
            live = await self.dispatcher.accept(row, chosen)
            if live is not None:
                self.accepted.append(row.task_id)
                tracing.note(tracing.TASK_ID, row.task_id)
                if wait:
                    await self._wait(live, _FOREVER)
                return self._view(live)
            known = await self._already(row)  # the same key, at the same moment
            assert known is not None
        return await self._task(known.task_id, _FOREVER if wait else 0.0)

    async def _already(self, row: TaskRow) -> TaskRow | None:
        """The task this caller submitted under this key before; `conflict` if it was another request."""
        if row.idempotency_key is None:
            return None
        other = await self.registry.store.distribution_by_key(row.caller, row.idempotency_key)
        known = await self.registry.store.by_key(row.caller, row.idempotency_key)
        if other is not None:
            raise key_conflict(row.idempotency_key, other.distribution_id)
        if known is not None and known.request_hash != row.request_hash:
            raise key_conflict(row.idempotency_key, known.task_id)
        return known

    async def distribute(
        self,
        *,
        pools: list[str] | None,
        pool_filter: str | None,
        reduce: str,
        chunk_size: int | None,
        on_error: str,
        wait: bool,
        **wanted: Any,
    ) -> Distribution:
        """Accept a distribution and, with `wait`, wait for its end as long as the caller's patience lasts.

        Args:
            wanted: the other arguments of the tool `pool_distribute`.
        """
        check(wanted["strategy"], reduce, on_error, self.registry.task_types)
        if chunk_size is not None and chunk_size < 1:
            raise PoolsError("invalid_payload", f"chunk_size is {chunk_size}.", "Give 1 or more.")
        if pools is not None and not pools:
            raise PoolsError("invalid_payload", "pools is empty.", "Name a pool, or leave it out.")
        request = Request(pool=None, affinity_key=None, **wanted)
        spread = Wanted(
            pools=pools, pool_filter=pool_filter, reduce=reduce, chunk_size=chunk_size, on_error=on_error
        )
        known = await self._already_distributed(request, spread)
        if known is None:
            whole = await self.distributor.submit(request, spread, self.caller)
            if whole is None:  # the same key, at the same moment
                known = await self._already_distributed(request, spread)
                assert known is not None
            else:
                known = whole.distribution_id
                self.accepted.append(known)
                tracing.note(tracing.DISTRIBUTION_ID, known)
        return await self._distribution(known, _FOREVER if wait else 0.0)

    async def _already_distributed(self, request: Request, wanted: Wanted) -> str | None:
        """The distribution this caller submitted under this key; `conflict` if it was another request."""
        key = request.idempotency_key
        if key is None:
            return None
        task = await self.registry.store.by_key(self.caller.name, key)
        known = await self.registry.store.distribution_by_key(self.caller.name, key)
        if task is not None:
            raise key_conflict(key, task.task_id)
        if known is not None and known.request_hash != digest(request, wanted):
            raise key_conflict(key, known.distribution_id)
        return None if known is None else known.distribution_id

    async def _distribution(self, distribution_id: str, wait_seconds: float) -> Distribution:
        whole = self.distributor.living.get(distribution_id)
        if whole is not None:
            if wait_seconds > 0:
                await self._wait(whole, wait_seconds)
            return await self.distributor.view(whole)
        kept = await self.distributor.kept(distribution_id)
        if kept is None:
            raise unknown_task(distribution_id)
        return kept

    async def _is_distribution(self, id: str) -> bool:
        """Whether it is a distribution's id; raises `PoolsError` `unknown_task` for another caller's."""
        if id in self.dispatcher.tasks:
            return False
        whole = self.distributor.living.get(id)
        row = whole.row if whole is not None else await self.registry.store.distribution(id)
        if row is not None:
            self._own(row)
        return row is not None

    def _own(self, row: TaskRow | DistributionRow) -> None:
        """Raises what an unknown id raises when this caller may not see it."""
        if not self.caller.sees(row.caller):
            raise unknown_task(row.distribution_id if isinstance(row, DistributionRow) else row.task_id)

    async def rebalance(self, *, strategy: str = "least_loaded", dry_run: bool = False) -> Rebalanced:
        """Spread what waits anew over the pools; with `dry_run` only say how."""
        if strategy not in STRATEGIES:
            raise PoolsError(
                "invalid_payload", f"Nothing is rebalanced by {strategy!r}.", nearest(strategy, STRATEGIES)
            )
        moves = self.dispatcher.balancing.plan(strategy, self._rng)
        moved = [{"task_id": live.task_id, "from": live.row.pool or "", "to": to.name} for live, to in moves]
        why = told((each["from"], each["to"]) for each in moved)
        if not dry_run:
            self.dispatcher.moves.move_all(moves)
        return Rebalanced(moved=moved, why=f"Dry run. {why}" if dry_run else why)

    async def _wait(self, live: LiveTask | LiveDistribution, seconds: float) -> None:
        """Wait for its end, at most `seconds` and as long as the caller's patience lasts."""
        if live.ended.is_set():
            return
        limit = seconds if self.caller.patience is None else min(seconds, self.caller.patience)
        if self._report is not None:
            live.listeners.append(self._report)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if limit == _FOREVER else limit):
                    await live.ended.wait()
        finally:
            if self._report is not None:
                live.listeners.remove(self._report)

    def _living(self, task_id: str) -> Task | None:
        live = self.dispatcher.tasks.get(task_id)
        return None if live is None else self._view(live)

    def _view(self, live: LiveTask, *, whole_output: bool = False) -> Task:
        pool = self.registry.pools.get(live.row.pool or "")
        if pool is None:
            return task_view(live.row, time.time(), whole_output=whole_output)
        return pool.task(live, whole_output=whole_output)

    async def task(
        self,
        task_id: str,
        *,
        wait_seconds: float = 0.0,
        select: str | None = None,
        offset: int = 0,
        limit: int | None = None,
        output: bool = False,
    ) -> Task | Distribution:
        """A task or a distribution as it stands, or as it stands after waiting for its end.

        Of a distribution `select` is of each item's result, `offset` and `limit` are of its items.
        """
        if await self._is_distribution(task_id):
            whole = await self._distribution(task_id, wait_seconds)
            return part_of_distribution(whole, select=select, offset=offset, limit=limit)
        view = await self._task(task_id, wait_seconds, whole_output=output)
        if select is None and not offset and limit is None:
            return view
        return replace(view, result=part_of(view.result, select=select, offset=offset, limit=limit))

    async def _task(self, task_id: str, wait_seconds: float, *, whole_output: bool = False) -> Task:
        live = self.dispatcher.tasks.get(task_id)
        if live is None:
            row = await self._kept(task_id)
            self._own(row)
            return task_view(row, time.time(), whole_output=whole_output)
        self._own(live.row)
        if wait_seconds > 0:
            await self._wait(live, wait_seconds)
        return self._view(live, whole_output=whole_output)

    async def _kept(self, task_id: str) -> TaskRow:
        row = await self.registry.store.task(task_id)
        if row is None:
            raise unknown_task(task_id)
        return row

    async def cancel(self, task_id: str) -> Cancelled:
        """Cancel a task or a distribution; returns when it has ended and its end is on disk.

        A caller whose patience ends before that gets neither `cancelled` nor `already_finished`:
        the intent is kept, and its end will come.
        """
        live = self.dispatcher.tasks.get(task_id) or self.distributor.living.get(task_id)
        if not await self._is_distribution(task_id):
            self._own(live.row if live is not None else await self._kept(task_id))
        if live is None:
            return Cancelled(id=task_id, cancelled=False, already_finished=True)
        await self._patiently(self._called_off(task_id, live))
        done = live.row.status == "cancelled"
        return Cancelled(id=task_id, cancelled=done, already_finished=not done and live.ended.is_set())

    async def _called_off(self, id: str, live: LiveTask | LiveDistribution) -> None:
        """Cancel it, and see it end."""
        if not live.cancelling:
            live.cancelling = True
            await asyncio.shield(self.dispatcher.commits.spawn(self._cancel(id, live)))
        await live.ended.wait()

    async def _patiently(self, work: Awaitable[Any]) -> None:
        """Wait for it as long as the caller's patience lasts."""
        try:
            async with asyncio.timeout(self.caller.patience) as patience:
                await work
        except TimeoutError:
            if not patience.expired():  # the work's own
                raise

    def _unfinished(self, task_id: str) -> LiveTask | LiveDistribution | None:
        return self.distributor.living.get(task_id) or self.dispatcher.tasks.get(task_id)

    async def _cancel(self, id: str, live: LiveTask | LiveDistribution) -> None:
        """Keep the intent, then act on it, also when whoever asked has gone."""
        try:
            await self.dispatcher.keep_cancel(id)
        except BaseException:
            live.cancelling = False
            raise
        if isinstance(live, LiveTask):
            await self.dispatcher.cancel(live)
        else:
            live.row.cancel_requested_at = time.time()
            await self.distributor.cancel(live)

    def withdraw(self) -> None:
        """The caller does not want this call any more: cancel what it had accepted, beside the rest.

        While the owner leaves, a call that ends early is nobody's wish: its task stays.
        """
        for task_id in self.accepted:
            if self._unfinished(task_id) and not self.dispatcher.leaving:
                self.dispatcher.commits.spawn(self._cancel_beside(task_id))

    async def _cancel_beside(self, task_id: str) -> None:
        await self.cancel(task_id)

    def leave(self) -> None:
        """The owner is about to leave: launch nothing more."""
        self.dispatcher.leaving = True

    # Pools.

    async def register(self, **definition: Any) -> Pool:
        """Open a new pool. The implied one, there while there was no other, goes when it is empty."""
        pool = await self.registry.register(**definition)
        default = self.registry.pools.get(IMPLIED)
        if default is not None and self.registry.is_implied(default) and not default.draining:
            default.draining = True
            self.registry.loaded(default)
            self.dispatcher.commits.spawn(self._close_when_empty(default))
        self.dispatcher.stir(pool)
        return self.registry.view(pool)

    async def scale(self, name: str, workers: int | None) -> Pool:
        """Fix a pool's size, or with `None` let it follow its queue."""
        pool = await self.registry.scale(name, workers)
        self.dispatcher.stir(pool)
        return self.registry.view(pool)

    async def close(self, name: str, *, force: bool = False, drain_timeout: float = 30.0) -> Pool:
        """Close a pool: its queue moves or is cancelled, what runs finishes or is cancelled.

        It goes on when its caller is gone, or has no more patience and gets the pool as it stands.
        """
        pool = self.registry.pool(name)
        await self.registry.drain(pool)
        closing = self.dispatcher.commits.spawn(self._close(pool, 0.0 if force else drain_timeout))
        await self._patiently(asyncio.shield(closing))
        return self.registry.view(pool)

    async def _close(self, pool: LivePool, drain_timeout: float) -> None:
        self.dispatcher.moves.vacate(pool)
        if pool.running and drain_timeout > 0:
            pool.emptied.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if drain_timeout == _FOREVER else drain_timeout):
                    await pool.emptied.wait()
        running = list(pool.running.values())
        await asyncio.gather(*(self._called_off(live.task_id, live) for live in running))
        await self.registry.close(pool)
        await self.registry.imply()

    async def _close_when_empty(self, pool: LivePool) -> None:
        if self.registry.pools.get(pool.name) is pool:
            await self.registry.drain(pool)
            await self._close(pool, _FOREVER)

    async def discover(self, *, from_ecosystem: bool = True, auto_register: bool = False) -> Discovered:
        """What could be a pool, asked whether it is there; see `Finder.find`."""
        finder = Finder(self.settings, self.registry, self.caller, self.register)
        return await finder.find(from_ecosystem, auto_register)

    # What happens.

    async def watch(self, cursor: str | None = None, wait_seconds: float = 0.0) -> Watched:
        """What happened since a cursor, and the pools as they stand; see `History.watch`."""
        if not 0 <= wait_seconds <= LONGEST_WATCH:
            given = f"wait_seconds is {wait_seconds}."
            raise PoolsError("invalid_payload", given, f"Give 0 to {LONGEST_WATCH:g}.")
        patience = wait_seconds if self.caller.patience is None else min(wait_seconds, self.caller.patience)
        events, behind = await self.history.watch(cursor, patience, self.caller.narrowed)
        return Watched(events=events, cursor=behind, pools=self.registry.list().pools)

    # Opening.

    async def _recover(self) -> None:
        """Take up what an earlier owner left: judge what ran, queue what waits, cancel what was to be."""
        tasks = self.dispatcher.tasks
        for row in await self.registry.store.unfinished():
            tasks[row.task_id] = LiveTask(row)
        await self.registry.load({live.row.pool for live in tasks.values() if live.row.pool})
        queued = [live for live in tasks.values() if live.row.status == "queued"]
        for live in tasks.values():
            if live.row.status == "running":
                pool = self.registry.pools[live.row.pool or ""]
                pool.running[live.row.attempt_id], live.launched = live, True
                self.registry.quotas.started(pool.name, live.row.caller, time.monotonic())
        for pool in self.registry.pools.values():
            await self._start(pool)
        for distribution in await self.registry.store.unfinished_distributions():
            await self.distributor.take_up(distribution)
        self.dispatcher.listen()  # not before every part has its distribution, which counts how it ends
        for live in queued:
            self.dispatcher.enqueue(self.registry.pools[live.row.pool or ""], live)
        for pool in [pool for pool in self.registry.pools.values() if pool.draining]:
            self.dispatcher.commits.spawn(self._close_when_empty(pool))
        self.dispatcher.commits.spawn(self._watch())

    async def _start(self, pool: LivePool) -> None:
        orphans = [self._intake.launch(live.row, live.row.payload) for live in pool.running.values()]
        await self.registry.start(pool, orphans)

    async def _watch(self) -> None:
        """Ask the pools how they are, open those that would not, forget what is old."""
        prune_at = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.gather(*(self._look_at(pool) for pool in list(self.registry.pools.values())))
            if time.monotonic() > prune_at:
                prune_at = time.monotonic() + PRUNE_SECONDS
                before = time.time() - self.settings.retention_days * 86400
                self.dispatcher.commits.unwatched(Prune(before))

    async def _look_at(self, pool: LivePool) -> None:
        if pool.adapter is None:
            await self._start(pool)
        await self.registry.check(pool)
        self.dispatcher.stir(pool)
