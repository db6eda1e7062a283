"""`echo` and `sleep`, the two simplest types."""

from typing import Any

import pytest
from pydantic import ValidationError

from mcp_pools.task_types import echo, sleep
from mcp_pools.task_types.catalog import ECHO, SLEEP


def test_echo_returns_any_object_unchanged(context: Any) -> None:
    """Unlike the others it takes fields nobody declared."""
    payload = {"x": 1, "nested": {"list": [None, "é"]}, "model_dump": 1, "_private": 2, "items": [], "": 0}
    assert ECHO.payload.model_validate(payload).model_dump() == payload
    assert echo.run(payload, context) == payload


def test_sleep_reports_progress_to_its_end(context: Any) -> None:
    """The last report says that all of it passed."""
    assert sleep.run({"seconds": 0.01}, context) == {"slept": 0.01}
    assert context.said[0][1] == 0.01 and context.said[-1] == (0.01, 0.01, None)


def test_sleeping_no_time_is_possible(context: Any) -> None:
    """Zero seconds is a task that ends at once."""
    assert sleep.run({"seconds": 0}, context) == {"slept": 0}


@pytest.mark.parametrize("payload", [{}, {"seconds": -1}, {"seconds": float("inf")}, {"seconds": 1, "x": 1}])
def test_sleep_needs_a_finite_time_and_nothing_else(payload: dict[str, Any]) -> None:
    """A payload that makes no sense is refused before it is stored."""
    with pytest.raises(ValidationError):
        SLEEP.payload.model_validate(payload)
