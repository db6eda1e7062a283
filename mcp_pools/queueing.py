"""The queue of one pool: the best waiting task first, and nothing starves.

Pure: no I/O and no clock. The order is fixed when a task is pushed: by
`created_at - priority * AGEING_SECONDS`, then first in, first out. A level of priority is
worth 30 s of waiting, so a task of low priority overtakes the later ones in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

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


T = TypeVar("T", bound=Queueable)


class _Entry(Generic[T]):
    """A place in the queue; `item` is `None` once it was popped or removed."""

    __slots__ = ("created_at", "item", "key")

    def __init__(self, item: T, sequence: int) -> None:
        self.item: T | None = item
        self.created_at = item.created_at
        self.key = (item.created_at - item.priority * AGEING_SECONDS, sequence)


class PoolQueue(Generic[T]):
    """Waiting tasks, best first. `push`, `pop` and `remove` take O(log n), amortised."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry[T]] = {}
        self._heap: list[tuple[tuple[float, int], _Entry[T]]] = []
        self._by_age: list[tuple[float, int, _Entry[T]]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def __iter__(self) -> Iterator[T]:
        """The tasks in the order in which `pop` would give them. O(n log n), of a copy."""
        waiting = sorted(self._entries.values(), key=lambda entry: entry.key)
        return iter([entry.item for entry in waiting if entry.item is not None])

    def push(self, item: T) -> None:
        """Add a task; one of the same id that waits already is replaced."""
        self.remove(item.task_id)
        self._pushed += 1
        entry = self._entries[item.task_id] = _Entry(item, self._pushed)
        heappush(self._heap, (entry.key, entry))
        heappush(self._by_age, (entry.created_at, self._pushed, entry))

    def peek(self) -> T | None:
        """The best task, left where it is; `None` when nothing waits."""
        while self._heap and self._heap[0][1].item is None:
            heappop(self._heap)
        return self._heap[0][1].item if self._heap else None

    def pop(self) -> T | None:
        """Take the best task; `None` when nothing waits."""
        item = self.peek()
        return None if item is None else self.remove(item.task_id)

    def remove(self, task_id: str) -> T | None:
        """Take a task out wherever it stands; `None` when it does not wait here."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return None
        item, entry.item = entry.item, None
        self._compact()
        return item

    def oldest(self, now: float) -> float:
        """Seconds that the longest waiting task has waited by `now`; 0 when nothing waits."""
        while self._by_age and self._by_age[0][2].item is None:
            heappop(self._by_age)
        return max(0.0, now - self._by_age[0][0]) if self._by_age else 0.0

    def _compact(self) -> None:
        """Drop the emptied entries once they outnumber the others."""
        most = 2 * len(self._entries) + 64
        if len(self._heap) > most:
            self._heap = [(entry.key, entry) for entry in self._entries.values()]
            heapify(self._heap)
        if len(self._by_age) > most:
            self._by_age = [(entry.created_at, entry.key[1], entry) for entry in self._entries.values()]
            heapify(self._by_age)
