"""Start without waiting, look later, cancel."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_cancel, pool_execute, pool_task

pytestmark = pytest.mark.anyio


async def test_a_task_can_be_started_now_and_looked_at_later(settings: Settings) -> None:
    """`next` is the call that goes on waiting."""
    async with Router.open(settings) as router:
        started = await pool_execute(router, task_type="sleep", payload={"seconds": 0.05}, wait=False)
        assert started.status in ("queued", "running")
        assert started.next == f'pool_task(task_id="{started.task_id}", wait_seconds=30)'

        ended = await pool_task(router, started.task_id, wait_seconds=30)

        assert ended.status == "completed" and ended.next is None


async def test_cancelling_stops_the_work(settings: Settings) -> None:
    """When the call returns, nothing of the task runs any more."""
    async with Router.open(settings) as router:
        task = await pool_execute(router, task_type="sleep", payload={"seconds": 3600}, wait=False)

        answer = await pool_cancel(router, task.task_id)

        assert answer.cancelled
        assert (await pool_task(router, task.task_id)).status == "cancelled"


async def test_a_timeout_ends_an_attempt(settings: Settings) -> None:
    """In seconds of running; waiting for a worker does not count."""
    async with Router.open(settings) as router:
        task = await pool_execute(router, task_type="sleep", payload={"seconds": 3600}, timeout=0.05)

        assert task.status == "timed_out"
