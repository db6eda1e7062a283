"""Work that waits on one pool and could run on another: taken over by an idle one, or spread anew.

Only what waits is ever moved, and only where it may go: never what is pinned to its pool,
belongs to its affinity key's, or runs already.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from mcp_pools.distribution import Room, place
from mcp_pools.pool import Lane, LivePool, LiveTask

if TYPE_CHECKING:
    from mcp_pools.registry import Registry

STRATEGIES: Final = ("least_loaded", "round_robin", "random")
"""Those that waiting work can be spread by."""

Move = tuple[LiveTask, LivePool]
"""A waiting task, and where it should wait instead."""


class Balancing:
    """Looks at the queues of a home's pools. Changes nothing but for what it hands out."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def room(self, pool: LivePool) -> Room:
        """How much work a pool can take."""
        idle = max(pool.capacity - len(pool.running), 0)
        room = max(self._registry.settings.max_queue - pool.queued, 0) + idle
        return Room(pool.name, pool.capacity, len(pool.running) + pool.queued, room)

    # Finding work for a pool with free workers.

    def waits_here(self, pool: LivePool, now: float) -> LiveTask | None:
        """Take the best task that waits on a pool and that no limit holds back."""
        return pool.queue.pop(self._admitted(pool, now))

    def idle(self, pool: LivePool) -> int:
        """How many tasks from elsewhere a pool could run at once; 0 while it has its own, or is not well."""
        stays = len(pool.queue) or pool.draining or pool.health == "unhealthy" or pool.adapter is None
        if stays or not self._registry.settings.work_stealing:
            return 0
        waiting = sum(len(other.queue) for other in self._registry.waiting.values())
        return max(0, min(pool.capacity - len(pool.running), waiting))

    def helpers(self, pools: Iterable[LivePool]) -> list[LivePool]:
        """The idle pools that what still waits on `pools` could run on: of each lane the least loaded one."""
        lanes = {lane for pool in pools if len(pool.queue) for lane in pool.queue.lanes if lane.stealable}
        names = {self._registry.fleet.least_loaded(lane.task_type, lane.selector) for lane in lanes}
        found = [self._registry.pools[name] for name in names if name is not None]
        return [pool for pool in found if self.idle(pool)]

    def waits_elsewhere(self, pool: LivePool, now: float) -> LiveTask | None:
        """Take the best task that may leave the pool with the longest queue for its size."""
        admitted = self._admitted(pool, now)

        def may(lane: Lane) -> bool:
            fits = lane.stealable and self._registry.fleet.admits(pool.name, lane.task_type, lane.selector)
            return fits and (admitted is None or admitted(lane))

        for other in sorted(self._registry.waiting.values(), key=_longest):
            if (live := other.queue.pop(may)) is not None:
                self._registry.loaded(other)
                return live
        return None

    def _admitted(self, pool: LivePool, now: float) -> Callable[[Lane], bool] | None:
        """Which lanes' tasks may start on a pool now, as the limits have it; `None`: all."""
        quotas = self._registry.quotas
        return (lambda lane: quotas.refused(pool.name, lane.caller, now) is None) if quotas.limited else None

    # Spreading what waits anew.

    def plan(self, strategy: str, rng: random.Random) -> list[Move]:
        """Which waiting tasks to move so that they lie as `strategy` would place them now.

        Each pool keeps as many of its own as it may: those that are next in turn. What is left over
        goes where room is meant to be.
        """
        rooms = {pool.name: self.room(pool) for pool in self._registry.pools.values() if not pool.draining}
        moves: list[Move] = []
        for (task_type, wanted), waiting in self._movable(rooms).items():
            fitting = self._registry.fleet.rooms(task_type, wanted)
            moves += self._spread(strategy, rng, waiting, [rooms[load.name] for load in fitting])
        return moves

    def _movable(self, rooms: dict[str, Room]) -> dict[Any, list[LiveTask]]:
        """What waits and may be moved, by the question routing is asked for it; not counted in `rooms`."""
        asked: dict[Any, list[LiveTask]] = defaultdict(list)
        for pool in self._registry.pools.values():
            for live in pool.queue if pool.name in rooms else ():
                if live.movable:
                    asked[live.lane.task_type, live.lane.selector].append(live)
                    rooms[pool.name].load -= 1
                    rooms[pool.name].room += 1
        return asked

    def _spread(
        self, strategy: str, rng: random.Random, waiting: Sequence[LiveTask], rooms: Sequence[Room]
    ) -> list[Move]:
        meant = Counter(place(strategy, rooms, len(waiting), rng))
        for room in rooms:
            room.load += meant[room.name]
            room.room -= meant[room.name]
        surplus = []
        for live in waiting:  # in their pools' order: the next in turn stay
            if meant[live.row.pool or ""] > 0:
                meant[live.row.pool or ""] -= 1
            else:
                surplus.append(live)
        places = [name for name, count in meant.items() for _ in range(count)]
        return [(live, self._registry.pools[name]) for live, name in zip(surplus, places, strict=True)]


def _longest(pool: LivePool) -> float:
    return -len(pool.queue) / (pool.capacity or 0.5)


def told(moves: Iterable[tuple[str, str]]) -> str:
    """Moves from one pool to another, in words."""
    counts = Counter(moves)
    if not counts:
        return "Nothing to move: what waits lies as it would be placed now, or may not leave its pool."
    flows = ", ".join(f"{count} from {source} to {to}" for (source, to), count in sorted(counts.items()))
    return f"Moved {flows}."
