"""The core: where decisions meet I/O. One task's life reads top to bottom.

`execute` → policy and schema (`intake`) → a pool (`routing`) → **commit queued** → the id
is given out → `_dispatch` when a slot is free → **commit running** → `_launch` → events →
`_ended` → **commit the end**, fenced → whoever waits wakes.

Rules: nothing is launched that is not on disk as running; an id is given out only for a
task on disk; one change of a task is under way at a time; what an older launch still says
is counted and dropped.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mcp_pools import plugins
from mcp_pools.adapter import Changed, Ended, Printed, Progressed, Returned, Slot, Started
from mcp_pools.errors import PoolsError
from mcp_pools.intake import Intake, Request
from mcp_pools.models import Caller, Cancelled, HealthReport, Pool, PoolDetail, PoolList, Progress, Task
from mcp_pools.pool import LivePool, LiveTask, ProgressReport
from mcp_pools.present import metrics_view, part_of, task_view
from mcp_pools.registry import Registry
from mcp_pools.routing import Fleet
from mcp_pools.settings import Settings, working_directory_defaults
from mcp_pools.states import TERMINAL, Verdict, judge, step
from mcp_pools.store import Accept, EventRow, Prune, PutAffinity, RequestCancel, Store, TaskRow, Update

if TYPE_CHECKING:
    from mcp_pools.adapter import AdapterEvent

RECHECK_SECONDS: Final = 2.0
"""How often pools that are not healthy are asked again."""

PRUNE_SECONDS: Final = 3600.0


@dataclass(slots=True)
class Counters:
    """What the router counts since it opened."""

    fenced_writes: int = 0
    """Words of an older launch, or about a task that had ended: dropped."""
    retries: int = 0
    store_errors: int = 0


class Router:
    """The router of one home. Open it with `Router.open`.

    `caller` says on whose behalf the tools run; `bound` gives the same router for another.
    """

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, lock: bool = True) -> AsyncIterator[Router]:
        """Own the home, recover what an earlier owner left, serve until the block ends.

        Args:
            lock: take the home's lock; an owner process that already holds it says no.

        Raises:
            PoolsError: `conflict` when somebody else owns the home, or it cannot be used.
        """
        registry = Registry(settings)
        async with registry.owned(lock):
            router = cls(settings, registry)
            try:
                await router._recover()
                yield router
            finally:
                await router._close()

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self.store: Store = registry.store
        self.fleet: Fleet = registry.fleet
        self.intake = Intake(settings, registry.task_types)
        self.counters = Counters()
        self.caller = Caller(cwd=os.getcwd())
        self.accepted: list[str] = []
        """Ids of the tasks accepted through this view of the router."""
        self._report: ProgressReport | None = None
        self._live: dict[str, LiveTask] = {}
        self._rng = random.Random(os.urandom(8))  # noqa: S311 - spreads load, guards nothing
        self._background: set[asyncio.Task[None]] = set()
        self._early: list[tuple[LivePool, AdapterEvent]] | None = []
        """What adapters say before all of them are open."""
        self._closing = False
        registry.sink = self._heard

    def bound(self, caller: Caller | None = None, progress: ProgressReport | None = None) -> Router:
        """The same router on behalf of `caller`; `progress` hears how far awaited tasks are."""
        view = copy.copy(self)
        view.caller = caller or self.caller
        view.accepted = []
        view._report = progress
        return view

    @property
    def defaults(self) -> dict[str, Any]:
        """What a tool's arguments are when the caller did not say.

        Raises `PoolsError` when the caller's directory has a file that may not be followed.
        """
        here = working_directory_defaults(self.caller.cwd, self.settings)
        return {"timeout": here.default_timeout, "max_attempts": here.default_max_attempts}

    def unfinished(self) -> int:
        """Tasks that have not ended."""
        return len(self._live)

    # A task's life: accepted, queued, launched, ended.

    async def execute(
        self,
        *,
        task_type: str,
        payload: dict[str, Any],
        pool: str | None = None,
        strategy: str | None = None,
        selector: dict[str, str] | None = None,
        affinity_key: str | None = None,
        timeout: float = 300.0,
        priority: int = 0,
        max_attempts: int = 1,
        idempotency_key: str | None = None,
        wait: bool = True,
    ) -> Task:
        """Accept a task and, with `wait`, wait for its end as long as the caller's patience lasts."""
        chosen = strategy or ("affinity" if affinity_key is not None else self._usual_strategy())
        request = Request(
            task_type=task_type,
            payload=payload,
            pool=pool,
            strategy=chosen,
            selector=selector,
            affinity_key=affinity_key,
            timeout=timeout,
            priority=priority,
            max_attempts=max_attempts,
            idempotency_key=idempotency_key,
        )
        row = self.intake.row(request, self.caller)
        known = await self._already(row)
        if known is not None:
            return await self.task(known.task_id, wait_seconds=float("inf") if wait else 0.0)
        live = await self._accept(row, self._choose(row, pool))
        if live is None:  # the same key, at the same moment
            return await self.execute(**{**asdict(request), "strategy": strategy, "wait": wait})
        self.accepted.append(row.task_id)
        if wait:
            await self._wait(live, float("inf"))
        return self._view(live)

    def _usual_strategy(self) -> str:
        here = working_directory_defaults(self.caller.cwd, self.settings)
        return here.pool_routing_strategy

    async def _already(self, row: TaskRow) -> TaskRow | None:
        """The task this caller submitted under this key before; `conflict` if it was another request."""
        if row.idempotency_key is None:
            return None
        known = await self.store.by_key(row.caller, row.idempotency_key)
        if known is not None and known.request_hash != row.request_hash:
            raise PoolsError(
                "conflict",
                f"The idempotency key {row.idempotency_key!r} belongs to task {known.task_id}, another request.",
                f'Look at that task with pool_task(task_id="{known.task_id}"), or use a new key.',
            )
        return known

    def _choose(self, row: TaskRow, name: str | None) -> LivePool:
        if name is not None:
            return self.registry.accepting(name)
        avoid = row.pool if row.attempt else None
        known = row.affinity_key is not None and self.fleet.home(row.affinity_key) is not None
        chosen = self.fleet.choose(
            row.strategy,
            task_type=row.task_type,
            rng=self._rng,
            selector=row.selector,
            affinity_key=row.affinity_key,
            avoid=avoid,
        )
        if row.affinity_key is not None and row.strategy == "affinity" and not known:
            home = self.fleet.home(row.affinity_key) or chosen
            self._keep(self.store.commit(PutAffinity(row.affinity_key, home)))
        return self.registry.pools[chosen]

    async def _accept(self, row: TaskRow, pool: LivePool) -> LiveTask | None:
        """Keep a new task; started in the same commit when a worker is free. `None`: its key is taken."""
        live = LiveTask(row)
        row.pool, row.pool_type = pool.name, pool.row.spec.type
        slots = self._free_slot(pool, row)
        if slots:
            self._take(pool, live, slots[0])
        self._live[row.task_id] = live
        event = EventRow(
            at=row.created_at,
            kind="task.started" if slots else "task.queued",
            pool=row.pool,
            task_id=row.task_id,
        )
        try:
            kept = await self._landed(Accept(row, event))
        except BaseException:
            self._drop(pool, live)
            raise
        if not kept:
            self._drop(pool, live)
            return None
        if slots:
            self._launch(pool, live)
        else:
            self._enqueue(pool, live)
        return live

    def _free_slot(self, pool: LivePool, row: TaskRow) -> Sequence[Slot]:
        if len(pool.queue) or pool.draining or self.intake.needs_secrets(row) or pool.adapter is None:
            return ()
        return pool.adapter.reserve(1)

    def _take(self, pool: LivePool, live: LiveTask, slot: Slot) -> None:
        """Make a queued task a running one, in memory; whoever calls commits it."""
        row = live.row
        row.status = step(row.task_id, row.status, "start")
        row.attempt += 1
        row.launch += 1
        row.seq, row.worker, row.not_before = slot.seq, slot.worker, None
        row.started_at = time.time()
        live.slot, live.launched = slot, False
        pool.running[row.attempt_id] = live
        self.registry.loaded(pool)

    def _drop(self, pool: LivePool, live: LiveTask) -> None:
        """Forget a task that was not kept."""
        self._live.pop(live.task_id, None)
        if live.slot is not None:
            live.slot.give_back()
            pool.running.pop(live.row.attempt_id, None)
            self._freed(pool)

    def _enqueue(self, pool: LivePool, live: LiveTask) -> None:
        """Let a kept task wait for a slot, from its `not_before` on."""
        delay = (live.row.not_before or 0.0) - time.time()
        if live.cancelling:
            self._finish(
                pool, live, Verdict("cancel"), Ended(live.row.attempt_id, "cancelled", message="Cancelled.")
            )
        elif delay > 0:
            asyncio.get_running_loop().call_later(delay, self._due, live)
        else:
            pool.queue.push(live)
            self._dispatch(pool)

    def _due(self, live: LiveTask) -> None:
        pool = self.registry.pools.get(live.row.pool or "")
        if pool is not None and live.row.status == "queued" and live.task_id in self._live:
            pool.queue.push(live)
            self._dispatch(pool)

    def _dispatch(self, pool: LivePool) -> None:
        """Give the best queued tasks the slots that are free."""
        if pool.adapter is not None and len(pool.queue) and not self._closing:
            for slot in pool.adapter.reserve(len(pool.queue)):
                live = pool.queue.pop()
                if live is None:
                    slot.give_back()
                    continue
                self._take(pool, live, slot)
                row = live.row
                event = EventRow(
                    at=row.started_at or 0.0, kind="task.started", pool=row.pool, task_id=row.task_id
                )
                self._commit(Update(row, row.launch - 1, event), partial(self._launch, pool, live))
        self.registry.loaded(pool)

    def _launch(self, pool: LivePool, live: LiveTask) -> None:
        """The task is on disk as running: run it."""
        row, slot = live.row, live.slot
        assert slot is not None and pool.adapter is not None
        if live.cancelling:
            slot.give_back()
            self._ended(pool, Ended(row.attempt_id, "cancelled", message="Cancelled."))
            return
        launch = self.intake.launch(row)
        if self.intake.needs_secrets(row):
            self._spawn(self._launch_filled(pool, live, slot))
            return
        live.launched, live.slot = True, None
        pool.adapter.launch((launch,))

    async def _launch_filled(self, pool: LivePool, live: LiveTask, slot: Slot) -> None:
        assert pool.adapter is not None
        try:
            launch = await self.intake.filled(self.intake.launch(live.row))
        except PoolsError as error:
            slot.give_back()
            self._ended(pool, Ended(live.row.attempt_id, error.code, message=str(error)))
            return
        live.launched, live.slot = True, None
        pool.adapter.launch((launch,))

    def _heard(self, pool: LivePool, event: AdapterEvent) -> None:
        """What an adapter says."""
        if self._early is not None:
            self._early.append((pool, event))
        elif isinstance(event, Ended):
            self._ended(pool, event)
        elif isinstance(event, Changed):
            self._dispatch(pool)
        elif isinstance(event, Returned):
            self._returned(pool, event.attempt_id)
        elif (live := pool.running.get(event.attempt_id)) is None:
            self.counters.fenced_writes += 1
        elif isinstance(event, Started):
            live.row.started_at = event.at
        elif isinstance(event, Printed):
            live.add_output(event.data)
        elif isinstance(event, Progressed):
            live.progress = Progress(done=event.done, total=event.total, message=event.message)
            for listener in live.listeners:
                listener(event.done, event.total, event.message)

    def _ended(self, pool: LivePool, ended: Ended) -> None:
        """An attempt is over: judge it, keep the verdict, use its slot."""
        live = pool.running.pop(ended.attempt_id, None)
        if live is None:
            self.counters.fenced_writes += 1
            return
        ended = self._within_limits(ended)
        verdict = judge(
            ended.code,
            attempt=live.row.attempt,
            max_attempts=live.row.max_attempts,
            cancelling=live.cancelling,
            jitter=self._rng.random(),
        )
        if verdict.move == "retry":
            self._retry(pool, live, verdict.delay, ended)
        else:
            self._finish(pool, live, verdict, ended)
        self._freed(pool)

    def _within_limits(self, ended: Ended) -> Ended:
        size, limit = len(ended.result or b""), self.settings.max_result_bytes
        if size <= limit:
            return ended
        message = f"The result has {size} bytes; max_result_bytes is {limit}. Write it to a file and return its path."
        return replace(ended, code="result_too_large", result=None, message=message)

    def _freed(self, pool: LivePool) -> None:
        self._dispatch(pool)
        if pool.draining and not pool.running:
            pool.emptied.set()

    def _retry(self, pool: LivePool, live: LiveTask, delay: float, ended: Ended) -> None:
        row = live.row
        self.counters.retries += 1
        row.status = step(row.task_id, row.status, "retry")
        row.not_before = time.time() + delay if delay else None
        row.error = error_bytes(ended)
        to = pool if row.pinned or row.strategy == "affinity" else self._elsewhere(pool, row)
        row.pool, row.pool_type, row.worker = to.name, to.row.spec.type, None
        event = EventRow(
            at=time.time(), kind="task.retried", pool=row.pool, task_id=row.task_id, data={"code": ended.code}
        )
        self._commit(Update(row, row.launch, event), partial(self._enqueue, to, live))

    def _elsewhere(self, pool: LivePool, row: TaskRow) -> LivePool:
        try:
            return self._choose(row, None)
        except PoolsError:
            return pool

    def _returned(self, pool: LivePool, attempt_id: str) -> None:
        """A launch that never started goes back, its attempt unused."""
        live = pool.running.pop(attempt_id, None)
        if live is None:
            self.counters.fenced_writes += 1
            return
        row = live.row
        row.status = step(row.task_id, row.status, "return")
        row.attempt -= 1
        row.worker = row.started_at = None
        self._commit(Update(row, row.launch), partial(self._enqueue, pool, live))

    def _finish(self, pool: LivePool, live: LiveTask, verdict: Verdict, ended: Ended) -> None:
        row = live.row
        row.status = step(row.task_id, row.status, verdict.move)
        row.finished_at = time.time()
        row.result = ended.result
        row.error = None if ended.code is None else error_bytes(ended)
        row.output_tail = live.output
        row.progress = json.dumps(asdict(live.progress)).encode() if live.progress else None
        event = EventRow(at=row.finished_at, kind=f"task.{row.status}", pool=row.pool, task_id=row.task_id)
        self._commit(Update(row, row.launch, event), partial(self._finished, live))

    def _finished(self, live: LiveTask) -> None:
        self._live.pop(live.task_id, None)
        live.wake()

    # Keeping.

    def _commit(self, change: Update, then: Callable[[], None]) -> None:
        """Hand a change over; once it is on disk, `then`. A store in trouble is asked until it is not."""
        change_future = self.store.commit(change)

        def landed(future: asyncio.Future[bool]) -> None:
            if future.cancelled():
                return
            if future.exception() is not None:
                self._spawn(self._insist(change, then))
            elif future.result():
                then()
            else:
                self.counters.fenced_writes += 1
                self._spawn(self._overruled(change.row.task_id))

        change_future.add_done_callback(landed)

    async def _insist(self, change: Update, then: Callable[[], None]) -> None:
        if await self._landed(change, patience=float("inf")):
            then()
        else:
            self.counters.fenced_writes += 1
            await self._overruled(change.row.task_id)

    async def _landed(self, change: Accept | Update | RequestCancel, patience: float = 2.0) -> bool:
        """Hand a change over until the store says what became of it; after `patience` seconds, its error."""
        delay, deadline = 0.05, time.monotonic() + patience
        while True:
            try:
                return await self.store.commit(change)
            except (PoolsError, OSError) as error:
                self.counters.store_errors += 1
                if time.monotonic() + delay > deadline:
                    raise error
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

    async def _overruled(self, task_id: str) -> None:
        """The store knows better how this task stands: it is not ours any more."""
        live = self._live.pop(task_id, None)
        kept = await self.store.task(task_id)
        if live is not None and kept is not None:
            live.row = kept
            live.wake()

    def _keep(self, future: asyncio.Future[bool]) -> None:
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Waiting, looking, cancelling.

    async def _wait(self, live: LiveTask, seconds: float) -> None:
        patience = self.caller.patience
        limit = seconds if patience is None else min(seconds, patience)
        if live.row.status in TERMINAL and live.task_id not in self._live:
            return
        if self._report is not None:
            live.listeners.append(self._report)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if limit == float("inf") else limit):
                await live.ended.wait()
        if self._report is not None:
            live.listeners.remove(self._report)

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
    ) -> Task:
        """A task as it stands, or as it stands after waiting for its end."""
        live = self._live.get(task_id)
        if live is not None:
            if wait_seconds > 0:
                await self._wait(live, wait_seconds)
            view = self._view(live, whole_output=output)
        else:
            view = task_view(await self._kept(task_id), time.time(), whole_output=output)
        if select is None and not offset and limit is None:
            return view
        return replace(view, result=part_of(view.result, select=select, offset=offset, limit=limit))

    async def _kept(self, task_id: str) -> TaskRow:
        row = await self.store.task(task_id)
        if row is None:
            raise PoolsError(
                "unknown_task",
                f"There is no task {task_id[:80]!r}.",
                "Check the id; tasks are forgotten after retention_days.",
            )
        return row

    async def cancel(self, task_id: str) -> Cancelled:
        """Cancel a task; returns when it has ended and its end is on disk."""
        live = self._live.get(task_id)
        if live is None:
            await self._kept(task_id)
            return Cancelled(id=task_id, cancelled=False, already_finished=True)
        if not live.cancelling:
            live.cancelling = True
            await self._landed(RequestCancel(task_id, time.time()))
            await self._stop(live)
        await live.ended.wait()
        done = live.row.status == "cancelled"
        return Cancelled(id=task_id, cancelled=done, already_finished=not done)

    async def cancel_accepted(self) -> None:
        """Cancel what was accepted through this view and has not ended."""
        for task_id in self.accepted:
            if task_id in self._live:
                await self.cancel(task_id)

    async def _stop(self, live: LiveTask) -> None:
        """Stop a task whose cancelling is on disk, wherever it is."""
        row = live.row
        pool = self.registry.pools.get(row.pool or "")
        if live.task_id not in self._live or pool is None or pool.adapter is None:
            return
        if row.status == "running":
            if live.launched:
                await pool.adapter.cancel(row.attempt_id)
        elif pool.queue.remove(row.task_id) is not None or (row.not_before or 0.0) > time.time():
            self._finish(
                pool, live, Verdict("cancel"), Ended(row.attempt_id, "cancelled", message="Cancelled.")
            )
            self.registry.loaded(pool)

    # Pools.

    async def list_pools(self, *, active_only: bool = False, by_type: str | None = None) -> PoolList:
        """All pools, or those that match, by name."""
        wanted = plugins.ALIASES.get(by_type, by_type) if by_type else None
        found = [
            pool.view(self.intake.task_types)
            for _, pool in sorted(self.registry.pools.items())
            if (wanted is None or pool.row.spec.type == wanted)
            and (not active_only or pool.status in ("running", "degraded", "starting"))
        ]
        return PoolList(pools=found, total=len(found))

    async def get_pool(self, name: str) -> PoolDetail:
        """One pool, whole."""
        pool = self.registry.pool(name)
        workers = list(pool.adapter.workers) if pool.adapter else []
        memory = sum(worker.memory_bytes or 0 for worker in workers)
        view = pool.view(self.intake.task_types)
        fields = {name: getattr(view, name) for name in view.__dataclass_fields__}
        metrics = metrics_view(await self.store.history(name), memory)
        return PoolDetail(**fields, worker_rows=workers, metrics=metrics)

    async def register_pool(self, **definition: Any) -> Pool:
        """Open a new pool."""
        pool = await self.registry.register(**definition)
        return pool.view(self.intake.task_types)

    async def scale_pool(self, name: str, workers: int | None) -> Pool:
        """Fix a pool's size, or with `None` let it follow its queue."""
        pool = await self.registry.scale(name, workers)
        self._dispatch(pool)
        return pool.view(self.intake.task_types)

    async def close_pool(self, name: str, *, force: bool = False, drain_timeout: float = 30.0) -> Pool:
        """Close a pool: its queue moves or is cancelled, what runs finishes or is cancelled."""
        pool = self.registry.pool(name)
        await self.registry.drain(pool)
        for live in list(pool.queue):
            await self._leave(pool, live)
        if pool.running and not force:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_timeout):
                    await pool.emptied.wait()
        await asyncio.gather(*(self.cancel(live.task_id) for live in list(pool.running.values())))
        await self.registry.close(pool)
        return pool.view(self.intake.task_types)

    async def _leave(self, pool: LivePool, live: LiveTask) -> None:
        """Move a queued task off a closing pool, or cancel it when no other may run it."""
        row = live.row
        try:
            if row.pinned:
                raise PoolsError("unsupported", "It was pinned to this pool.")
            to = self._choose(row, None)
        except PoolsError:
            await self.cancel(live.task_id)
            return
        if pool.queue.remove(row.task_id) is not None:
            row.pool, row.pool_type = to.name, to.row.spec.type
            event = EventRow(
                at=time.time(), kind="task.moved", pool=to.name, task_id=row.task_id, data={"from": pool.name}
            )
            self._commit(Update(row, row.launch, event), partial(self._enqueue, to, live))

    async def health(self, name: str | None = None) -> HealthReport:
        """Check one pool or all of them, at the same time."""
        pools = [self.registry.pool(name)] if name else [p for _, p in sorted(self.registry.pools.items())]
        checked = await asyncio.gather(*(pool.check() for pool in pools))
        for pool in pools:
            self.registry.loaded(pool)
        statuses = {each.status for each in checked}
        worst = next((s for s in ("unhealthy", "degraded") if s in statuses), "healthy")
        return HealthReport(status=worst, pools=list(checked))  # type: ignore[arg-type]

    # Opening and closing.

    async def _recover(self) -> None:
        """Take up what an earlier owner left: judge what ran, queue what waits, cancel what was to be."""
        for row in await self.store.unfinished():
            self._live[row.task_id] = LiveTask(row)
        await self.registry.load({live.row.pool for live in self._live.values() if live.row.pool})
        for live in self._live.values():
            if live.row.status == "running":
                self.registry.pools[live.row.pool or ""].running[live.row.attempt_id] = live
        for pool in self.registry.pools.values():
            await self.registry.start(pool, [self.intake.launch(live.row) for live in pool.running.values()])
        waiting = [live for live in self._live.values() if live.row.status == "queued"]
        early, self._early = self._early, None
        for pool, event in early or ():
            self._heard(pool, event)
        for live in waiting:
            self._enqueue(self.registry.pools[live.row.pool or ""], live)
        self._spawn(self._watch())
        for pool in [pool for pool in self.registry.pools.values() if pool.draining]:
            self._spawn(self._close_leftover(pool))

    async def _close_leftover(self, pool: LivePool) -> None:
        await self.close_pool(pool.name)

    async def _watch(self) -> None:
        """Ask the pools how they are, open those that would not, forget what is old."""
        prune_at = time.monotonic()
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            for pool in list(self.registry.pools.values()):
                if pool.adapter is None:
                    orphans = [self.intake.launch(live.row) for live in pool.running.values()]
                    await self.registry.start(pool, orphans)
                await pool.check()
                self._dispatch(pool)
            if time.monotonic() > prune_at:
                prune_at = time.monotonic() + PRUNE_SECONDS
                self._keep(self.store.commit(Prune(time.time() - self.settings.retention_days * 86400)))

    async def _close(self) -> None:
        """Stop dispatching, end the adapters, keep what they still said."""
        self._closing = True
        for work in list(self._background):
            work.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.registry.close_all()


def error_bytes(ended: Ended) -> bytes:
    """Why an attempt failed, as it is kept."""
    kept = {"code": ended.code, "message": ended.message, "retryable": ended.retryable}
    return json.dumps({**kept, "details": ended.details}).encode()
