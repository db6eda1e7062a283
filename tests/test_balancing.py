"""Waiting work that moves: to a pool that has nothing to do, or as `pool_rebalance` spreads it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from waiting import until

from mcp_pools import Router
from mcp_pools.errors import PoolsError
from mcp_pools.tools import (
    pool_distribute,
    pool_execute,
    pool_list,
    pool_rebalance,
    pool_register,
    pool_scale,
    pool_task,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def busy(router: Router, gate: Any) -> Router:
    """A router whose only pool, `a`, has one worker, which is busy until the gate opens."""
    await pool_register(router, name="a", type="local", max_workers=1)
    await pool_execute(router, **gate.task, pool="a", wait=False)
    await gate.entered()
    return router


async def waiting(router: Router, **fields: Any) -> str:
    """The id of a task that waits."""
    task = await pool_execute(router, task_type="echo", payload={"x": 1}, wait=False, **fields)
    assert task.status == "queued"
    return task.task_id


async def where(router: Router, ids: list[str]) -> list[str | None]:
    """The pools on which tasks have ended."""
    ends = [await pool_task(router, task_id, wait_seconds=20) for task_id in ids]
    assert {end.status for end in ends} == {"completed"}
    return [end.pool for end in ends]


def queues(router: Router) -> dict[str, int]:
    """How many tasks wait on each pool."""
    return {name: len(pool.queue) for name, pool in router.registry.pools.items() if len(pool.queue)}


# An idle pool takes over.


async def test_a_pool_that_is_registered_takes_over_what_waits(busy: Router) -> None:
    """While the other one is busy with something long; each start says where it came from."""
    ids = [await waiting(busy) for _ in range(4)]
    await pool_register(busy, name="b", type="local", max_workers=1)
    assert await where(busy, ids) == ["b"] * 4
    events = [event for _, event in await busy.registry.store.events()]
    taken_over = [event for event in events if event.data.get("from") == "a"]
    assert {event.task_id for event in taken_over} == set(ids)
    assert {(event.kind, event.pool) for event in taken_over} == {("task.started", "b")}


async def test_a_pool_that_becomes_free_takes_over_what_waits(busy: Router, gate: Any) -> None:
    """Its own work comes first."""
    other = type(gate)(gate.path.with_name("other"))
    await pool_register(busy, name="b", type="local", max_workers=1)
    await pool_execute(busy, **other.task, pool="b", wait=False)
    await other.entered()
    ids = [await waiting(busy) for _ in range(6)]
    assert queues(busy) == {"a": 3, "b": 3}
    other.open()
    assert await where(busy, ids) == ["b"] * 6


@pytest.mark.parametrize(
    "fields",
    [
        {"pool": "a"},
        {"strategy": "round_robin"},
        {"strategy": "random"},
        {"affinity_key": "key"},
        {"selector": {"disk": "fast"}},
    ],
)
async def test_what_belongs_where_it_is_stays(router: Router, gate: Any, fields: dict[str, Any]) -> None:
    """Pinned work, work that was placed by another rule than load, work that fits nowhere else."""
    await pool_register(router, name="a", type="local", max_workers=1, labels={"disk": "fast"})
    await pool_execute(router, **gate.task, pool="a", wait=False)
    await gate.entered()
    stays = await waiting(router, **fields)
    moves = await waiting(router)
    await pool_register(router, name="b", type="local", max_workers=1)
    assert await where(router, [moves]) == ["b"]
    assert queues(router) == {"a": 1}
    gate.open()
    assert await where(router, [stays]) == ["a"]


async def test_a_setting_turns_it_off(open_router: Any, gate: Any) -> None:
    """Then work stays where it was placed."""
    async with open_router(work_stealing=False) as router:
        await pool_register(router, name="a", type="local", max_workers=1)
        await pool_execute(router, **gate.task, pool="a", wait=False)
        await gate.entered()
        ids = [await waiting(router) for _ in range(2)]
        await pool_register(router, name="b", type="local", max_workers=1)
        await pool_execute(router, task_type="echo", payload={}, pool="b")
        assert queues(router) == {"a": 2}
        gate.open()
        assert await where(router, ids) == ["a", "a"]


async def test_parts_are_taken_over_by_their_strategy(busy: Router, gate: Any) -> None:
    """Those of `least_loaded` and `map_reduce` are; those of `round_robin` are not."""
    payload = {"x": "{item}", "items": list(range(4))}
    wanted = {"task_type": "echo", "payload": payload, "wait": False}
    for strategy in ("map_reduce", "round_robin"):
        await pool_distribute(busy, **wanted, strategy=strategy)
    await pool_register(busy, name="b", type="local", max_workers=1)
    await until(lambda: queues(busy) == {"a": 4})
    left = {live.row.strategy for live in busy.registry.pools["a"].queue}
    assert left == {"round_robin"}
    gate.open()


async def test_parts_stay_among_the_pools_that_were_asked_for(busy: Router, gate: Any) -> None:
    """Named ones, or those of a type: an idle pool outside takes nothing."""
    payload = {"x": "{item}", "items": [1, 2]}
    wanted = {"task_type": "echo", "payload": payload, "wait": False, "strategy": "least_loaded"}
    named = await pool_distribute(busy, **wanted, pools=["a"])
    typed = await pool_distribute(busy, **wanted, pool_filter="mahavishnu")
    await pool_register(busy, name="b", type="local", max_workers=1)
    ids = [item.task_id for item in typed.results]
    assert await where(busy, ids) == ["b", "b"]
    assert queues(busy) == {"a": 2} and (await pool_rebalance(busy)).moved == []
    gate.open()
    assert await where(busy, [item.task_id for item in named.results]) == ["a", "a"]


# Spread anew.


async def test_rebalancing_moves_what_waits_and_says_so(open_router: Any, gate: Any) -> None:
    """Where each went; a dry run says the same and moves nothing; then there is nothing left to move."""
    async with open_router(work_stealing=False) as router:
        await pool_register(router, name="a", type="local", max_workers=1)
        await pool_execute(router, **gate.task, pool="a", wait=False)
        await gate.entered()
        ids = [await waiting(router) for _ in range(8)]
        pinned = await waiting(router, pool="a")
        for name, workers in (("b", 1), ("c", 2)):
            await pool_register(router, name=name, type="local", max_workers=workers)
            await pool_execute(
                router, task_type="hold", payload={"gate": str(gate.path)}, pool=name, wait=False
            )
        planned = await pool_rebalance(router, dry_run=True)
        assert queues(router) == {"a": 9} and planned.why.startswith("Dry run. Moved ")
        done = await pool_rebalance(router)
        assert done.moved == planned.moved and planned.why == f"Dry run. {done.why}"
        assert {move["task_id"] for move in done.moved} <= set(ids)
        assert {(move["from"], move["to"]) for move in done.moved} == {("a", "b"), ("a", "c")}
        sizes = Counter(move["to"] for move in done.moved)
        assert f"{sizes['b']} from a to b, {sizes['c']} from a to c" in done.why
        # a: 1 runs, 1 is pinned; loads per worker are as level as they can be.
        assert sizes == {"b": 2, "c": 5}
        assert (await pool_rebalance(router)).moved == []
        gate.open()
        ended = await where(router, [*ids, pinned])
        assert Counter(ended) == {"a": 2, **sizes} and ended[-1] == "a"
        moved = [event for _, event in await router.registry.store.events() if event.kind == "task.moved"]
        assert [(event.task_id, event.data["from"], event.pool) for event in moved] == [
            (move["task_id"], move["from"], move["to"]) for move in done.moved
        ]


async def test_rebalancing_spares_pools_that_are_ill_or_do_not_fit(open_router: Any, gate: Any) -> None:
    """And what is bound by affinity."""
    async with open_router(work_stealing=False) as router:
        for name in "abc":
            labels = {"disk": "fast"} if name == "a" else {}
            await pool_register(router, name=name, type="local", max_workers=1, labels=labels)
            await pool_scale(router, name, 0)
        bound = [await waiting(router, selector={"disk": "fast"}) for _ in range(3)]
        keyed = await waiting(router, affinity_key="k")
        home = router.dispatcher.tasks[keyed].row.pool
        router.registry.pools["b"].health = "unhealthy"
        router.registry.loaded(router.registry.pools["b"])
        done = await pool_rebalance(router, strategy="round_robin")
        assert done.moved == [] and "may not leave" in done.why
        assert {router.dispatcher.tasks[task_id].row.pool for task_id in bound} == {"a"}
        assert router.dispatcher.tasks[keyed].row.pool == home


async def test_only_what_waits_can_be_rebalanced_and_only_by_a_known_strategy(busy: Router) -> None:
    """What runs stays where it runs."""
    await pool_register(busy, name="b", type="local", max_workers=1)
    assert (await pool_rebalance(busy)).moved == []
    with pytest.raises(PoolsError, match="least_loaded"):
        await pool_rebalance(busy, strategy="least_loadet")
    assert {pool.name for pool in (await pool_list(busy)).pools} == {"a", "b"}
