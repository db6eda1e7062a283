"""A task's legal moves, in one table, and what follows the end of an attempt.

Pure: no I/O, no clock, no randomness; whoever calls brings them.

1. Terminal statuses have no moves.
2. A launch that never started (`returned`) costs no attempt.
3. Only a task with attempts left runs again, and only after an outcome that another
   attempt could change.
"""

from dataclasses import dataclass
from typing import Final, Literal

from mcp_pools.models import Status

Move = Literal["start", "complete", "fail", "time_out", "cancel", "retry", "return"]

MOVES: Final[dict[tuple[Status, Move], Status]] = {
    ("queued", "start"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "fail"): "failed",
    ("running", "complete"): "completed",
    ("running", "fail"): "failed",
    ("running", "time_out"): "timed_out",
    ("running", "cancel"): "cancelled",
    ("running", "retry"): "queued",
    ("running", "return"): "queued",
}

TERMINAL: Final[frozenset[Status]] = frozenset({"completed", "failed", "cancelled", "timed_out"})

NEVER_RETRIED: Final = frozenset(
    {
        "invalid_payload",
        "unknown_task_type",
        "not_allowed",
        "nesting_too_deep",
        "result_too_large",
        "cancelled",
    }
)
"""Error codes that another attempt of the same payload would only repeat."""

INFRASTRUCTURE: Final = frozenset({"worker_lost", "interrupted", "evicted", "pool_unreachable"})
"""Failures of the machine under the task: the next attempt need not wait."""


class IllegalMove(Exception):
    """A move the table does not have: always a bug of the caller, never of the user."""

    def __init__(self, task_id: str, status: Status, move: Move) -> None:
        super().__init__(f"task {task_id} is {status}: it cannot {move}")


def step(task_id: str, status: Status, move: Move) -> Status:
    """The status after `move`; raises `IllegalMove` for anything not in the table."""
    try:
        return MOVES[status, move]
    except KeyError:
        raise IllegalMove(task_id, status, move) from None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a task whose attempt ended: a move and, for a retry, its delay."""

    move: Move
    delay: float = 0.0


def judge(
    code: str | None, *, attempt: int, max_attempts: int, cancelling: bool, jitter: float = 0.0
) -> Verdict:
    """Decide what follows the end of attempt number `attempt`.

    Args:
        code: the attempt's error code; `None` when it succeeded.
        cancelling: a cancel was asked for before the attempt ended; only a success,
            which the user is owed, outlives it.
        jitter: 0 to 1, spreads the delay of a retry.
    """
    if code is None:
        return Verdict("complete")
    if cancelling or code == "cancelled":
        return Verdict("cancel")
    if attempt < max_attempts and code not in NEVER_RETRIED:
        return Verdict("retry", 0.0 if code in INFRASTRUCTURE else backoff(attempt, jitter))
    return Verdict("time_out" if code == "timeout" else "fail")


def backoff(attempt: int, jitter: float) -> float:
    """Seconds before the attempt after `attempt`: doubling from 0.5 to 60, plus up to 20 %."""
    return float(min(0.5 * 2 ** min(attempt - 1, 10), 60.0)) * (1 + 0.2 * jitter)
