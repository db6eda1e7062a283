"""Which pool takes a task: strategies over a fleet of pools.

Pure: no I/O, no clock, nothing awaited; randomness is an argument.

1. A candidate accepts the task type, matches the selector, and is open.
2. A healthy candidate with room comes before an unhealthy one; a full one is never chosen.
3. Every change costs O(log n) or less, and so does every choice. A *view* keeps the
   candidates of one kind of question ranked; it learns of changes when it is next asked.
4. An affinity key keeps its pool. Only the pool's removal gives the key another.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import Final, Literal, get_args

from mcp_pools.agents import HOW_TO_REGISTER, PROMPT
from mcp_pools.errors import PoolsError, nearest

Strategy = Literal["least_loaded", "round_robin", "random", "affinity", "map_reduce"]
STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)

ANY: Final = frozenset({"*"})
"""The task types of a pool that runs all of them."""

Selector = Mapping[str, str] | Iterable[tuple[str, str]]
"""Labels that a pool must carry, and `region`."""

NAMES: Final = "@names"
TYPE: Final = "@type"
"""Keys of a selector that no label has: names, separated by commas, and a pool type."""

_READY, _UNHEALTHY, _FULL, _FULL_UNHEALTHY = range(4)
_MOST_VIEWS: Final = 64
_MOST_QUESTIONS: Final = 1024
_MOST_STAND_INS: Final = 10_000

_Rank = tuple[int, float, int, str]
"""(tier, load, when last chosen, name): the smallest is the best candidate."""


@dataclass(slots=True, eq=False, kw_only=True)
class PoolLoad:
    """What routing knows of a pool. Once it is in a fleet, change it through `Fleet.change`.

    `capacity` is `max_workers` or the fixed size, not what happens to run. `types` are the
    task types it runs; `ANY` stands for all.
    """

    name: str
    capacity: int
    busy: int = 0
    queued: int = 0
    healthy: bool = True
    open: bool = True
    type: str = "local"
    types: frozenset[str] = ANY
    labels: Mapping[str, str] = field(default_factory=dict)
    region: str = "default"
    chosen: int = field(default=0, init=False)
    """When it was last chosen, in the fleet's own count."""

    @property
    def load(self) -> float:
        """(busy + queued) / capacity; infinite without capacity."""
        return (self.busy + self.queued) / self.capacity if self.capacity else float("inf")

    def matches(self, selector: Mapping[str, str]) -> bool:
        """Whether the pool carries every label of `selector`.

        `region` means the pool's region, `NAMES` one of several names, `TYPE` its type.
        """
        return all(self._carries(key, value) for key, value in selector.items())

    def _carries(self, key: str, value: str) -> bool:
        if key == NAMES:
            return self.name in value.split(",")
        known = {"region": self.region, TYPE: self.type}
        return known.get(key, self.labels.get(key)) == value


