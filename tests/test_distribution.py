"""Splitting, placing, counting and folding, held against what the contract says of them."""

import json
import random
from collections import Counter
from copy import deepcopy
from itertools import chain
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp_pools.distribution import (
    FOLDS,
    STRATEGIES,
    WAVES,
    Outcome,
    Room,
    check,
    chunk_outcomes,
    chunk_size,
    fold,
    items_of,
    outcomes,
    place,
    split,
    verdict,
)
from mcp_pools.errors import PoolsError

BAD = ("failed", "timed_out", "cancelled")
NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def rooms_of(draw: st.DrawFn, least: int = 0, most: int = 30) -> list[Room]:
    """Some pools, of which each may be full, small, or without any worker."""
    count = draw(st.integers(1, 7))
    numbers = st.tuples(st.integers(0, 8), st.integers(0, 20), st.integers(least, most))
    return [Room(f"p{at}", *draw(numbers)) for at in range(count)]


def refused(code: str, work: Any, *given: Any) -> PoolsError:
    """How something is refused; it always says what to do next."""
    with pytest.raises(PoolsError) as refusal:
        work(*given)
    assert refusal.value.code == code and refusal.value.message.endswith(".") and refusal.value.next
    return refusal.value


# Items.


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({}, "has no 'items'"),
        ({"items": None}, "has no 'items'"),
        ({"items": []}, "is empty"),
        ({"items": {"a": 1}}, "is a dict, not a list"),
        ({"items": "abc"}, "is a str, not a list"),
        ({"item": [1]}, "has no 'items'"),
    ],
)
def test_no_items_where_they_are_needed_are_refused(payload: dict[str, Any], said: str) -> None:
    """With what the payload has instead, and the tool that needs none."""
    refusal = refused("invalid_payload", items_of, payload)
    assert said in refusal.message and "pool_execute" in refusal.next


@given(st.lists(VALUES, min_size=1))
def test_items_are_taken_as_they_are(items: list[Any]) -> None:
    """Whatever they are, null and nested lists too."""
    assert items_of({"items": items, "x": 1}) is items


# Splitting.


@given(items=st.integers(0, 500), size=st.integers(1, 600))
def test_every_item_is_in_exactly_one_part_and_in_order(items: int, size: int) -> None:
    """All parts but the last are of the asked size, and none is empty."""
    parts = split(items, size)
    assert list(chain.from_iterable(parts)) == list(range(items))
    assert all(len(part) == size for part in parts[:-1])
    assert all(1 <= len(part) <= size for part in parts)


@given(strategy=st.sampled_from(STRATEGIES), size=st.integers(1, 99), items=st.integers(1, 99))
def test_a_given_chunk_size_is_taken(strategy: str, size: int, items: int) -> None:
    """Whatever the strategy, and whatever is free."""
    assert chunk_size(strategy, size, items, [Room("a", 1, 0, 1)]) == size


@given(strategy=st.sampled_from(sorted({*STRATEGIES} - {"map_reduce"})), rooms=rooms_of())
def test_without_a_chunk_size_each_item_is_a_part(strategy: str, rooms: list[Room]) -> None:
    """Only `map_reduce` decides for itself."""
    assert chunk_size(strategy, None, 1000, rooms) == 1


@given(items=st.integers(1, 5000), rooms=rooms_of())
def test_map_reduce_splits_by_what_is_free(items: int, rooms: list[Room]) -> None:
    """As few items a part as give each free worker no more than its share of parts; when none is free,
    by all workers; when there is none at all, as for one.
    """
    free = sum(max(room.capacity - room.load, 0) for room in rooms)
    workers = free or sum(room.capacity for room in rooms) or 1
    size = chunk_size("map_reduce", None, items, rooms)
    assert len(split(items, size)) <= WAVES * workers
    assert size == 1 or len(split(items, size - 1)) > WAVES * workers


def test_map_reduce_counts_no_pool_below_nothing() -> None:
    """A pool that is overloaded takes nothing away from what is free elsewhere."""
    rooms = [Room("busy", 2, 50, 10), Room("free", 4, 1, 10)]
    assert chunk_size("map_reduce", None, 120, rooms) == 120 / (WAVES * 3)


# Placing.


@given(strategy=st.sampled_from(STRATEGIES), rooms=rooms_of(most=9), parts=st.integers(0, 40))
def test_no_pool_gets_more_than_it_has_room_for(strategy: str, rooms: list[Room], parts: int) -> None:
    """And `queue_full` is said exactly when all of them together cannot hold so many."""
    before, room = deepcopy(rooms), sum(room.room for room in rooms)
    if parts > room:
        refusal = refused("queue_full", place, strategy, rooms, parts, random.Random(1))
        assert refusal.retryable and str(parts) in refusal.message and f"{room} more" in refusal.message
    else:
        placed = Counter(place(strategy, rooms, parts, random.Random(1)))
        assert placed.total() == parts
        assert all(placed[each.name] <= each.room for each in rooms)
        assert set(placed) <= {each.name for each in rooms}
    assert rooms == before


