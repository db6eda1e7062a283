"""Refused is an error, accepted is a task."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.tools import pool_execute

pytestmark = pytest.mark.anyio


async def test_what_cannot_be_accepted_is_refused_with_the_way_out(settings: Settings) -> None:
    """The error has a code for programs, and says what to do next."""
    async with Router.open(settings) as router:
        with pytest.raises(PoolsError) as refused:
            await pool_execute(router, task_type="compyute", payload={"expression": "1"})

        assert refused.value.code == "unknown_task_type"
        assert refused.value.next == "Did you mean 'compute'?"


async def test_a_task_that_failed_is_still_a_task(settings: Settings) -> None:
    """So that nobody repeats work because of an exception; its `error` says why."""
    async with Router.open(settings) as router:
        task = await pool_execute(
            router, task_type="compute", payload={"expression": "1 / 0"}, max_attempts=1
        )

        assert task.status == "failed"
        assert task.error is not None and task.error.code == "task_error"


async def test_nothing_runs_that_was_not_allowed(settings: Settings) -> None:
    """Commands, for example, are refused until the configuration names them; the refusal says which key."""
    async with Router.open(settings) as router:
        with pytest.raises(PoolsError, match="allow") as refused:
            await pool_execute(router, task_type="command", payload={"argv": ["date"]})

        assert refused.value.code == "not_allowed"
