"""Pictures of the live view: exactly the screen, and what counts is on it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from samples import answer, event, pool

from mcp_pools.terminal.gauges import meter, rate_in_words, short, sparkline
from mcp_pools.terminal.keyboard import View
from mcp_pools.terminal.observed import Observed, first, take
from mcp_pools.terminal.screen import Moment, layout, picture, rendered

NOON = Moment(10.0, "12:00:00 UTC")


def seen(pools: Any = 3, events: int = 30) -> Observed:
    """A view of ten seconds in which something happened."""
    happened = [
        event(number, "task.failed" if number % 10 == 7 else "task.completed") for number in range(events)
    ]
    return take(first(answer(pools), 0.0), answer(pools, happened), 9.0)


def drawn(
    observed: Observed, width: int = 80, height: int = 24, view: View | None = None, color: bool = False
) -> list[str]:
    """The lines as a terminal gets them."""
    return rendered(picture(observed, view or View(), width, height, NOON), width, color)


@given(
    st.integers(1, 200),
    st.integers(1, 70),
    st.integers(0, 210),
    st.integers(0, 60),
    st.integers(0, 300),
    st.sampled_from(["name", "queue", "busy", "throughput"]),
)
def test_a_picture_is_exactly_the_screen(
    width: int, height: int, pools: int, events: int, top: int, sort: str
) -> None:
    """No line more or less, none wider or narrower: what was there before is drawn over."""
    lines = drawn(seen(pools, events), width, height, View(sort=sort, top=top))
    assert len(lines) == height
    assert {cell_len(line) for line in lines} == {width}


def test_the_header_counts_statuses_workers_queue_and_throughput() -> None:
    """In all."""
    first_line, second, *_ = drawn(seen(12))
    for words in ("8 running", "2 degraded", "2 failed", "12:00:00 UTC"):
        assert words in first_line
    for words in (
        f"{sum(n % 9 // 2 for n in range(12))}/{sum(n % 9 for n in range(12))}",
        "3.0/s",
        "failed 3",
    ):
        assert words in second


def test_a_pool_shows_busy_workers_queue_throughput_and_failures() -> None:
    """At eighty columns with its type and a bar."""
    row = next(line for line in drawn(seen(8, 70)) if "pool-005" in line)
    assert row.split() == ["✗", "pool-005", "session-buddy", "━━───╌╌╌╌╌", "2/5", "35", "1.0", "1"]


def test_forty_columns_show_the_numbers_without_bars() -> None:
    """Everything that counts is readable there."""
    lines = drawn(seen(8), 40, 20)
    assert "● 6" in lines[0]
    assert "busy" in lines[1]
    assert lines[3].split() == ["POOL▲", "BUSY", "QUEUE", "DONE/S"]
    assert lines[4].split()[:4] == ["●", "pool-000", "0/0", "0"]
    assert lines[-1].startswith("q quit")


def test_more_pools_than_lines_say_which_are_shown() -> None:
    """And scrolling shows the others."""
    lines = drawn(seen(200), view=View(top=50))
    assert lines[4].split()[1] == "pool-050"
    assert lines[-1].rstrip().endswith("of 200")
    assert drawn(seen(200), view=View(top=10_000))[-1].rstrip().endswith("-200 of 200")


def test_the_orders_are_by_name_queue_busy_and_throughput() -> None:
    """The heading of the order has its direction."""
    pools = [
        pool(1, name="b", queue_size=1, workers={"busy": 3, "total": 3}),
        pool(2, name="a", queue_size=2, workers={"busy": 2, "total": 3}),
        pool(3, name="c", queue_size=3, workers={"busy": 1, "total": 3}),
    ]
    happened = [event(1, pool="a"), event(2, pool="b"), event(3, pool="b")]
    observed = take(first(answer(pools), 0.0), answer(pools, happened), 9.0)

    def order(view: View) -> str:
        return "".join(line.split()[1] for line in drawn(observed, view=view)[4:7])

    assert order(View()) == "abc"
    assert order(View(reverse=True)) == "cba"
    assert order(View(sort="queue")) == "cab"
    assert order(View(sort="busy")) == "bac"
    assert order(View(sort="throughput")) == "bac"
    assert "QUEUE▼" in drawn(observed, view=View(sort="queue"))[3]
    assert "QUEUE▲" in drawn(observed, view=View(sort="queue", reverse=True))[3]


def test_the_newest_events_come_first() -> None:
    """Under their title, with time, pool and task."""
    lines = drawn(seen(2, 30))
    at = next(number for number, line in enumerate(lines) if line.startswith("EVENTS"))
    assert lines[at + 1].split() == ["12:00:29", "✓", "task.completed", "pool-001", f"t_{29:026}"]
    assert "12:00:28" in lines[at + 2]


def test_trouble_stands_in_the_last_line_and_the_rest_stays() -> None:
    """What was seen last is better than nothing."""
    lines = drawn(seen().with_trouble("the owner is gone"))
    assert lines[-1].startswith("✗ the owner is gone")
    assert any("pool-001" in line for line in lines)


def test_without_colour_there_is_no_sequence() -> None:
    """The marks and bars stay: they are text."""
    assert "\x1b" not in "".join(drawn(seen()))
    assert "\x1b[36m" in "".join(drawn(seen(), color=True))


def test_what_comes_from_outside_moves_no_cursor() -> None:
    """A name with a control sequence is a name without one."""
    hostile = "a\x1b[2J\r\nb"
    pools = [pool(1, name=hostile, type=hostile, region=hostile, status=hostile)]
    happened = [event(1, hostile, pool=hostile, task_id=hostile, data={hostile: hostile})]
    observed = first(answer(pools, happened), 0.0)
    for width in (40, 160):
        lines = drawn(observed, width)
        assert len(lines) == 24
        assert not {"\x1b", "\r"} & set("".join(lines))


def test_a_wide_name_keeps_the_columns_in_their_places() -> None:
    """Characters of two columns count as two."""
    lines = drawn(seen([pool(1, name="日本語" * 12), pool(2)]))
    assert {cell_len(line) for line in lines} == {80}


@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize("pools", [1, 10, 500])
def test_events_keep_their_place_however_many_pools_there_are(height: int, pools: int) -> None:
    """And pools keep most of the screen when there are many."""
    shares = layout(height, pools)
    assert shares.events >= 4
    assert shares.pools >= min(pools, height // 4)


def test_bars_show_busy_idle_and_what_could_be_started() -> None:
    """A single busy worker is seen, also in a great pool."""
    assert meter(2, 5, 10, 10).plain == "━━───╌╌╌╌╌"
    assert meter(1, 1, 1000, 10).plain[0] == "━"
    assert meter(0, 0, 0, 4).plain == "╌╌╌╌"
    assert meter(20, 20, 10, 4).plain == "━━━━"


def test_numbers_are_short() -> None:
    """Five characters at most."""
    assert [short(number) for number in (0, 9_999, 10_000, 123_456, 45_000_000)] == [
        "0",
        "9999",
        "10k",
        "123k",
        "45M",
    ]
    assert [rate_in_words(rate) for rate in (0.0, 0.25, 12.34, 1234.5)] == ["0", "0.25", "12.3", "1234"]
    assert sparkline([0, 1, 50, 100]) == "▁▂▅█"