def test_a_refusal_names_some_of_many_pools() -> None:
    """Five, and that there are more."""
    rooms = [Room(f"p{at}", 1, 0, 0) for at in range(9)]
    refusal = refused("queue_full", place, "random", rooms, 1, random.Random(1))
    assert "p0, p1, p2, p3, p4, …" in refusal.message and "p5" not in refusal.message


@given(rooms=rooms_of(), parts=st.integers(1, 80))
def test_round_robin_is_even_within_one(rooms: list[Room], parts: int) -> None:
    """Among the pools that have room left; those that have none got all they could take."""
    assume(parts <= sum(room.room for room in rooms))
    placed = Counter(place("round_robin", rooms, parts, random.Random(1)))
    most = max(placed.values())
    assert all(placed[room.name] in (most, most - 1) for room in rooms if placed[room.name] < room.room)


@given(rooms=rooms_of(least=1))
def test_round_robin_goes_in_the_order_of_the_rooms(rooms: list[Room]) -> None:
    """Whose turn it is comes first, and each of them once before any of them again."""
    names = [room.name for room in rooms]
    assert place("round_robin", rooms, len(rooms), random.Random(1)) == names
    if len(rooms) > 1:
        assert place("round_robin", rooms, 1, random.Random(1)) == names[:1]


@given(strategy=st.sampled_from(["least_loaded", "map_reduce"]), rooms=rooms_of(), parts=st.integers(1, 80))
def test_least_loaded_leaves_loads_as_level_as_can_be(strategy: str, rooms: list[Room], parts: int) -> None:
    """No part could have gone to another pool and left that one less loaded than its own is now."""
    assume(parts <= sum(room.room for room in rooms))
    placed = Counter(place(strategy, rooms, parts, random.Random(1)))

    def load(room: Room, more: int = 0) -> float:
        whole = room.load + placed[room.name] + more
        return whole / room.capacity if room.capacity else float("inf")

    takers = [room for room in rooms if placed[room.name]]
    open_ones = [room for room in rooms if placed[room.name] < room.room]
    assert all(load(taker) <= load(other, 1) for taker in takers for other in open_ones)


@given(rooms=rooms_of(least=1), parts=st.integers(1, 80))
def test_a_pool_without_workers_comes_last(rooms: list[Room], parts: int) -> None:
    """It gets work only when nobody else has room for it."""
    able = sum(room.room for room in rooms if room.capacity)
    assume(parts <= sum(room.room for room in rooms))
    placed = Counter(place("least_loaded", rooms, parts, random.Random(1)))
    without = sum(placed[room.name] for room in rooms if not room.capacity)
    assert without == max(parts - able, 0)


def test_least_loaded_is_in_proportion_to_capacity() -> None:
    """Idle pools of 1, 2 and 5 workers get an eighth, a quarter and five eighths of the parts."""
    rooms = [Room("a", 1, 0, 999), Room("b", 2, 0, 999), Room("c", 5, 0, 999)]
    assert Counter(place("least_loaded", rooms, 80, random.Random(1))) == {"a": 10, "b": 20, "c": 50}


@pytest.mark.parametrize("seed", range(5))
def test_random_is_uniform_over_the_pools_that_have_room(seed: int) -> None:
    """Chi-square over 10 pools and 10,000 parts stays under the 99.9 % quantile (27.88, 9 degrees)."""
    rooms = [Room("full", 9, 0, 0), *(Room(f"p{at}", at, at, 10_000) for at in range(10))]
    placed = Counter(place("random", rooms, 10_000, random.Random(seed)))
    assert placed["full"] == 0
    assert sum((placed[f"p{at}"] - 1000) ** 2 / 1000 for at in range(10)) < 27.88


@given(seed=st.integers(), rooms=rooms_of(least=1))
def test_random_placing_is_the_random_numbers(seed: int, rooms: list[Room]) -> None:
    """The same numbers place alike: nothing else decides."""
    parts = sum(room.room for room in rooms)
    first = place("random", rooms, parts, random.Random(seed))
    assert first == place("random", rooms, parts, random.Random(seed))
    assert Counter(first) == {room.name: room.room for room in rooms}


# Outcomes.


@given(result=VALUES, status=st.sampled_from(["queued", "running", "completed", *BAD]))
def test_a_task_that_is_one_item_is_its_outcome(result: Any, status: Any) -> None:
    """Whatever its result looks like."""
    error = {"code": "task_error"} if status in BAD else None
    assert outcomes(status, result, error, None) == [Outcome(status, result, error)]


