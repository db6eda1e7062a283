"""Limits against a clock of the test's own: never too much, and no longer than they must."""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import deepcopy
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.quotas import Kind, Limit, Quotas

RATES = st.none() | st.sampled_from([0.1, 0.5, 1.0, 2.5, 10.0, 1000.0])
LIMITS = st.builds(
    Limit,
    rate=RATES,
    burst=st.none() | st.integers(1, 5),
    concurrency=st.none() | st.integers(1, 4),
)
GLOBS = st.sampled_from(["a", "b", "*", "a*", "?", "[ab]", "c"])
NAMES = st.sampled_from(["a", "b", "ab"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "start", "start", "end"]), NAMES, NAMES, st.integers(0, 100)),
    max_size=60,
)
BEGIN = 100_000.0
"""Monotonic clocks begin anywhere."""
HAIR = 1e-3
"""Starts that rounding may give away, in all of a test."""


def most_at_once(limit: Limit) -> float:
    """Starts after a quiet time: what was said, else a second's worth, at least 1."""
    return limit.burst or max(1.0, limit.rate or 0.0)


def busy(pools: dict[str, Limit], callers: dict[str, Limit] | None = None) -> tuple[Quotas, Any]:
    """Limits, and a way to start as many tasks as they let at a time; it returns how many."""
    quotas = Quotas(pools, callers)

    def start(pool: str, caller: str, now: float, most: int = 100) -> int:
        for count in range(most):
            if quotas.refused(pool, caller, now) is not None:
                return count
            quotas.started(pool, caller, now)
        return most

    return quotas, start


# Against the definition.


@given(
    pools=st.dictionaries(GLOBS, LIMITS, max_size=3),
    callers=st.dictionaries(GLOBS, LIMITS, max_size=3),
    steps=STEPS,
)
def test_no_limit_is_ever_passed_whatever_happens(
    pools: dict[str, Limit], callers: dict[str, Limit], steps: list[tuple[str, str, str, int]]
) -> None:
    """Each limit, for each name that it matches: in any window at most `burst` starts and `rate` more a
    second, at any time at most `concurrency` running. Waiting just as long as was said is enough, and half
    as long is not.
    """
    quotas, clock = Quotas(pools, callers), BEGIN
    starts: defaultdict[tuple[Kind, str], list[float]] = defaultdict(list)
    running: Counter[tuple[Kind, str]] = Counter()
    places: list[tuple[str, str]] = []
    for step, pool, caller, tenths in steps:
        clock += tenths / 10
        if step == "end" and places:
            quotas.ended(*places[0])
            running.subtract(zip(("pool", "caller"), places.pop(0), strict=True))
        elif step == "start" and (refused := quotas.refused(pool, caller, clock)) is None:
            quotas.started(pool, caller, clock)
            places.append((pool, caller))
            running.update(zip(("pool", "caller"), (pool, caller), strict=True))
            starts["pool", pool].append(clock)
            starts["caller", caller].append(clock)
        elif step == "start" and refused is not None and refused.seconds is not None:
            assert deepcopy(quotas).refused(pool, caller, clock + refused.seconds) is None
            if refused.seconds > HAIR:
                assert deepcopy(quotas).refused(pool, caller, clock + refused.seconds / 2) is not None
        for kind, limits in (("pool", pools), ("caller", callers)):
            for glob, limit in limits.items():
                most = float("inf") if limit.concurrency is None else limit.concurrency
                assert all(
                    count <= most for (of, name), count in running.items() if of == kind and match(name, glob)
                )
    for kind, limits in (("pool", pools), ("caller", callers)):
        for glob, limit in limits.items():
            for (of, name), times in starts.items():
                if of == kind and match(name, glob) and limit.rate is not None:
                    within_rate(limit, limit.rate, times)


def match(name: str, glob: str) -> bool:
    """Whether a limit is one for this name."""
    return fnmatchcase(name, glob)


def within_rate(limit: Limit, rate: float, times: list[float]) -> None:
    """In every window that begins and ends with a start."""
    for (first, since), (last, until) in combinations(enumerate(times), 2):
        assert last - first + 1 <= most_at_once(limit) + rate * (until - since) + HAIR


@given(limit=LIMITS, quiet=st.floats(0, 1e6), name=NAMES)
def test_after_a_quiet_time_as_many_start_as_may(limit: Limit, quiet: float, name: str) -> None:
    """However quiet it was, no more than the burst; and all of it once it has come back."""
    _, start = busy({name: limit})
    rate = float("inf") if limit.rate is None else most_at_once(limit)
    most = min(int(rate + 1e-6) if rate < 50 else 50, limit.concurrency or 50)
    assert start(name, "x", BEGIN + quiet, 50) == most


@given(rate=st.sampled_from([0.1, 1.0, 7.0, 250.0]), burst=st.integers(1, 5), starts=st.integers(1, 60))
def test_whoever_waits_as_told_starts_at_the_rate(rate: float, burst: int, starts: int) -> None:
    """Neither slower nor faster, start after start."""
    quotas, now = Quotas({"a": Limit(rate, burst)}), BEGIN
    for _ in range(starts):
        refused = quotas.refused("a", "x", now)
        if refused is not None:
            assert refused.reason == "rate_limited" and refused.seconds is not None
            now += refused.seconds
        assert quotas.refused("a", "x", now) is None
        quotas.started("a", "x", now)
    assert now - BEGIN == pytest.approx(max(starts - burst, 0) / rate, abs=1e-3)