class _View:
    """The candidates of one kind of question, kept for three ways of choosing.

    `ranks` is the truth; the heap and the ring hold leftovers that are dropped when they
    surface. A change costs the ring and the list O(1); the heap is brought up to date
    only when it is consulted, in O(log n) a change.
    """

    def __init__(self, fleet: Fleet, kinds: frozenset[frozenset[str]], selector: Mapping[str, str]) -> None:
        self._fleet = fleet
        self._kinds = kinds
        self._selector = dict(selector)
        self._heap: list[_Rank] = []
        self._unheaped: dict[str, None] = {}
        self._ring: deque[str] = deque()
        self._ringed: set[str] = set()
        self._place: dict[str, int] = {}
        self.ready: list[str] = []
        """The candidates that are healthy and have room, in no particular order."""
        self.ranks: dict[str, _Rank] = {}
        self.dirty: dict[str, None] = dict.fromkeys(fleet)
        """Pools that changed since the last question (a dict keeps their order)."""
        self.stand_ins: dict[str, str] = {}
        """Where affinity keys go while their home is ill; forgotten when any health changes."""

    def refresh(self) -> None:
        """Take in what changed since the last question."""
        for name in self.dirty:
            pool = self._fleet.get(name)
            self.place(name, self._fleet.rank(pool) if pool and self._admits(pool) else None)
        self.dirty.clear()

    def _admits(self, pool: PoolLoad) -> bool:
        return pool.open and pool.types in self._kinds and pool.matches(self._selector)

    def place(self, name: str, rank: _Rank | None) -> None:
        """Give a candidate its rank; `None` takes it out of the view."""
        before = self.ranks.get(name)
        if rank == before:
            return
        if rank is None:
            del self.ranks[name]
        else:
            self.ranks[name] = rank
            self._unheaped[name] = None
        if rank is None or before is None or rank[0] != before[0]:
            self.stand_ins.clear()
            if rank and rank[0] == _READY:
                self._admit(name)
            else:
                self._dismiss(name)

    def _admit(self, name: str) -> None:
        if name not in self._place:
            self._place[name] = len(self.ready)
            self.ready.append(name)
        if name not in self._ringed:
            self._ringed.add(name)
            self._ring.append(name)

    def _dismiss(self, name: str) -> None:
        """Fill the hole with the last one; the ring drops the name when it comes round."""
        place = self._place.pop(name, None)
        if place is None:
            return
        last = self.ready.pop()
        if last != name:
            self.ready[place] = last
            self._place[last] = place

    def best(self) -> str:
        """The candidate of the smallest rank; there must be a candidate."""
        self._heap_up()
        heap = self._heap
        while self.ranks.get(heap[0][3]) is not heap[0]:
            heappop(heap)
        return heap[0][3]

    def _heap_up(self) -> None:
        if len(self._heap) + len(self._unheaped) > 2 * len(self.ranks) + 64:
            self._heap = list(self.ranks.values())
            heapify(self._heap)
            self._unheaped.clear()
        for name in self._unheaped:
            rank = self.ranks.get(name)
            if rank is not None and self._heap and self._heap[0][3] == name:
                heapreplace(self._heap, rank)  # the one just chosen: one sift instead of two
            elif rank is not None:
                heappush(self._heap, rank)
        self._unheaped.clear()

    def next_in_turn(self) -> str:
        """Each ready candidate once before any of them again; there must be one."""
        while True:
            name = self._ring.popleft()
            if name in self._place:
                self._ring.append(name)
                return name
            self._ringed.discard(name)

    def any_ready(self, rng: random.Random) -> str:
        """A ready candidate, each as likely as the others; there must be one."""
        return self.ready[int(rng.random() * len(self.ready))]