def test_a_chunk_has_an_outcome_for_each_item_in_their_order() -> None:
    """What its result tells; null as an error is none."""
    error = {"code": "task_error", "message": "no"}
    told = {"items": [{"result": 1}, {"error": error}, {"result": None, "error": None}, {}]}
    assert outcomes("completed", told, None, 4) == [
        Outcome("completed", 1),
        Outcome("failed", None, error),
        Outcome("completed", None),
        Outcome("completed", None),
    ]


@pytest.mark.parametrize("status", ["queued", "running"])
def test_items_that_are_tried_again_have_not_failed(status: Any) -> None:
    """While their chunk waits for its next attempt, or is at it; what succeeded has succeeded."""
    told = {"items": [{"result": 1}, {"error": {"code": "task_error"}}]}
    assert outcomes(status, told, None, 2) == [Outcome("completed", 1), Outcome(status)]


@pytest.mark.parametrize("status", [*BAD, "queued", "running"])
@pytest.mark.parametrize("result", [None, 7, [], {}, {"items": [{"result": 1}]}, {"items": [1, 2, 3]}])
def test_a_chunk_that_tells_of_no_items_gives_its_status_to_all(status: Any, result: Any) -> None:
    """And its error."""
    error = {"code": "worker_lost", "message": "gone"}
    assert outcomes(status, result, error, 3) == [Outcome(status, None, error)] * 3


@given(items=st.integers(0, 4), result=VALUES)
def test_only_an_object_for_each_item_is_what_became_of_them(items: int, result: Any) -> None:
    """Anything else tells nothing."""
    good = [{"result": result}] * items
    assert chunk_outcomes({"items": good}, items) == good
    assert chunk_outcomes({"items": good}, items + 1) is None
    assert chunk_outcomes(good, items) is None and chunk_outcomes(result, 5) is None
    assert chunk_outcomes({"items": [*good, result]}, items + 1) is None or isinstance(result, dict)


# Verdicts.


def oracle(statuses: list[str], on_error: str) -> set[str]:
    """What the contract says of a distribution's status; where it leaves a choice, all of it."""
    if set(statuses) == {"completed"} or (on_error == "collect" and "completed" in statuses):
        return {"completed"}
    if on_error == "fail_fast":
        return {next(status for status in BAD if status in statuses)}
    count = Counter(statuses)
    return {status for status in BAD if count[status] == max(count.values())}


@given(
    statuses=st.lists(st.sampled_from(["completed", *BAD]), min_size=1, max_size=12),
    on_error=st.sampled_from(["collect", "fail_fast"]),
)
def test_the_verdict_is_the_contracts(statuses: list[str], on_error: str) -> None:
    """Under `collect` one success is enough; under `fail_fast` all must succeed."""
    assert verdict(Counter(statuses), len(statuses), on_error) in oracle(statuses, on_error)


@pytest.mark.parametrize(
    ("counts", "on_error", "status"),
    [
        ({"completed": 1, "failed": 99}, "collect", "completed"),
        ({"completed": 99, "failed": 1}, "fail_fast", "failed"),
        ({"failed": 1, "cancelled": 99}, "fail_fast", "failed"),
        ({"timed_out": 1, "completed": 1, "cancelled": 98}, "fail_fast", "timed_out"),
        ({"cancelled": 100}, "collect", "cancelled"),
        ({"cancelled": 100}, "fail_fast", "cancelled"),
        ({"cancelled": 60, "completed": 40}, "fail_fast", "cancelled"),
        ({"failed": 40, "timed_out": 60}, "collect", "timed_out"),
        ({"failed": 50, "timed_out": 50}, "collect", "failed"),
        ({"completed": 100}, "fail_fast", "completed"),
    ],
)
def test_what_a_distribution_ended_as(counts: dict[str, int], on_error: str, status: str) -> None:
    """What was cancelled for a failure is not what a distribution ended for."""
    assert verdict(Counter(counts), 100, on_error) == status


# Folds.


@given(st.lists(VALUES, max_size=6))
def test_concat_takes_anything(results: list[Any]) -> None:
    """Lists one behind the other, by one level; what is no list is an element."""
    whole = [element for each in results for element in (each if isinstance(each, list) else [each])]
    assert fold("concat", results) == whole


def test_concat_opens_one_level_of_lists() -> None:
    """What lies in them stays as it is."""
    assert fold("concat", [[1, [2]], [], "ab", [[[]]], {"a": [1]}]) == [1, [2], "ab", [[]], {"a": [1]}]


