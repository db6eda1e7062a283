"""The queue of one pool: the best waiting task first, and nothing starves.

Pure: no I/O and no clock. The order is fixed when a task is pushed: by
`created_at - priority * AGEING_SECONDS`, then first in, first out. A level of priority is
worth 30 s of waiting, so a task of low priority overtakes the later ones in the end.

Tasks wait in *lanes*: whoever pops may close some of them, for a caller that has reached
its limit or for what must stay where it is. There are few lanes, a handful a caller.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Final, Generic, Protocol, TypeVar

AGEING_SECONDS: Final = 30.0
"""How many seconds of waiting one level of priority is worth."""


class Queueable(Protocol):
    """What the queue needs of a task. `created_at` is in Unix seconds."""

    @property
    def task_id(self) -> str:
        """Its name, unique in the queue."""

    @property
    def priority(self) -> int:
        """The higher, the sooner."""

    @property
    def created_at(self) -> float:
        """When it was accepted, however often it came back since."""

    @property
    def lane(self) -> Hashable:
        """Which of the queue's lanes it waits in."""


T = TypeVar("T", bound=Queueable)


class _Entry(Generic[T]):
    """A place in the queue; `item` is `None` once it was popped or removed."""

    __slots__ = ("item", "key", "sequence")

    def __init__(self, item: T, sequence: int) -> None:
        self.item: T | None = item
        self.key = item.created_at - item.priority * AGEING_SECONDS
        self.sequence = sequence


_Heap = list[tuple[float, int, _Entry[T]]]


class PoolQueue(Generic[T]):
    """Waiting tasks, best first. `push`, `pop` and `remove` take O(log n), amortised, and a look at
    each lane.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry[T]] = {}
        self._lanes: dict[Hashable, _Heap[T]] = {}
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def __iter__(self) -> Iterator[T]:
        """The tasks in the order in which `pop` would give them. O(n log n), of a copy."""
        waiting = sorted(self._entries.values(), key=lambda entry: (entry.key, entry.sequence))
        return iter([entry.item for entry in waiting if entry.item is not None])

    @property
    def lanes(self) -> list[Any]:
        """The lanes that tasks wait in; maybe some that have become empty."""
        return list(self._lanes)

    def push(self, item: T) -> None:
        """Add a task; one of the same id that waits already is replaced."""
        self.remove(item.task_id)
        self._pushed += 1
        entry = self._entries[item.task_id] = _Entry(item, self._pushed)
        heappush(self._lanes.setdefault(item.lane, []), (entry.key, entry.sequence, entry))

    def peek(self, may: Callable[[Any], bool] | None = None) -> T | None:
        """The best task in a lane that `may` admits, left where it is; `None` when none waits there."""
        heads = [self._head(lane) for lane in tuple(self._lanes) if may is None or may(lane)]
        best = min(filter(None, heads), default=None)
        return None if best is None else best[2].item

    def _head(self, lane: Hashable) -> tuple[float, int, _Entry[T]] | None:
        heap = self._lanes[lane]
        while heap and heap[0][2].item is None:
            heappop(heap)
        if not heap:
            del self._lanes[lane]
            return None
        return heap[0]

    def pop(self, may: Callable[[Any], bool] | None = None) -> T | None:
        """Take the best task in a lane that `may` admits; `None` when none waits there."""
        item = self.peek(may)
        return None if item is None else self.remove(item.task_id)

    def remove(self, task_id: str) -> T | None:
        """Take a task out wherever it stands; `None` when it does not wait here."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return None
        item, entry.item = entry.item, None
        if item is not None:
            self._compact(item.lane)
        return item

    def oldest(self, now: float) -> float:
        """Seconds that the longest waiting task has waited by `now`; 0 when nothing waits. O(n)."""
        waiting = [entry.item.created_at for entry in self._entries.values() if entry.item is not None]
        return max(0.0, now - min(waiting)) if waiting else 0.0

    def _compact(self, lane: Hashable) -> None:
        """Drop a lane's emptied entries once they outnumber all that wait."""
        heap = self._lanes.get(lane, [])
        if len(heap) > 2 * len(self._entries) + 64:
            kept = [each for each in heap if each[2].item is not None]
            heapify(kept)
            self._lanes[lane] = kept