class Fleet:
    """The pools a router may choose from.

    Args:
        max_queue: tasks that may wait for one pool; at that many it is full.
    """

    def __init__(self, max_queue: int = 10_000) -> None:
        self._max_queue = max_queue
        self._pools: dict[str, PoolLoad] = {}
        self._kinds: dict[frozenset[str], int] = {}
        self._views: dict[object, _View] = {}
        self._asked: dict[object, _View] = {}
        self._homes: dict[str, str] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._pools)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pools)

    def get(self, name: str) -> PoolLoad | None:
        """What is known of a pool, or `None`."""
        return self._pools.get(name)

    def put(self, pool: PoolLoad) -> None:
        """Add a pool, or replace the one of that name."""
        before = self._pools.get(pool.name)
        if before is not None:
            pool.chosen = before.chosen
        self._pools[pool.name] = pool
        self._count_kind(pool.types, +1)
        if before is not None:
            self._count_kind(before.types, -1)
        self._touch(pool.name)

    def remove(self, name: str) -> None:
        """Forget a pool. Affinity keys bound to it find another when next asked for."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            self._count_kind(pool.types, -1)
            self._touch(name)

    def change(
        self,
        name: str,
        *,
        busy: int | None = None,
        queued: int | None = None,
        healthy: bool | None = None,
        open: bool | None = None,
        capacity: int | None = None,
    ) -> None:
        """Set what changed of a pool; `None` leaves a value as it is. Unknown names are ignored."""
        pool = self._pools.get(name)
        if pool is None:
            return
        if busy is not None:
            pool.busy = busy
        if queued is not None:
            pool.queued = queued
        if healthy is not None:
            pool.healthy = healthy
        if open is not None:
            pool.open = open
        if capacity is not None:
            pool.capacity = capacity
        self._touch(name)

    def bind(self, key: str, pool: str) -> None:
        """Give an affinity key its pool, as the store remembers it."""
        self._homes[key] = pool

    def home(self, key: str) -> str | None:
        """The pool an affinity key is bound to; after a first `choose` it should be stored."""
        return self._homes.get(key)

    def rank(self, pool: PoolLoad) -> _Rank:
        """Where a candidate stands among the others: the smaller, the better."""
        full = pool.queued >= self._max_queue
        tier = (_FULL if full else _READY) + (not pool.healthy)
        return (tier, pool.load, pool.chosen, pool.name)

    def candidates(self, task_type: str, selector: Mapping[str, str] | None = None) -> list[str]:
        """The names of all candidates, healthy or not, in alphabetical order; maybe none."""
        return sorted(self._view(task_type, selector or {}).ranks)

    def admits(self, name: str, task_type: str, selector: Selector = ()) -> bool:
        """Whether a pool is a candidate for such a task."""
        return name in self._view(task_type, dict(selector)).ranks

    def least_loaded(self, task_type: str, selector: Selector = ()) -> str | None:
        """The candidate that is loaded least; `None` when there is none. Nobody's turn changes for it."""
        view = self._view(task_type, dict(selector))
        return view.best() if view.ranks else None

    def rooms(self, task_type: str, selector: Selector = (), *, all: bool = False) -> list[PoolLoad]:
        """The candidates that several tasks may be placed on, whose turn is next first: healthy ones,
        or when none is, or `all` are wanted, every one.

        Raises `PoolsError` `unsupported` when there is no candidate.
        """
        wanted = dict(selector)
        view = self._view(task_type, wanted)
        if not view.ranks:
            raise self._unsupported(task_type, wanted)
        pools = [self._pools[name] for name in view.ranks]
        return sorted(
            pools if all else [pool for pool in pools if pool.healthy] or pools,
            key=lambda pool: (pool.chosen, pool.name),
        )

    def placed(self, names: Iterable[str]) -> None:
        """Tasks were placed on these pools, the latest last: it is the others' turn next."""
        for name in reversed(dict.fromkeys(reversed(list(names)))):
            self._count += 1
            self._pools[name].chosen = self._count
            self._touch(name)

    def choose(
        self,
        strategy: str,
        *,
        task_type: str,
        rng: random.Random,
        selector: Mapping[str, str] | None = None,
        affinity_key: str | None = None,
        avoid: str | None = None,
    ) -> str:
        """The name of the pool that should take a task. Its load stays as it is until `change`.

        Args:
            strategy: one of `STRATEGIES`; `map_reduce` places by load.
            selector: labels the pool must carry, and `region`.
            affinity_key: what `affinity` goes by.
            avoid: a pool to pass over while another healthy one has room: the one where
                the last attempt failed. `affinity` does not heed it.

        Raises `PoolsError` `unsupported` (no candidate), `queue_full` (every candidate is
        full, or the affinity key's pool), `invalid_payload` (no such strategy, or
        `affinity` without a key).
        """
        _check(strategy, affinity_key)
        view = self._view(task_type, selector or {})
        if not view.ranks:
            raise self._unsupported(task_type, selector or {})
        if not view.ready and view.ranks[view.best()][0] >= _FULL:
            raise _queue_full(self._max_queue, sorted(view.ranks))
        if strategy == "affinity":
            name = self._at_home(affinity_key or "", view)
        else:
            name = self._pick(strategy, view, rng, avoid)
        self._count += 1
        self._pools[name].chosen = self._count
        self._touch(name)
        return name

    def _pick(self, strategy: str, view: _View, rng: random.Random, avoid: str | None = None) -> str:
        if strategy == "round_robin" and view.ready:
            name = view.next_in_turn()
        elif strategy == "random" and view.ready:
            name = view.any_ready(rng)
        else:
            name = view.best()
        if name != avoid or len(view.ready) < 2:
            return name
        view.place(name, None)
        view.dirty[name] = None  # it comes back with the next question
        return self._pick(strategy, view, rng)

    def _at_home(self, key: str, view: _View) -> str:
        """The pool of an affinity key; a stable stand-in while that one cannot take it."""
        home = self._homes.get(key)
        if home not in self._pools:
            home = self._homes[key] = rendezvous(key, view.ready or view.ranks)
        name = home if home in view.ranks and self._pools[home].healthy else self._stand_in(key, view, home)
        if view.ranks[name][0] >= _FULL:
            raise _queue_full(self._max_queue, [name])
        return name

    def _stand_in(self, key: str, view: _View, home: str) -> str:
        """Another healthy candidate, the same one each time; without any, home after all."""
        if key not in view.stand_ins:
            well = [name for name in view.ranks if self._pools[name].healthy]
            if not well and home in view.ranks:
                return home
            if len(view.stand_ins) >= _MOST_STAND_INS:
                view.stand_ins.clear()
            view.stand_ins[key] = rendezvous(key, well or view.ranks)
        return view.stand_ins[key]

    def _view(self, task_type: str, selector: Mapping[str, str]) -> _View:
        """The view that answers this question, up to date. Task types of the same pools share one."""
        wanted = tuple(sorted(selector.items())) if selector else ()
        question = (task_type, wanted)
        view = self._asked.get(question)
        if view is None:
            if len(self._views) >= _MOST_VIEWS or len(self._asked) >= _MOST_QUESTIONS:
                self._forget_views()
            kinds = frozenset(kind for kind in self._kinds if task_type in kind or "*" in kind)
            view = self._views.get((kinds, wanted)) or _View(self, kinds, selector)
            self._views[kinds, wanted] = self._asked[question] = view
        view.refresh()
        return view

    def _forget_views(self) -> None:
        """Views are only indexes: whoever asks next builds what is needed again, in O(n)."""
        self._views.clear()
        self._asked.clear()

    def _count_kind(self, kind: frozenset[str], by: int) -> None:
        """Count the pools of each set of task types; views are keyed by those sets."""
        if not self._kinds.get(kind):
            self._forget_views()
        self._kinds[kind] = self._kinds.get(kind, 0) + by
        if not self._kinds[kind]:
            del self._kinds[kind]
            self._forget_views()

    def _touch(self, name: str) -> None:
        for view in self._views.values():
            view.dirty[name] = None

    def _unsupported(self, task_type: str, selector: Mapping[str, str]) -> PoolsError:
        wanted = f"task type {task_type!r}"
        if selector:
            wanted += " with " + ", ".join(f"{key.lstrip('@')}={value}" for key, value in selector.items())
        there = "; ".join(map(_described, islice(self._pools.values(), 5))) or "none"
        more = f"; and {len(self) - 5} more" if len(self) > 5 else ""
        next = "Register a pool that does with pool_register, or ask for what pool_list shows."
        if task_type == PROMPT:
            next = HOW_TO_REGISTER
        return PoolsError("unsupported", f"No open pool runs {wanted}. Pools: {there}{more}.", next)


