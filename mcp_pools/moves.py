"""Waiting tasks that change their pool: it closes, or `pool_rebalance` says so.

A move is a change of the task, so it is on disk before the task waits elsewhere; until then
it counts as arriving there, lest others take its place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from mcp_pools.adapter import Ended
from mcp_pools.errors import PoolsError
from mcp_pools.pool import LivePool, LiveTask
from mcp_pools.states import Verdict
from mcp_pools.store import TaskRow, Update

if TYPE_CHECKING:
    from mcp_pools.dispatcher import Dispatcher
    from mcp_pools.registry import Registry


class Moves:
    """Moves what waits on the pools of a home."""

    def __init__(self, dispatcher: Dispatcher, registry: Registry) -> None:
        self._dispatcher = dispatcher
        self._registry = registry

    def vacate(self, pool: LivePool) -> None:
        """Send away what waits on a pool that closes: in its queue, or for its next attempt."""
        now = time.time()
        leaving = [
            live
            for live in self._dispatcher.tasks.values()
            if live.row.pool == pool.name
            and live.row.status == "queued"
            and (live.row.not_before or 0.0) > now
        ]
        while (live := pool.queue.pop()) is not None:
            leaving.append(live)
        for live in leaving:
            self.rehome(pool, live)

    def rehome(self, pool: LivePool | None, live: LiveTask) -> None:
        """Move a queued task off a pool that closes; it ends when no other pool may run it."""
        row = live.row
        try:
            if row.pinned:
                raise PoolsError("unsupported", f"It was pinned to pool {row.pool!r}, which has closed.")
            to = self._dispatcher.choose(row)
        except PoolsError as none:
            if none.code != "queue_full":
                self._dispatcher.finish(
                    live, Verdict("cancel"), Ended(row.attempt_id, "cancelled", message=none.message)
                )
                return
            to = self._shortest(row)  # it was accepted once: no bound on queues takes that back
        self.move(live, to)

    def move_all(self, moves: Iterable[tuple[LiveTask, LivePool]]) -> None:
        """Let tasks that wait on one pool wait on another instead."""
        for live, to in moves:
            pool = self._registry.pools[live.row.pool or ""]
            if pool.queue.remove(live.task_id) is not None:
                self._registry.loaded(pool)
                self.move(live, to)

    def move(self, live: LiveTask, to: LivePool) -> None:
        """Let a task that waits in no queue just now wait on another pool."""
        row = live.row
        came_from, row.pool, row.pool_type = row.pool, to.name, to.row.spec.type
        event = self._dispatcher.event(live, "moved", **{"from": came_from})
        live.head_for(to)
        self._registry.loaded(to)
        self._dispatcher.commits.after(
            Update(row, row.launch, event), partial(self._dispatcher.enqueue, to, live)
        )

    def _shortest(self, row: TaskRow) -> LivePool:
        """The pool with the fewest tasks waiting, of those that may run this one."""
        names = self._registry.fleet.candidates(row.task_type, row.selector)
        return min((self._registry.pools[name] for name in names), key=lambda pool: len(pool.queue))
