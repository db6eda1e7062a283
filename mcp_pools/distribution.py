"""Work spread over pools: split, placed, filled, counted, folded.

Pure: no I/O and no clock; randomness is an argument.

1. Parts are contiguous runs of items, in their order: counts and results speak of items,
   whatever the chunking.
2. A part goes to a pool that has room for it; when not all fit, none is placed.
3. A fold sees the results of the items that succeeded, in their order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any, Final, Literal, get_args

from mcp_pools.errors import CODES, PoolsError, nearest
from mcp_pools.models import Status, TaskError

Strategy = Literal["round_robin", "broadcast", "random", "least_loaded", "map_reduce"]
STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)

OnError = Literal["collect", "fail_fast"]

WAVES: Final = 4
"""Parts of `map_reduce` for each free worker: more than one, so that items of unlike cost even out."""


@dataclass(slots=True)
class Room:
    """A pool that parts may go to. `load` is what runs and waits there, `room` how many more may wait."""

    name: str
    capacity: int
    load: int
    room: int


# Splitting.


def items_of(payload: Mapping[str, Any]) -> list[Any]:
    """The work list; raises `PoolsError` `invalid_payload` when there is none."""
    items = payload.get("items")
    if items is None:
        raise _no_items("The payload has no 'items' to distribute")
    if not isinstance(items, list):
        raise _no_items(f"The payload's 'items' is a {type(items).__name__}, not a list")
    if not items:
        raise _no_items("The payload's 'items' is empty: there is nothing to distribute")
    return items


def _no_items(message: str) -> PoolsError:
    return PoolsError(
        "invalid_payload",
        f"{message}.",
        "Give the work as a list under payload.items, or use pool_execute for a single task.",
    )


def chunk_size(strategy: str, given: int | None, items: int, rooms: Sequence[Room]) -> int:
    """Items of one part: what was asked for; else 1, or for `map_reduce` by the pools' free capacity."""
    if given is not None:
        return given
    if strategy != "map_reduce":
        return 1
    free = sum(max(room.capacity - room.load, 0) for room in rooms)
    workers = free or sum(room.capacity for room in rooms) or 1
    return -(-items // (WAVES * workers))


def split(items: int, size: int) -> list[range]:
    """The items of each part, by index: runs of `size`, the last one maybe shorter."""
    return [range(first, min(first + size, items)) for first in range(0, items, size)]


# Placing.


def place(strategy: str, rooms: Sequence[Room], parts: int, rng: random.Random) -> list[str]:
    """The pool of each part. Whose turn it is in `round_robin` is the order of `rooms`.

    Args:
        rooms: the pools that may take a part, at least one; they are not changed.

    Raises:
        PoolsError: `queue_full` when they cannot hold so many.
    """
    if sum(room.room for room in rooms) < parts:
        raise _no_room(rooms, parts)
    left = {room.name: room.room for room in rooms if room.room > 0}
    if strategy == "round_robin":
        return _in_turn(left, parts)
    if strategy == "random":
        return _at_random(left, parts, rng)
    return _least_loaded([room for room in rooms if room.room > 0], left, parts)


def _in_turn(left: dict[str, int], parts: int) -> list[str]:
    placed: list[str] = []
    while len(placed) < parts:
        for name in list(left)[: parts - len(placed)]:
            _put(left, name, placed)
    return placed


def _at_random(left: dict[str, int], parts: int, rng: random.Random) -> list[str]:
    placed: list[str] = []
    names = list(left)
    while len(placed) < parts:
        name = names[int(rng.random() * len(names))]
        _put(left, name, placed)
        if name not in left:
            names.remove(name)
    return placed


def _least_loaded(rooms: Sequence[Room], left: dict[str, int], parts: int) -> list[str]:
    """Each part to the pool that it leaves least loaded: in proportion to what is free."""
    heap = [_rank(room, room.load, at) for at, room in enumerate(rooms)]
    heapify(heap)
    placed: list[str] = []
    while len(placed) < parts:
        _, load, at = heap[0]
        name = rooms[at].name
        if name in left:
            _put(left, name, placed)
            heapreplace(heap, _rank(rooms[at], load + 1, at))
        else:
            heapreplace(heap, (float("inf"), load, at))
    return placed


def _rank(room: Room, load: int, at: int) -> tuple[float, int, int]:
    return ((load + 1) / room.capacity if room.capacity else 1e18, load, at)


def _put(left: dict[str, int], name: str, placed: list[str]) -> None:
    placed.append(name)
    left[name] -= 1
    if not left[name]:
        del left[name]


def _no_room(rooms: Sequence[Room], parts: int) -> PoolsError:
    room = sum(room.room for room in rooms)
    names = ", ".join(each.name for each in rooms[:5]) + (", …" if len(rooms) > 5 else "")
    return PoolsError(
        "queue_full",
        f"{parts} parts do not fit: {names} can queue {room} more, as max_queue has it.",
        "Give a larger chunk_size, fewer items, or try again when work has finished.",
        retryable=True,
    )


# Outcomes.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: its status, and its result or `{"code", "message", ...}`."""

    status: Status
    result: Any = None
    error: dict[str, Any] | None = None


def outcomes(status: Status, result: Any, error: dict[str, Any] | None, items: int | None) -> list[Outcome]:
    """What became of the items of one part, in their order.

    Args:
        status, result, error: how the part's task stands.
        items: how many outcomes its result holds; `None` when the task is one item.
    """
    if items is None:
        return [Outcome(status, result, error)]
    told = chunk_outcomes(result, items)
    if told is None:
        return [Outcome(status, None, error)] * items
    return [_outcome(each, status) for each in told]


def _outcome(told: Mapping[str, Any], status: Status) -> Outcome:
    if told.get("error") is None:
        return Outcome("completed", told.get("result"))
    if status in ("queued", "running"):
        return Outcome(status)  # it is to be tried once more
    return Outcome("failed", None, told["error"])


def chunk_outcomes(result: Any, items: int) -> list[dict[str, Any]] | None:
    """The outcomes that a type that takes items tells of; `None` of what is not one for each item."""
    told = result.get("items") if isinstance(result, dict) else None
    whole = isinstance(told, list) and len(told) == items and all(isinstance(each, dict) for each in told)
    return told if whole else None


def item_error(told: Any) -> TaskError:
    """Why an item failed, in whatever form its task type told it."""
    if not isinstance(told, dict):
        told = {"message": str(told)}
    code, details = told.get("code"), told.get("details")
    return TaskError(
        code=code if isinstance(code, str) and code in CODES else "task_error",
        message=str(told.get("message") or "It failed."),
        retryable=bool(told.get("retryable")),
        details=details if isinstance(details, dict) else {},
    )


def verdict(counts: Mapping[str, int], total: int, on_error: str) -> Status:
    """The status of a distribution all of whose items have ended; `counts` are of their statuses."""
    bad: tuple[Status, ...] = ("failed", "timed_out", "cancelled")
    if counts.get("completed", 0) and (on_error == "collect" or counts["completed"] == total):
        return "completed"
    worst = [status for status in bad if counts.get(status, 0)]
    if on_error == "fail_fast" and worst:
        return worst[0]  # those that were cancelled for it are not what it ended for
    return max(worst, key=lambda status: counts[status], default="completed")


# Folding.


def fold(how: str, results: Sequence[Any]) -> Any:
    """The results as one value; of none `[]`, `{}`, 0 or null.

    Raises:
        PoolsError: `task_error` when they do not fit: naming the first that does not.
    """
    try:
        return FOLDS[how](results)
    except (TypeError, ValueError) as error:
        raise PoolsError(
            "task_error",
            f"The results cannot be folded with {how!r}: {error}.",
            "The items' own results stand; fold them otherwise, or with a task type of your own.",
        ) from None


def _concat(results: Sequence[Any]) -> list[Any]:
    """Lists one behind the other; what is no list is an element of its own."""
    whole: list[Any] = []
    for each in results:
        whole.extend(each) if isinstance(each, list) else whole.append(each)
    return whole


def _sum(results: Sequence[Any]) -> Any:
    numbers = _numbers(results)
    try:
        whole = sum(numbers)
        json.dumps(whole, allow_nan=False)
    except (ValueError, OverflowError):
        raise ValueError("their sum is too large to be written as JSON") from None
    return whole


def _least(results: Sequence[Any]) -> Any:
    return min(_alike(results), default=None)


def _most(results: Sequence[Any]) -> Any:
    return max(_alike(results), default=None)


def _merge(results: Sequence[Any]) -> dict[str, Any]:
    """One object of all their keys; of a key that several have, the last one's value."""
    whole: dict[str, Any] = {}
    for at, each in enumerate(results):
        if not isinstance(each, dict):
            raise TypeError(f"result {at} is {_kind(each)}, not an object")
        whole |= each
    return whole


def _numbers(results: Sequence[Any]) -> Sequence[Any]:
    for at, each in enumerate(results):
        if isinstance(each, bool) or not isinstance(each, int | float):
            raise TypeError(f"result {at} is {_kind(each)}, not a number")
    return results


def _alike(results: Sequence[Any]) -> Sequence[Any]:
    """Numbers, or texts: what has an order that everybody expects. The first result says which."""
    if not results or not isinstance(results[0], str):
        return _numbers(results)
    for at, each in enumerate(results):
        if not isinstance(each, str):
            raise TypeError(f"result {at} is {_kind(each)}, not a text")
    return results


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


FOLDS: Final[dict[str, Callable[[Sequence[Any]], Any]]] = {
    "concat": _concat,
    "sum": _sum,
    "count": len,
    "min": _least,
    "max": _most,
    "merge": _merge,
}
"""The built-in folds. Any other name is that of a task type, which gets `{"items": results}`."""


def check(strategy: str, reduce: str, on_error: str, task_types: Mapping[str, Any]) -> None:
    """Refuse names that do not exist; raises `PoolsError` with the nearest one."""
    if strategy not in STRATEGIES:
        raise PoolsError(
            "invalid_payload",
            f"There is no distribution strategy {strategy!r}.",
            nearest(strategy, STRATEGIES),
        )
    if on_error not in get_args(OnError):
        raise PoolsError(
            "invalid_payload", f"on_error is {on_error!r}.", nearest(on_error, get_args(OnError))
        )
    if reduce not in FOLDS and reduce not in task_types:
        hint = nearest(reduce, [*FOLDS, *task_types])
        raise PoolsError("invalid_payload", f"There is no fold or task type {reduce!r}.", hint)
