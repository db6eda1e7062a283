"""One task's life, from the moment it is accepted to the moment its end is on disk.

`accept` → **commit queued** → `_dispatch` when a slot is free → **commit running** →
`_launch` → `heard` → `_ended` → **commit the end**, fenced → whoever waits wakes. When a
slot is free at once, accepting and starting share one commit.

1. Nothing is launched that is not on disk as running.
2. One change of a task is under way at a time; the next follows when it has landed.
3. What an older launch still says is counted and dropped.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mcp_pools import telemetry
from mcp_pools.adapter import Changed, Ended, Printed, Progressed, Ran, Returned, Slot, Started, Waits
from mcp_pools.balancing import Balancing
from mcp_pools.chunks import still_to_do, whole_chunk
from mcp_pools.commits import Commits
from mcp_pools.counting import count_end, count_start, count_workers
from mcp_pools.errors import PoolsError
from mcp_pools.events import tell
from mcp_pools.models import Progress
from mcp_pools.moves import Moves
from mcp_pools.pool import LivePool, LiveTask
from mcp_pools.states import Verdict, judge, step
from mcp_pools.store import Accept, EventRow, PutAffinity, RequestCancel, TaskRow, Update

if TYPE_CHECKING:
    from mcp_pools.adapter import AdapterEvent
    from mcp_pools.intake import Intake
    from mcp_pools.registry import Registry


AT_ONCE: Final = 500
"""Tasks that are let wait, or called off, before anything else has its turn."""


class Dispatcher:
    """Moves tasks through their lives. `tasks` are those that have not ended, by id."""

    def __init__(self, registry: Registry, intake: Intake, rng: random.Random) -> None:
        self.tasks: dict[str, LiveTask] = {}
        self.meters = registry.meters
        self.commits = Commits(registry.store, self._overruled, self.meters)
        self._registry = registry
        self._intake = intake
        self._rng = rng
        self.balancing = Balancing(registry)
        self.moves = Moves(self, registry)
        self._stirred: dict[str, LivePool] = {}
        self._early: list[tuple[LivePool, AdapterEvent]] | None = []
        self.leaving = False
        """Nothing more is launched."""
        registry.sink = self.heard

    # Accepted: a pool is chosen, the task is kept.

    def choose(self, row: TaskRow) -> LivePool:
        """The pool that should take a task; raises `PoolsError` when none may."""
        fleet, key = self._registry.fleet, row.affinity_key
        began = time.perf_counter()
        affine = row.strategy == "affinity" and key is not None
        known = fleet.home(key or "") if affine else None
        chosen = fleet.choose(
            row.strategy,
            task_type=row.task_type,
            rng=self._rng,
            selector=row.selector,
            affinity_key=key,
            avoid=row.pool if row.attempt else None,
        )
        self.meters.observe(telemetry.ROUTING_SECONDS, time.perf_counter() - began)
        self.meters.add(telemetry.DECISIONS, row.strategy, chosen)
        if affine and fleet.home(key or "") != known:
            self.commits.unwatched(PutAffinity(key or "", fleet.home(key or "") or chosen))
        return self._registry.pools[chosen]

    async def accept(self, row: TaskRow, pool: LivePool) -> LiveTask | None:
        """Keep a new task, and return once it is on disk. `None`: its idempotency key is taken."""
        live = LiveTask(row)
        row.pool, row.pool_type = pool.name, pool.row.spec.type
        slots = self._slot_at_once(pool, row)
        if slots:
            self._take(pool, live, slots[0])
        else:
            pool.arriving += 1
        self._registry.loaded(pool)
        self.tasks[row.task_id] = live
        kind = "task.started" if slots else "task.queued"
        event = EventRow(at=row.created_at, kind=kind, pool=row.pool, task_id=row.task_id)
        tell(event, live.trail.ids)
        try:
            kept = await self.commits.landed(Accept(row, event))
        except BaseException:
            self._drop(pool, live)
            self.commits.spawn(self._disown(live))
            raise
        finally:
            pool.arriving -= not slots
            self._registry.loaded(pool)
        if not kept:
            self._drop(pool, live)
            return None
        self.meters.add(telemetry.SUBMITTED, pool.name, row.task_type)
        live.trail.accepted(row)
        if slots:
            self._launch(pool, live)
        else:
            self.enqueue(pool, live)
        return live

    async def keep_cancel(self, id: str, patience: float = 2.0) -> None:
        """Keep the intent to cancel a task or a distribution."""
        await self.commits.landed(RequestCancel(id, time.time()), patience=patience)

    def _slot_at_once(self, pool: LivePool, row: TaskRow) -> Sequence[Slot]:
        """A free slot for a new task, if nothing waits before it and no limit forbids it."""
        if pool.adapter is None or pool.queued or self.leaving:
            return ()
        if self._registry.quotas.refused(pool.name, row.caller, time.monotonic()) is not None:
            return ()
        return pool.adapter.reserve(1)

    def _drop(self, pool: LivePool, live: LiveTask) -> None:
        """Forget a task that was not kept."""
        self.tasks.pop(live.task_id, None)
        if live.slot is not None:
            live.slot.give_back()
            self._gone(pool, live.row.attempt_id)
            self._freed(pool)

    async def _disown(self, live: LiveTask) -> None:
        """Nobody was told of this task: should it be on disk after all, it ends as cancelled."""
        task_id = live.task_id
        await self.keep_cancel(task_id, patience=float("inf"))
        kept = await self._registry.store.task(task_id)
        if kept is not None:
            live.row, live.cancelling, self.tasks[task_id] = kept, True, live
            message = "It could not be told whether it was accepted."
            self.finish(live, Verdict("cancel"), Ended(kept.attempt_id, "cancelled", message=message))

    # Queued: it waits for a slot.

    async def enqueue_all(self, tasks: Sequence[LiveTask]) -> None:
        """Let kept tasks wait for slots, each on its pool; some at a time, for others wait, too."""
        for first in range(0, len(tasks), AT_ONCE):
            pools = {}
            for live in tasks[first : first + AT_ONCE]:
                pool = live.heading_for or self._registry.pools.get(live.row.pool or "")
                self._queue(pool, live)
                pools[live.row.pool] = pool
            for pool in filter(None, pools.values()):
                self._registry.loaded(pool)
                self.stir(pool)
            await asyncio.sleep(0)

    def enqueue(self, pool: LivePool, live: LiveTask) -> None:
        """Let a kept task wait for a slot, from its `not_before` on."""
        self._queue(pool, live)
        self._registry.loaded(pool)
        self.stir(pool)

    def _queue(self, pool: LivePool | None, live: LiveTask) -> None:
        live.arrive()
        delay = (live.row.not_before or 0.0) - time.time()
        if live.row.status != "queued":
            return  # it was cancelled, or moved and started, while it still was being kept
        if live.cancelling:
            self._cancelled(pool, live)
        elif delay > 0:
            asyncio.get_running_loop().call_later(delay, self._due, live)
        elif pool is None or pool.draining:
            self.moves.rehome(pool, live)
        else:
            pool.queue.push(live)

    def _due(self, live: LiveTask) -> None:
        pool = self._registry.pools.get(live.row.pool or "")
        if live.row.status != "queued" or live.task_id not in self.tasks or self.leaving:
            return
        if pool is None:
            self.moves.rehome(None, live)
        else:
            self.enqueue(pool, live)

    def stir(self, pool: LivePool) -> None:
        """Look for work for a pool, once all that comes in this turn of the event loop is known."""
        if not self._stirred:
            asyncio.get_running_loop().call_soon(self._look_for_work)
        self._stirred[pool.name] = pool

    def _look_for_work(self) -> None:
        """First what waits on each pool itself, then what waits elsewhere."""
        pools, self._stirred = list(self._stirred.values()), {}
        if self.leaving:
            return
        for pool in pools:
            if len(pool.queue):
                self._start(pool, len(pool.queue), self.balancing.waits_here)
        for pool in pools:
            self._take_over(pool)
        if any(self._take_over(helper) for helper in self.balancing.helpers(pools)):
            for pool in pools:  # there may be more to take over, and more who can
                self.stir(pool)

    def _take_over(self, pool: LivePool) -> bool:
        """Let a pool that is idle start what waits elsewhere; whether it did."""
        before = len(pool.running)
        if idle := self.balancing.idle(pool):
            self._start(pool, idle, self.balancing.waits_elsewhere)
        self._registry.loaded(pool)
        return len(pool.running) > before

    def _start(self, pool: LivePool, wanted: int, find: Callable[[LivePool, float], LiveTask | None]) -> None:
        """Give the slots that are free to the best of what is found."""
        now = time.monotonic()
        if pool.adapter is not None and not self._registry.quotas.refused(pool.name, "", now):
            for slot in pool.adapter.reserve(wanted):
                if (live := find(pool, now)) is None:
                    slot.give_back()
                    continue
                came_from, fence = live.row.pool, live.row.launch
                self._take(pool, live, slot)
                moved = {} if came_from == pool.name else {"from": came_from}
                event = self.event(live, "started", **moved)
                self.commits.after(Update(live.row, fence, event), partial(self._launch, pool, live))
        if len(pool.queue):
            self._wait_for_quota(pool, now)

    def event(self, live: LiveTask, kind: str, **data: Any) -> EventRow | None:
        """What happens to a task, to be kept with it; what happens to parts is told by their distribution."""
        if live.whole is not None:
            live.whole.happened(kind)
            return None
        row = live.row
        event = EventRow(at=time.time(), kind=f"task.{kind}", pool=row.pool, task_id=row.task_id, data=data)
        tell(event, live.trail.ids)
        return event

    def _wait_for_quota(self, pool: LivePool, now: float) -> None:
        """Look again when a limit that holds a pool's tasks back lets the next one go."""
        if not self._registry.quotas.limited:
            return
        callers = {lane.caller for lane in pool.queue.lanes}
        refused = [self._registry.quotas.refused(pool.name, caller, now) for caller in callers]
        waits = [each.seconds for each in refused if each is not None and each.seconds is not None]
        if waits and not now < pool.wakes_at <= now + min(waits):
            pool.wakes_at = now + min(waits)
            asyncio.get_running_loop().call_later(min(waits), self.stir, pool)

    # Running: committed, launched, heard of.

    def _take(self, pool: LivePool, live: LiveTask, slot: Slot) -> None:
        """Make a queued task a running one, in memory; whoever calls commits it."""
        row = live.row
        row.status = step(row.task_id, row.status, "start")
        row.attempt += 1
        row.launch += 1
        row.seq, row.worker, row.not_before = slot.seq, slot.worker, None
        row.started_at = time.time()
        row.pool, row.pool_type = pool.name, pool.row.spec.type
        live.slot, live.launched, live.held = slot, False, None
        live.trail.taken(row)
        pool.running[row.attempt_id] = live
        self._registry.quotas.started(pool.name, row.caller, time.monotonic())

    def _launch(self, pool: LivePool, live: LiveTask) -> None:
        """The task is on disk as running: run it, unless somebody has changed their mind."""
        count_start(self.meters, pool.name, live.row)
        live.trail.kept(live.row)
        if live.cancelling:
            self._called_off(pool, live, Ended(live.row.attempt_id, "cancelled", message=live.why_cancelled))
        elif live.row.task_type not in self._intake.task_types:
            message = f"There is no task type {live.row.task_type!r} any more."
            self._called_off(pool, live, Ended(live.row.attempt_id, "unknown_task_type", message=message))
        elif not getattr(pool.adapter, "resolves_secrets", False) and self._intake.needs_secrets(live.row):
            self.commits.spawn(self._launch_filled(pool, live))
        else:
            self._hand_over(pool, live, live.row.payload)

    async def _launch_filled(self, pool: LivePool, live: LiveTask) -> None:
        try:
            payload, live.secrets = await self._intake.filled(live.row.payload)
        except PoolsError as error:
            self._called_off(pool, live, Ended(live.row.attempt_id, error.code, message=str(error)))
            return
        if live.cancelling:
            self._called_off(pool, live, Ended(live.row.attempt_id, "cancelled", message=live.why_cancelled))
        else:
            self._hand_over(pool, live, payload)

    def _hand_over(self, pool: LivePool, live: LiveTask, payload: bytes) -> None:
        assert pool.adapter is not None
        live.launched, live.slot = True, None
        if live.row.items is not None and live.row.result is not None:
            payload = still_to_do(payload, live.row.result)
        pool.adapter.launch((self._intake.launch(live.row, payload),))

    def _called_off(self, pool: LivePool, live: LiveTask, ended: Ended) -> None:
        """End a running task that was never handed over."""
        if live.slot is not None:
            live.slot.give_back()
            live.slot = None
        self._ended(pool, ended)

    def heard(self, pool: LivePool, event: AdapterEvent) -> None:
        """What an adapter says of a launch, or of itself."""
        if self._early is not None:
            self._early.append((pool, event))
        elif isinstance(event, Ended):
            self._ended(pool, event)
        elif isinstance(event, Changed):
            count_workers(self.meters, pool)
            self.stir(pool)
        elif (live := pool.running.get(event.attempt_id)) is None:
            self.meters.add(telemetry.FENCED)
        elif isinstance(event, Started | Waits):
            live.begin(event)
        elif isinstance(event, Printed):
            live.add_output(event.data)
        elif isinstance(event, Progressed):
            live.add_progress(Progress(done=event.done, total=event.total, message=event.message))
        elif isinstance(event, Ran):
            live.trail.ran(event)
        elif isinstance(event, Returned):
            self._returned(pool, live)

    def listen(self) -> None:
        """All pools are open: take in what their adapters have said so far."""
        early, self._early = self._early or [], None
        for pool, event in early:
            self.heard(pool, event)

    # Ended: judged, kept.

    def _ended(self, pool: LivePool, ended: Ended) -> None:
        live = self._gone(pool, ended.attempt_id)
        if live is None:
            self.meters.add(telemetry.FENCED)
            return
        self._freed(pool)
        ended = self._intake.within_limits(self._interrupted(ended))
        if ended.code == "cancelled" and live.cancelling:
            ended = replace(ended, message=live.why_cancelled)
        if live.row.items is not None:
            ended = whole_chunk(live.row, ended)
        live.trail.attempted(live.row, ended)
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
            self.finish(live, verdict, ended)

    def _gone(self, pool: LivePool, attempt_id: str) -> LiveTask | None:
        """A launch runs on a pool no more: its place is free, for others of its caller, too."""
        live = pool.running.pop(attempt_id, None)
        quotas = self._registry.quotas
        if live is not None and quotas.limited:
            quotas.ended(pool.name, live.row.caller)
            for other in self._registry.waiting.values():
                self.stir(other)
        return live

    def _interrupted(self, ended: Ended) -> Ended:
        """A worker lost while the owner leaves was not lost: the owner ended it."""
        if not self.leaving or ended.code != "worker_lost":
            return ended
        message = "Its owner left while it ran; it may have run, in part or in whole."
        return replace(ended, code="interrupted", message=message)

    def _freed(self, pool: LivePool) -> None:
        self.stir(pool)
        if not pool.running:
            pool.emptied.set()

    def _retry(self, pool: LivePool, live: LiveTask, delay: float, ended: Ended) -> None:
        """Another attempt, elsewhere if it may."""
        row = live.row
        self.meters.add(telemetry.RETRIES, pool.name)
        row.status = step(row.task_id, row.status, "retry")
        row.not_before = time.time() + delay if delay else None
        row.error = live.masked(error_bytes(ended))
        row.result = None if ended.result is None else live.masked(ended.result)
        if not row.pinned and row.strategy != "affinity":
            pool = self._elsewhere(pool, row)
        row.pool, row.pool_type, row.worker, row.started_at = pool.name, pool.row.spec.type, None, None
        event = self.event(live, "retried", code=ended.code, attempt=row.attempt)
        self.commits.after(Update(row, row.launch, event), partial(self.enqueue, pool, live))

    def _elsewhere(self, pool: LivePool, row: TaskRow) -> LivePool:
        try:
            return self.choose(row)
        except PoolsError:
            return pool

    def _returned(self, pool: LivePool, live: LiveTask) -> None:
        """A launch that never started goes back, its attempt unused."""
        row = live.row
        self._gone(pool, row.attempt_id)
        live.trail.returned(row)
        row.status = step(row.task_id, row.status, "return")
        row.attempt -= 1
        row.worker = row.started_at = None
        event = self.event(live, "returned")
        self.commits.after(Update(row, row.launch, event), partial(self.enqueue, pool, live))
        self._freed(pool)

    def finish(self, live: LiveTask, verdict: Verdict, ended: Ended) -> None:
        """Keep a task's end, and then tell everybody who waits for it."""
        row = live.row
        row.status = step(row.task_id, row.status, verdict.move)
        row.finished_at = time.time()
        row.result = None if ended.result is None else live.masked(ended.result)
        row.error = None if ended.code is None else live.masked(error_bytes(ended))
        row.output_tail = live.output
        row.progress = live.masked(json.dumps(asdict(live.progress)).encode()) if live.progress else None
        live.trail.ending()
        event = self.event(live, row.status) if live.whole is None else live.whole.ending(live)
        self.commits.after(Update(row, row.launch, event), partial(self._finished, live))

    def _finished(self, live: LiveTask) -> None:
        self.tasks.pop(live.task_id, None)
        count_end(self.meters, live.row)
        live.trail.ended(live.row)
        live.wake()
        if live.whole is not None:
            live.whole.ended_part(live)

    async def _overruled(self, task_id: str) -> None:
        """The store knows better how this task stands: it is not ours any more."""
        live = self.tasks.pop(task_id, None)
        kept = await self._registry.store.task(task_id)
        if live is not None and kept is not None:
            self._give_up(live)
            live.row = replace(kept, part=live.row.part, items=live.row.items)
            live.wake()
            if live.whole is not None:
                live.whole.ended_part(live)

    def _give_up(self, live: LiveTask) -> None:
        """Whatever place a task that is not ours had, or was about to have, is free again."""
        live.arrive()
        pool = self._registry.pools.get(live.row.pool or "")
        if pool is not None and live.slot is not None:
            live.slot.give_back()
            live.slot = None
            self._gone(pool, live.row.attempt_id)
            self._freed(pool)

    # Cancelled.

    async def cancel(self, live: LiveTask) -> None:
        """Stop a task whose cancelling is on disk, wherever it is now; its end follows."""
        pool = self._registry.pools.get(live.row.pool or "")
        if live.task_id not in self.tasks or self.call_off(live):
            return
        if live.row.status == "running" and live.launched and pool is not None and pool.adapter is not None:
            await pool.adapter.cancel(live.row.attempt_id)

    def call_off(self, live: LiveTask) -> bool:
        """End a task that waits as cancelled; `False` when it does not wait just now."""
        row, pool = live.row, self._registry.pools.get(live.row.pool or "")
        queued = pool is not None and pool.queue.remove(row.task_id) is not None
        backs_off = row.status == "queued" and (row.not_before or 0.0) > time.time()
        if queued or backs_off:
            self._cancelled(pool, live)
        return queued or backs_off

    def _cancelled(self, pool: LivePool | None, live: LiveTask) -> None:
        self.finish(
            live, Verdict("cancel"), Ended(live.row.attempt_id, "cancelled", message=live.why_cancelled)
        )
        if pool is not None:
            self._registry.loaded(pool)

    async def stop(self) -> None:
        """Dispatch nothing more."""
        self.leaving = True
        await self.commits.end()


def error_bytes(ended: Ended) -> bytes:
    """Why an attempt failed, as it is kept."""
    kept = {"code": ended.code, "message": ended.message, "retryable": ended.retryable}
    return json.dumps({**kept, "details": ended.details}).encode()
