"""Many items in one call: spread, collected in order, folded."""

import pytest

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_distribute, pool_execute, pool_rebalance, pool_register, pool_task

pytestmark = pytest.mark.anyio


async def test_one_call_runs_a_task_type_over_many_items(settings: Settings) -> None:
    """Results come in the items' order; `map_reduce` also folds them."""
    async with Router.open(settings) as router:
        whole = await pool_distribute(
            router,
            task_type="compute",
            payload={"expression": "x ** 2", "items": [1, 2, 3, 4, 5]},
            strategy="map_reduce",
            reduce="sum",
        )

        assert [item.result for item in whole.results] == [1, 4, 9, 16, 25]
        assert whole.reduced == 55


async def test_what_fails_does_not_take_the_rest_with_it(settings: Settings) -> None:
    """Each failure stands in its place; every item is a task that can be looked at."""
    async with Router.open(settings) as router:
        whole = await pool_distribute(
            router, task_type="compute", payload={"expression": "10 / x", "items": [1, 0, 5]}
        )

        assert [item.status for item in whole.results] == ["completed", "failed", "completed"]
        assert (whole.status, whole.succeeded, whole.failed) == ("completed", 2, 1)
        task = await pool_task(router, whole.results[1].task_id)
        assert task.error is not None and "division by zero" in task.error.message


async def test_types_that_take_no_items_get_each_one_filled_in(settings: Settings) -> None:
    """`{item}` and `{item.key}` stand for the item, anywhere in the payload."""
    async with Router.open(settings) as router:
        whole = await pool_distribute(
            router,
            task_type="echo",
            payload={"greeting": "Hello, {item.name}!", "items": [{"name": "Ada"}, {"name": "Bo"}]},
        )

        assert [item.result["greeting"] for item in whole.results] == ["Hello, Ada!", "Hello, Bo!"]


async def test_the_strategy_says_where_the_items_go(settings: Settings) -> None:
    """In turn, by load, at random, or the whole payload once to every pool."""
    async with Router.open(settings) as router:
        for name in ("a", "b"):
            await pool_register(router, name=name, type="local", max_workers=1)
        items = {"x": "{item}", "items": list(range(6))}

        in_turn = await pool_distribute(router, task_type="echo", payload=items, strategy="round_robin")
        everywhere = await pool_distribute(router, task_type="echo", payload={}, strategy="broadcast")

        assert in_turn.pools == {"a": 3, "b": 3}
        assert everywhere.pools == {"a": 1, "b": 1}


async def test_waiting_work_moves_to_where_there_is_room(settings: Settings) -> None:
    """An idle pool takes over what waits on another; `pool_rebalance` spreads what waits anew."""
    async with Router.open(settings) as router:
        await pool_register(router, name="a", type="local", max_workers=1)
        await pool_execute(router, task_type="sleep", payload={"seconds": 3600}, wait=False)
        waiting = await pool_execute(router, task_type="echo", payload={}, wait=False)
        assert waiting.waiting is not None and waiting.waiting.code == "no_idle_worker"

        await pool_register(router, name="b", type="local", max_workers=1)

        assert (await pool_task(router, waiting.task_id, wait_seconds=30)).pool == "b"
        assert (await pool_rebalance(router)).moved == []