# What they are of.


def test_without_limits_nothing_is_refused_or_counted() -> None:
    """Most configurations have none."""
    quotas, start = busy({})
    assert not quotas.limited and start("a", "x", BEGIN, 1000) == 1000
    quotas.ended("a", "x")
    assert Quotas({"a": Limit()}).limited and Quotas(callers={"a": Limit()}).limited


def test_a_limit_that_limits_nothing_refuses_nothing() -> None:
    """Neither a rate nor a number; a burst alone is none."""
    for limit in (Limit(), Limit(burst=1)):
        assert busy({"*": limit}, {"*": limit})[1]("a", "x", BEGIN, 1000) == 1000


def test_a_glob_holds_for_each_name_separately() -> None:
    """Of pools and of callers; names beside it are free."""
    for named in ({"gpu-*": Limit(concurrency=2)}, {"gpu-*": Limit(rate=2.0)}):
        _, start = busy(named)
        assert start("gpu-1", "x", BEGIN) == start("gpu-2", "x", BEGIN) == 2
        assert start("cpu", "x", BEGIN) == 100
        _, start = busy({}, named)
        assert start("a", "gpu-1", BEGIN) == start("a", "gpu-2", BEGIN) == 2
        assert start("a", "gpu-1", BEGIN) == start("b", "gpu-1", BEGIN) == 0
        assert start("gpu-1", "x", BEGIN) == 100


def test_a_name_has_the_case_it_is_written_in() -> None:
    """On every system alike."""
    assert busy({"A": Limit(concurrency=1)})[1]("a", "x", BEGIN) == 100


def test_all_limits_that_match_must_have_room() -> None:
    """Of a pool, of a caller, and of several globs for one name."""
    _, start = busy({"*": Limit(concurrency=3), "a": Limit(concurrency=2)}, {"x": Limit(concurrency=4)})
    assert start("a", "x", BEGIN) == 2
    assert start("b", "x", BEGIN) == 2
    assert start("b", "y", BEGIN) == 1
    assert start("c", "x", BEGIN) == 0
    assert start("c", "y", BEGIN) == 3


def test_what_ends_makes_room_at_once_but_gives_no_start_back() -> None:
    """Concurrency is a number of places; a rate counts starts, however short they were."""
    quotas, start = busy({"a": Limit(concurrency=1)})
    assert start("a", "x", BEGIN) == 1
    quotas.ended("a", "x")
    assert start("a", "x", BEGIN) == 1
    quotas, start = busy({"a": Limit(rate=1.0)})
    assert start("a", "x", BEGIN) == 1
    quotas.ended("a", "x")
    assert start("a", "x", BEGIN + 0.5) == 0 and start("a", "x", BEGIN + 1.0) == 1


def test_the_end_of_what_was_not_counted_makes_no_room() -> None:
    """An earlier owner started it: the limit is what it was."""
    quotas, start = busy({"a": Limit(concurrency=1)}, {"x": Limit(concurrency=1)})
    for _ in range(3):
        quotas.ended("a", "x")
    assert start("a", "x", BEGIN) == 1


def test_asking_takes_nothing() -> None:
    """However often."""
    quotas, start = busy({"a": Limit(rate=1.0, burst=3, concurrency=9)})
    for _ in range(100):
        assert quotas.refused("a", "x", BEGIN) is None
    assert start("a", "x", BEGIN) == 3


# How it is said.


@pytest.mark.parametrize(
    ("pools", "callers", "said"),
    [
        ({"a": Limit(concurrency=1)}, {}, "The pool a runs as many tasks as its limit allows: 1."),
        ({}, {"*": Limit(concurrency=1)}, "The caller x runs as many tasks as its limit allows: 1."),
        ({"?": Limit(rate=0.5)}, {}, "The pool a may start 0.5 tasks a second."),
        ({}, {"x": Limit(rate=1000.0, burst=1)}, "The caller x may start 1000 tasks a second."),
    ],
)
def test_a_refusal_names_whose_limit_it_is_and_how_much(
    pools: dict[str, Limit], callers: dict[str, Limit], said: str
) -> None:
    """The name, not the glob."""
    quotas, start = busy(pools, callers)
    assert start("a", "x", BEGIN) == 1
    refused = quotas.refused("a", "x", BEGIN)
    assert refused is not None and refused.message == said
    assert (refused.reason == "concurrency_limited") == (refused.seconds is None)


def test_of_several_limits_the_one_that_lasts_longest_is_named() -> None:
    """A rate that lets the next one go later; the end of another task last of all."""
    slow, fast, one = Limit(rate=0.1), Limit(rate=1.0), Limit(concurrency=1)
    for pools, callers, name in [
        ({"a": slow}, {"x": fast}, "a"),
        ({"a": fast}, {"x": slow}, "x"),
        ({"a": slow}, {"x": one}, "x"),
        ({"a": one}, {"x": slow}, "a"),
    ]:
        quotas, start = busy(pools, callers)
        assert start("a", "x", BEGIN) == 1
        refused = quotas.refused("a", "x", BEGIN)
        assert refused is not None and refused.name == name


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    """Starts come back from when it is again as late as it was."""
    _, start = busy({"a": Limit(rate=1.0, burst=2)})
    assert start("a", "x", BEGIN) == 2
    assert start("a", "x", BEGIN - 50) == 0
    assert start("a", "x", BEGIN) == 0
    assert start("a", "x", BEGIN + 1) == 1
