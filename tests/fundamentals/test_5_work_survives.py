"""What was accepted is there for the next owner."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute, pool_register, pool_scale, pool_task

pytestmark = pytest.mark.anyio


async def test_results_and_queued_work_outlive_the_process(settings: Settings) -> None:
    """Everything is in the home: the next router that opens it goes on where the last one left."""
    async with Router.open(settings) as router:
        done = await pool_execute(router, task_type="echo", payload={"x": 1})
        await pool_register(router, name="bench", type="local", max_workers=1)
        await pool_scale(router, "bench", 0)  # nobody to run what comes next
        queued = await pool_execute(router, task_type="echo", payload={"x": 2}, pool="bench", wait=False)

    async with Router.open(settings) as router:
        assert (await pool_task(router, done.task_id)).result == {"x": 1}
        assert (await pool_task(router, queued.task_id)).status == "queued"

        await pool_scale(router, "bench", 1)

        assert (await pool_task(router, queued.task_id, wait_seconds=30)).result == {"x": 2}
