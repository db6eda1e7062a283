"""Snapshots: what counts for a rate, what is kept, and for how long."""

from __future__ import annotations

import pytest
from samples import answer, event

from mcp_pools.terminal.observed import KEPT_EVENTS, MOST_EVENTS, Observed, first, take


def watched(*events_at: tuple[float, list[dict[str, object]]]) -> Observed:
    """A view that began at 0 and then got these events."""
    seen = first(answer(), 0.0)
    for now, events in events_at:
        seen = take(seen, answer(events=list(events)), now)
    return seen


def test_what_happened_before_the_view_counts_for_no_rate() -> None:
    """The first answer's events are shown; nobody knows how fast they came."""
    seen = first(answer(events=[event(1), event(2, "task.failed")]), 0.0)
    assert len(seen.events) == 2
    assert not seen.rates(5.0)
    assert not seen.failed


def test_throughput_is_an_average_over_ten_seconds_or_as_long_as_one_looked() -> None:
    """A view that is young divides by its age."""
    seen = watched((4.0, [event(7)] * 8))
    assert seen.rates(4.0) == {"pool-000": 2.0}
    assert seen.rates(10.0) == {"pool-000": 0.8}
    assert seen.rates(14.1) == {}


def test_only_ends_count_and_failures_count_twice() -> None:
    """Once as finished, once as failed; cancelling is no work done."""
    kinds = (
        "task.queued",
        "task.started",
        "task.completed",
        "task.failed",
        "task.timed_out",
        "task.cancelled",
    )
    seen = watched((1.0, [event(7, kind) for kind in kinds]))
    assert sum(seen.finished.values()) == 3
    assert seen.failed == {"pool-000": 2}


def test_a_full_answer_means_that_there_is_more() -> None:
    """One that is not full means that the view has caught up."""
    assert watched((1.0, [event(1)] * MOST_EVENTS)).behind
    assert not watched((1.0, [event(1)] * MOST_EVENTS), (1.0, [event(2)])).behind


def test_a_snapshot_is_of_bounded_size_and_the_one_before_does_not_change() -> None:
    """However long one looks, and however much happens in a second."""
    before = watched((0.5, [event(7)]))
    seen = before
    for step in range(5000):
        seen = take(seen, answer(events=[event(step)] * 3), 1.0 + step / 50)
    assert len(seen.events) == KEPT_EVENTS
    assert len(seen.buckets) <= 121
    assert sum(seen.finished.values()) == 15_001
    assert before.finished == {"pool-000": 1}
    assert before.rates(1.0) == {"pool-000": 1.0}


def test_the_history_has_the_newest_last() -> None:
    """A step for each part of a minute."""
    seen = watched((2.0, [event(7)] * 3), (58.0, [event(7)] * 5))
    assert seen.history(59.0, 4) == [3, 0, 0, 5]
    assert seen.history(200.0, 4) == [0, 0, 0, 0]


@pytest.mark.parametrize("forgotten", [True, False])
def test_trouble_keeps_the_picture_and_the_next_answer_ends_it(forgotten: bool) -> None:
    """A cursor that is of another home is forgotten: the view begins anew there."""
    seen = watched((1.0, [event(7)])).with_trouble("gone", forget_cursor=forgotten)
    assert (seen.trouble, seen.cursor) == ("gone", None if forgotten else "c")
    assert len(seen.pools) == 3
    after = take(seen, answer(events=[event(7)]), 2.0)
    assert after.trouble == ""
    assert after.since == (2.0 if forgotten else 0.0)