def rendezvous(key: str, names: Iterable[str]) -> str:
    """The name that wins for this key, in every process alike.

    When names come or go, only the keys of those names move. O(n).
    """
    return max(names, key=lambda name: (blake2b(f"{key}\0{name}".encode(), digest_size=8).digest(), name))


def _check(strategy: str, affinity_key: str | None) -> None:
    if strategy not in STRATEGIES:
        raise PoolsError(
            "invalid_payload", f"There is no strategy {strategy!r}.", nearest(strategy, STRATEGIES)
        )
    if strategy == "affinity" and affinity_key is None:
        raise PoolsError(
            "invalid_payload",
            "The strategy 'affinity' needs an affinity_key.",
            "Give affinity_key, or use another strategy.",
        )


def _described(pool: PoolLoad) -> str:
    runs = "everything" if "*" in pool.types else ", ".join(sorted(pool.types)[:12]) or "nothing"
    labels = "".join(f", {key}={value}" for key, value in pool.labels.items())
    return f"{pool.name} (region={pool.region}{labels}, {'open' if pool.open else 'not open'}, runs {runs})"


def _queue_full(limit: int, names: list[str]) -> PoolsError:
    named = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return PoolsError(
        "queue_full",
        f"{named}: {limit} tasks wait already, and max_queue allows no more.",
        "Try again when tasks have finished, or add workers with pool_scale.",
        retryable=True,
    )
