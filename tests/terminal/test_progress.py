"""Bars: how far, how fast, how long; one line that fits, and few lines where nobody redraws them."""

from __future__ import annotations

import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import ok, owner_peer
from pseudo_terminal import COMMAND

from mcp_pools.terminal.progress import Pace, ProgressLine, bar


class Terminal(io.StringIO):
    """A terminal's standard error."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_says_how_far_how_long_and_how_fast() -> None:
    """And the task's own words at the end."""
    said = bar(25, 100, 12.5, 110, "the seventh file")
    assert said == "━━━━━━──────────────────   25%  0:06 left  25/100  12.5/s  the seventh file"


def test_forty_columns_keep_the_share_and_the_time() -> None:
    """What is left of them beside a command's name."""
    assert bar(25, 100, 12.5, 27, "the seventh file") == "━─────   25%  0:06 left"


def test_without_a_total_there_is_a_count() -> None:
    """No bar that promises an end."""
    assert bar(12, None, 3.0, 40, "") == "12  3/s"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (1e4, "2:46:40")]
)
def test_times_are_read_like_a_clock(seconds: float, shown: str) -> None:
    """Minutes and seconds; hours where there are some."""
    assert f"  {shown} left" in bar(0, seconds, 1.0, 80)


def test_only_what_is_done_is_a_hundred_per_cent() -> None:
    """A bar that is full too early is the one that people distrust."""
    assert " 99%" in bar(9999, 10000, None, 80)
    assert "100%" in bar(10000, 10000, None, 80)
    assert "100%" in bar(10001, 10000, None, 80)


@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e12),
    st.none() | st.floats(min_value=-1, max_value=1e12),
    st.none() | st.floats(min_value=0, max_value=1e9),
    st.integers(min_value=1, max_value=200),
    st.text("abc ", max_size=80),
)
def test_no_bar_is_wider_than_its_room(
    done: float, total: float | None, rate: float | None, width: int, message: str
) -> None:
    """Whatever the numbers are."""
    assert len(bar(done, total, rate, width, message)) <= width


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """A slow start is forgotten."""
    pace = Pace()
    assert pace.rate(0, 0.0) is None
    assert pace.rate(10, 10.0) == 1.0
    for second in range(11, 31):
        rate = pace.rate(10 + 100 * (second - 10), float(second))
    assert rate == 100.0


def test_an_attempt_that_starts_again_is_measured_anew() -> None:
    """No rate below zero."""
    pace = Pace()
    pace.rate(0, 0.0)
    pace.rate(50, 1.0)
    assert pace.rate(0, 2.0) is None
    assert pace.rate(4, 4.0) == 2.0


def test_thousands_of_reports_in_a_moment_cost_a_few() -> None:
    """What is kept of them is bounded; the rate is right all the same."""
    pace = Pace()
    for number in range(100_001):
        rate = pace.rate(number, number / 50_000)
    assert rate == pytest.approx(50_000, rel=0.05)
    assert len(pace._seen) < 300


def told(line: ProgressLine, clock: Clock, reports: int, apart: float) -> None:
    """Report so many steps, so many seconds apart."""
    for done in range(1, reports + 1):
        clock.now += apart
        line(done, reports, None)


def test_a_terminal_sees_one_line_that_ends_without_a_trace() -> None:
    """It is drawn over, a few times a second at most."""
    stream, clock = Terminal(), Clock()
    line = ProgressLine("execute", stream, clock)
    told(line, clock, 1000, 0.001)
    line.clear()
    text = stream.getvalue()
    assert "\n" not in text
    assert text.endswith("\r\x1b[2K")
    assert 2 <= text.count("\r\x1b[2K") <= 25


def test_a_log_gets_a_line_a_second_and_always_the_last() -> None:
    """Also when the last came right after another one."""
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine("execute", stream, clock)
    told(line, clock, 1000, 0.005)
    line.clear()
    lines = stream.getvalue().splitlines()
    assert 5 <= len(lines) <= 7
    assert "1000/1000" in lines[-1]
    assert "\x1b" not in stream.getvalue()


def test_the_last_line_is_not_said_twice() -> None:
    """Nor is anything said where nothing was reported."""
    stream, clock = io.StringIO(), Clock()
    line = ProgressLine("execute", stream, clock)
    line(1, 1, None)
    line.clear()
    assert len(stream.getvalue().splitlines()) == 1
    silent: Any = io.StringIO()
    ProgressLine("execute", silent, clock).clear()
    assert silent.getvalue() == ""


def test_at_forty_columns_a_person_sees_a_bar_and_then_the_result(terminal: Any, home: Path) -> None:
    """The bar is drawn over in one line that never wraps, and is gone when the result comes."""

    def answer(name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any]:
        for done in (1, 2, 3):
            said = {"progress": done, "total": 4, "message": "a long word about what is being done"}
            say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
        return ok({"answer": 42})

    with owner_peer(home, answer):
        shown = terminal("execute", "-t", "echo", "--payload", "a=1", "-f", "progress", columns=40)
        assert shown.status() == 0
    waited, _, result = shown.written.rpartition("\r\x1b[2K")
    drawn = re.split(r"\r\x1b\[2K", waited)[1:]
    assert any("25%" in each for each in drawn)
    assert all(len(each) < 40 and "\n" not in each for each in drawn)
    assert "42" in result


def test_a_log_gets_lines_and_a_pipe_the_result(surroundings: dict[str, str], home: Path) -> None:
    """Standard error and standard output are not mixed."""

    def answer(name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any]:
        for done in range(1, 1001):
            said = {"progress": done, "total": 1000}
            say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
        return ok({"answer": 42})

    words = [COMMAND, "execute", "-t", "echo", "--payload", "a=1", "-f", "progress"]
    with owner_peer(home, answer):
        done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == {"answer": 42}
    lines = done.stderr.splitlines()
    assert lines[0] == "execute …"
    assert "1000/1000" in lines[-1]
    assert len(lines) < 20
