"""Register, route, scale, close."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_close, pool_execute, pool_health, pool_register, pool_scale

pytestmark = pytest.mark.anyio


async def test_work_goes_to_the_pool_that_fits(settings: Settings) -> None:
    """By name, by label, or to the least loaded."""
    async with Router.open(settings) as router:
        await pool_register(router, name="near", type="local", max_workers=1, labels={"disk": "fast"})
        await pool_register(router, name="far", type="local", max_workers=1)

        pinned = await pool_execute(router, task_type="echo", payload={}, pool="far")
        labelled = await pool_execute(router, task_type="echo", payload={}, selector={"disk": "fast"})

        assert (pinned.pool, labelled.pool) == ("far", "near")


async def test_tasks_with_the_same_key_go_to_the_same_pool(settings: Settings) -> None:
    """For work that finds its data warm where the last one left it."""
    async with Router.open(settings) as router:
        for name in ("a", "b", "c"):
            await pool_register(router, name=name, type="local", max_workers=1)

        tasks = [
            await pool_execute(router, task_type="echo", payload={}, affinity_key="repo-1") for _ in range(3)
        ]

        assert len({task.pool for task in tasks}) == 1


async def test_a_pool_is_scaled_watched_and_closed(settings: Settings) -> None:
    """Closing lets running tasks finish, and moves queued ones to other pools."""
    async with Router.open(settings) as router:
        await pool_register(router, name="bench", type="local", min_workers=1, max_workers=4)

        assert (await pool_scale(router, "bench", 2)).max_workers == 2
        assert (await pool_scale(router, "bench", "auto")).max_workers == 4
        assert (await pool_health(router, "bench")).status == "healthy"
        assert (await pool_close(router, "bench")).status == "closed"
