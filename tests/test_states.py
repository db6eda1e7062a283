"""A task's moves, and what follows the end of an attempt."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.errors import CODES
from mcp_pools.models import Status
from mcp_pools.states import (
    INFRASTRUCTURE,
    MOVES,
    NEVER_RETRIED,
    TERMINAL,
    IllegalMove,
    Move,
    backoff,
    judge,
    step,
)

STATUSES = get_args(Status)
ALL_MOVES = get_args(Move)
codes = st.none() | st.sampled_from(sorted(CODES))
attempts = st.integers(1, 100)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("move", ALL_MOVES)
def test_the_table_is_all_there_is(status: Status, move: Move) -> None:
    """A move of the table gives a status; any other raises, naming task, status and move."""
    if (status, move) in MOVES:
        assert step("t_1", status, move) in STATUSES
    else:
        with pytest.raises(IllegalMove) as illegal:
            step("t_1", status, move)
        assert {"t_1", status, move} <= set(str(illegal.value).replace(":", "").split())


def test_what_has_ended_has_no_moves() -> None:
    """And what has not ended has some."""
    moving = {status for status, _ in MOVES}
    assert moving == set(STATUSES) - TERMINAL
    assert set(MOVES.values()) == set(STATUSES)


def test_lists_of_codes_hold_only_codes() -> None:
    """A misspelt code would never match."""
    assert NEVER_RETRIED <= CODES and INFRASTRUCTURE <= CODES
    assert not NEVER_RETRIED & INFRASTRUCTURE


@given(codes, attempts, attempts, st.booleans(), st.floats(0, 1))
def test_every_verdict_on_a_running_task_is_a_legal_move(
    code: str | None, attempt: int, max_attempts: int, cancelling: bool, jitter: float
) -> None:
    """Whatever ended the attempt; and only a retry has a delay."""
    verdict = judge(code, attempt=attempt, max_attempts=max_attempts, cancelling=cancelling, jitter=jitter)
    step("t_1", "running", verdict.move)
    assert verdict.delay >= 0 and (verdict.move == "retry" or verdict.delay == 0)


@given(codes, attempts, attempts, st.booleans())
def test_nothing_is_retried_that_must_not_be(
    code: str | None, attempt: int, max_attempts: int, cancelling: bool
) -> None:
    """A success, a cancelled task, a hopeless error, or one whose attempts are used up."""
    verdict = judge(code, attempt=attempt, max_attempts=max_attempts, cancelling=cancelling)
    if verdict.move == "retry":
        assert attempt < max_attempts and not cancelling
        assert code is not None and code not in NEVER_RETRIED


@given(attempts, attempts)
def test_a_success_outlives_a_cancel(attempt: int, max_attempts: int) -> None:
    """The user is owed what was done."""
    for cancelling in (False, True):
        done = judge(None, attempt=attempt, max_attempts=max_attempts, cancelling=cancelling)
        assert done.move == "complete"


@given(st.integers(1, 10), st.lists(st.tuples(codes | st.just("return"), st.booleans()), max_size=60))
def test_no_sequence_starts_a_task_more_often_than_it_may(
    max_attempts: int, ends: list[tuple[str | None, bool]]
) -> None:
    """A launch that never started costs nothing; everything else is counted."""
    status: Status = "queued"
    attempt = ran = 0
    for code, cancelling in ends:
        status = step("t_1", status, "start")
        attempt += 1
        if code == "return":
            status = step("t_1", status, "return")
            attempt -= 1
            continue
        ran += 1
        verdict = judge(code, attempt=attempt, max_attempts=max_attempts, cancelling=cancelling)
        status = step("t_1", status, verdict.move)
        if status in TERMINAL:
            break
    assert ran <= max_attempts
    assert status in TERMINAL or ran < max_attempts


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_delay_is_bounded_and_grows(attempt: int, jitter: float) -> None:
    """From half a second to a minute, and a fifth more at most."""
    delay = backoff(attempt, jitter)
    assert 0.5 <= delay <= 72.0
    assert backoff(attempt, 0.0) <= delay <= 1.2 * backoff(attempt, 0.0)
    assert backoff(attempt, 0.0) <= backoff(attempt + 1, 0.0)


@given(st.sampled_from(sorted(INFRASTRUCTURE)), st.floats(0, 1))
def test_the_machines_failures_are_retried_at_once(code: str, jitter: float) -> None:
    """The payload is not to blame."""
    assert judge(code, attempt=1, max_attempts=2, cancelling=False, jitter=jitter).delay == 0.0


def test_a_timeout_is_not_a_failure_among_others() -> None:
    """It ends as `timed_out`."""
    assert judge("timeout", attempt=1, max_attempts=1, cancelling=False).move == "time_out"
    assert judge("task_error", attempt=1, max_attempts=1, cancelling=False).move == "fail"
    assert judge("timeout", attempt=1, max_attempts=2, cancelling=False).move == "retry"
