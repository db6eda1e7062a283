"""Open a home, run a task, look at its result."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute, pool_list, pool_task

pytestmark = pytest.mark.anyio


async def test_a_task_runs_on_a_worker_and_comes_back_with_its_result(settings: Settings) -> None:
    """While no pool is configured, there is one: `local`, processes of this machine."""
    async with Router.open(settings) as router:
        pools = await pool_list(router)
        assert [pool.name for pool in pools.pools] == ["local"]

        task = await pool_execute(router, task_type="compute", payload={"expression": "6 * 7"})

        assert task.status == "completed"
        assert task.result == {"value": 42}
        assert task.pool == "local"


async def test_a_task_can_be_looked_at_again_and_in_part(settings: Settings) -> None:
    """By its id, for as long as it is kept; a JMESPath expression picks what is wanted of a large result."""
    async with Router.open(settings) as router:
        task = await pool_execute(
            router, task_type="echo", payload={"people": [{"name": "Ada"}, {"name": "Bo"}]}
        )

        again = await pool_task(router, task.task_id)
        names = await pool_task(router, task.task_id, select="people[].name")

        assert again == task
        assert names.result == ["Ada", "Bo"]
