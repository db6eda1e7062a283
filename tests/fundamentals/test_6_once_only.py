"""A key makes repeating a call harmless."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.tools import pool_execute

pytestmark = pytest.mark.anyio


async def test_the_same_call_under_the_same_key_is_the_same_task(settings: Settings) -> None:
    """A client that does not know whether its call arrived makes it again."""
    async with Router.open(settings) as router:
        first = await pool_execute(router, task_type="echo", payload={"order": 7}, idempotency_key="order-7")
        again = await pool_execute(router, task_type="echo", payload={"order": 7}, idempotency_key="order-7")
        assert again.task_id == first.task_id

        with pytest.raises(PoolsError) as refused:
            await pool_execute(router, task_type="echo", payload={"order": 8}, idempotency_key="order-7")
        assert refused.value.code == "conflict"