@given(st.lists(VALUES, max_size=6))
def test_count_takes_anything(results: list[Any]) -> None:
    """It counts the items that succeeded, not what they returned."""
    assert fold("count", results) == len(results)


@given(st.lists(NUMBERS, max_size=9))
def test_numbers_have_a_sum_a_least_and_a_most(results: list[Any]) -> None:
    """Whole and broken ones alike."""
    assert fold("sum", results) == sum(results)
    assert fold("min", results) == min(results, default=None)
    assert fold("max", results) == max(results, default=None)


@given(st.lists(st.text(max_size=3), min_size=1, max_size=6))
def test_texts_have_a_least_and_a_most_but_no_sum(results: list[str]) -> None:
    """By their characters."""
    assert (fold("min", results), fold("max", results)) == (min(results), max(results))
    assert "result 0 is a text, not a number" in refused("task_error", fold, "sum", results).message


@given(st.lists(st.dictionaries(st.text("abc", max_size=1), VALUES, max_size=3), max_size=5))
def test_merge_makes_one_object(results: list[dict[str, Any]]) -> None:
    """Of a key that several have, the last one's value."""
    before = deepcopy(results)
    pairs = [pair for each in results for pair in each.items()]
    assert fold("merge", results) == dict(pairs)
    assert results == before


@pytest.mark.parametrize(
    ("how", "empty"), [("concat", []), ("sum", 0), ("count", 0), ("min", None), ("max", None), ("merge", {})]
)
def test_of_nothing_there_is_a_fold(how: str, empty: Any) -> None:
    """When no item succeeded."""
    assert fold(how, []) == empty


@pytest.mark.parametrize(
    ("how", "results", "said"),
    [
        ("sum", [1, 2.5, None], "result 2 is null, not a number"),
        ("sum", [True, 1], "result 0 is true or false, not a number"),
        ("sum", [1, [2]], "result 1 is a list, not a number"),
        ("min", [1, "a"], "result 1 is a text, not a number"),
        ("max", ["a", "b", 3], "result 2 is a number, not a text"),
        ("min", ["a", None], "result 1 is null, not a text"),
        ("max", [{}, 1], "result 0 is an object, not a number"),
        ("min", [[1], [2]], "result 0 is a list, not a number"),
        ("merge", [{"a": 1}, [["b", 2]]], "result 1 is a list, not an object"),
        ("merge", ["ab"], "result 0 is a text, not an object"),
        ("merge", [{}, None], "result 1 is null, not an object"),
        ("merge", [{}, 1.5], "result 1 is a number, not an object"),
    ],
)
def test_what_does_not_fit_is_named(how: str, results: list[Any], said: str) -> None:
    """The first that does not, and what it is; the items' own results stand."""
    refusal = refused("task_error", fold, how, results)
    assert repr(how) in refusal.message and said in refusal.message and "stand" in refusal.next


@pytest.mark.parametrize("results", [[1.5e308, 1.5e308], [10**400, 0.5], [9 * 10**4299] * 2])
def test_a_sum_that_cannot_be_written_is_an_error(results: list[Any]) -> None:
    """JSON has no infinity, and Python writes no whole number of more than 4,300 digits."""
    assert "too large" in refused("task_error", fold, "sum", results).message


@given(how=st.sampled_from(sorted(FOLDS)), results=st.lists(VALUES, max_size=5))
def test_a_fold_is_json_or_refused(how: str, results: list[Any]) -> None:
    """Whatever comes, nothing else is raised."""
    try:
        folded = fold(how, results)
    except PoolsError as refusal:
        assert refusal.code == "task_error"
    else:
        assert json.loads(json.dumps(folded, allow_nan=False)) == folded


# Names.


@pytest.mark.parametrize(
    ("strategy", "reduce", "on_error", "said"),
    [
        ("round_robbin", "concat", "collect", "Did you mean 'round_robin'?"),
        ("affinity", "concat", "collect", "broadcast"),
        ("random", "summ", "collect", "Did you mean 'sum'?"),
        ("random", "echos", "collect", "Did you mean 'echo'?"),
        ("random", "concat", "colect", "Did you mean 'collect'?"),
        ("random", "concat", "fail-fast", "Did you mean 'fail_fast'?"),
    ],
)
def test_a_name_that_does_not_exist_gets_the_nearest(
    strategy: str, reduce: str, on_error: str, said: str
) -> None:
    """Or all there are, when none is near."""
    types = {"echo": 1, "compute": 2}
    assert said in refused("invalid_payload", check, strategy, reduce, on_error, types).next


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("reduce", [*FOLDS, "echo"])
def test_every_name_that_exists_is_taken(strategy: str, reduce: str) -> None:
    """A task type may fold, too."""
    for on_error in ("collect", "fail_fast"):
        check(strategy, reduce, on_error, {"echo": 1})
