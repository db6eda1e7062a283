"""The pools of a home, over real workers: `mcp_pools.registry` and `mcp_pools.pool`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from waiting import until

from mcp_pools import Router
from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow, Caller
from mcp_pools.tools import (
    pool_close,
    pool_execute,
    pool_get,
    pool_health,
    pool_list,
    pool_register,
    pool_scale,
    pool_task,
    pool_watch,
)

pytestmark = pytest.mark.anyio


async def names(router: Router) -> list[str]:
    """The pools there are."""
    return [pool.name for pool in (await pool_list(router)).pools]


async def refused(work: Any, code: str) -> str:
    """What a refusal says."""
    with pytest.raises(PoolsError) as refusal:
        await work
    assert refusal.value.code == code, refusal.value
    return str(refusal.value)


# The implied pool.


async def test_a_local_pool_is_there_while_there_is_no_other(open_router: Any) -> None:
    """It goes when the first is registered, comes back when the last is closed, and is kept nowhere."""
    async with open_router() as router:
        assert await names(router) == ["local"]
        await pool_register(router, name="a", type="local")
        await until(lambda: list(router.registry.pools) == ["a"])
    async with open_router() as router:
        assert await names(router) == ["a"]
        await pool_close(router, "a")
        assert await names(router) == ["local"]
    async with open_router() as router:
        assert await names(router) == ["local"]
        assert await router.registry.store.pools() == []


async def test_the_implied_pool_finishes_what_it_has(router: Router, gate: Any) -> None:
    """What runs on it runs on; what waited moves to the new pool."""
    running = [await pool_execute(router, **gate.task, wait=False) for _ in range(2)]
    await until(lambda: len(router.registry.pools["local"].running) == 2)
    queued = await pool_execute(router, task_type="echo", payload={}, wait=False)
    await pool_register(router, name="a", type="local")
    assert (await pool_task(router, queued.task_id, wait_seconds=20)).pool == "a"
    gate.open()
    for task in running:
        end = await pool_task(router, task.task_id, wait_seconds=20)
        assert (end.status, end.pool) == ("completed", "local")
    await until(lambda: list(router.registry.pools) == ["a"])


async def test_the_implied_pool_can_be_given_a_definition(open_router: Any, gate: Any) -> None:
    """Its work and its workers stay; from then on it is a pool like any other."""
    async with open_router() as router:
        task = await pool_execute(router, **gate.task, wait=False)
        await gate.entered()
        pool = await pool_register(router, name="local", type="local", max_workers=3, labels={"gpu": "1"})
        assert pool.max_workers == 3 and pool.workers.busy == 1
        assert (
            await pool_execute(router, task_type="echo", payload={}, selector={"gpu": "1"})
        ).pool == "local"
        gate.open()
        assert (await pool_task(router, task.task_id, wait_seconds=20)).status == "completed"
    async with open_router() as router:
        assert [each.max_workers for each in (await pool_list(router)).pools] == [3]


async def test_closing_the_implied_pool_leaves_one(router: Router) -> None:
    """The next command must work."""
    await pool_close(router, "local")
    assert await names(router) == ["local"]
    assert (await pool_execute(router, task_type="echo", payload={})).status == "completed"


# Registering.


async def test_the_same_definition_is_the_same_pool(router: Router) -> None:
    """Once more, many times at once, and by the alias of its type."""
    calls = [
        pool_register(router, name="a", type=kind, max_workers=3) for kind in ("local", "mahavishnu") * 5
    ]
    pools = await asyncio.gather(*calls)
    assert len({pool.pool_id for pool in pools}) == 1
    assert [row.spec.name for row in await router.registry.store.pools() if row.spec.name != "local"] == ["a"]


async def test_another_definition_is_a_conflict_that_says_what_differs(router: Router) -> None:
    """With both values."""
    await pool_register(router, name="a", type="local", max_workers=3)
    said = await refused(pool_register(router, name="a", type="local", max_workers=4), "conflict")
    assert "max_workers is 3, not 4" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "name"),
        ({"name": "../a"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"type": "locl"}, "Did you mean 'local'?"),
        ({"min_workers": 3, "max_workers": 2}, "min_workers"),
        ({"min_workers": -1}, "min_workers"),
        ({"max_workers": 0, "min_workers": 0}, "max_workers"),
        ({"max_workers": 100_000}, "max_workers"),
        ({"worker_type": "terminal-claud"}, "Did you mean 'terminal-claude'?"),
        ({"options": {"memory": 1}}, "memory_limit_bytes"),
        ({"options": {"idle_seconds": "long"}}, "idle_seconds"),
    ],
)
async def test_a_definition_that_cannot_be_is_refused(router: Router, fields: Any, said: str) -> None:
    """And nothing of it is kept."""
    definition = {"name": "a", "type": "local"} | fields
    assert said in await refused(pool_register(router, **definition), "invalid_payload")
    assert await names(router) == ["local"] and await router.registry.store.pools() == []


async def test_registered_pools_are_there_under_the_next_owner(open_router: Any) -> None:
    """With everything that defines them."""
    async with open_router() as router:
        await pool_register(
            router, name="a", type="local", region="eu", labels={"x": "ž"}, options={"idle_seconds": 5}
        )
        await pool_scale(router, "a", 3)
        first = await pool_get(router, "a")
    async with open_router() as router:
        again = await pool_get(router, "a")
        for field in ("pool_id", "type", "min_workers", "max_workers", "region", "labels"):
            assert getattr(again, field) == getattr(first, field), field
        assert again.max_workers == 3


async def test_configured_pools_win_and_leave_with_their_configuration(open_router: Any) -> None:
    """A changed definition updates in place; what is configured no more is closed, its work moved."""
    async with open_router(pools={"a": {"max_workers": 2}, "b": {"max_workers": 1}}) as router:
        first = {pool.name: pool for pool in (await pool_list(router)).pools}
    async with open_router(pools={"a": {"max_workers": 5}}) as router:
        await until(lambda: list(router.registry.pools) == ["a"])
        [pool] = (await pool_list(router)).pools
        assert (pool.pool_id, pool.max_workers) == (first["a"].pool_id, 5)


async def test_the_list_can_be_narrowed(router: Router) -> None:
    """By type, under any of its names, and to what is open."""
    await pool_register(router, name="a", type="local")
    await until(lambda: list(router.registry.pools) == ["a"])
    for kind in ("local", "mahavishnu"):
        assert (await pool_list(router, active_only=True, by_type=kind)).total == 1
    assert (await pool_list(router, by_type="ray")).pools == []


async def test_an_unknown_pool_is_refused_with_the_nearest(router: Router) -> None:
    """By every tool that takes a name."""
    calls = [
        pool_get(router, "lokal"),
        pool_health(router, "lokal"),
        pool_scale(router, "lokal", 1),
        pool_close(router, "lokal"),
    ]
    for call in calls:
        assert "Did you mean 'local'?" in await refused(call, "unknown_pool")


# Scaling.


async def test_a_fixed_size_holds_until_auto(router: Router) -> None:
    """Both ways."""
    await pool_register(router, name="a", type="local", min_workers=1, max_workers=4)
    fixed = await pool_scale(router, "a", 2)
    assert (fixed.min_workers, fixed.max_workers) == (2, 2)
    auto = await pool_scale(router, "a", "auto")
    assert (auto.min_workers, auto.max_workers) == (1, 4)
    for workers in (-1, 100_000):
        await refused(pool_scale(router, "a", workers), "invalid_payload")
    assert (await pool_get(router, "a")).max_workers == 4


async def test_a_pool_of_size_zero_keeps_its_tasks_waiting(router: Router) -> None:
    """What runs finishes; the rest says why it waits, and runs when there are workers again."""
    await pool_register(router, name="a", type="local", max_workers=1)
    await pool_execute(router, task_type="echo", payload={}, pool="a")
    await pool_scale(router, "a", 0)
    await until(lambda: not router.registry.pools["a"].adapter.workers)
    task = await pool_execute(router, task_type="echo", payload={}, pool="a", wait=False)
    look = await pool_task(router, task.task_id)
    assert look.status == "queued" and look.waiting.code == "no_idle_worker"
    assert "0 workers" in look.waiting.message
    await pool_scale(router, "a", "auto")
    assert (await pool_task(router, task.task_id, wait_seconds=20)).status == "completed"


async def test_a_workers_task_is_shown_to_who_may_see_it(router: Router, gate: Any) -> None:
    """Others see that it is busy."""
    ann, bob = (router.bound(Caller(name=name, everything=False)) for name in ("ann", "bob"))
    task = await pool_execute(ann, **gate.task, wait=False)
    await gate.entered()
    for caller, shown in ((ann, task.task_id), (bob, None), (router, task.task_id)):
        [worker] = (await pool_get(caller, "local")).worker_rows
        assert (worker.status, worker.task_id) == ("busy", shown)
    gate.open()


# Closing.


async def test_closing_moves_what_waits_and_cancels_what_is_pinned(router: Router, gate: Any) -> None:
    """What runs finishes first; meanwhile the pool takes nothing new."""
    for name in "ab":
        await pool_register(router, name=name, type="local", max_workers=1)
    await pool_scale(router, "b", 0)
    running = await pool_execute(router, **gate.task, pool="a", wait=False)
    await gate.entered()
    pinned = await pool_execute(router, task_type="echo", payload={}, pool="a", wait=False)
    free = await pool_execute(router, task_type="echo", payload={}, strategy="least_loaded", wait=False)
    assert free.pool == "a"
    closing = asyncio.create_task(pool_close(router, "a"))
    assert (await pool_task(router, pinned.task_id, wait_seconds=20)).status == "cancelled"
    moved = await until(lambda: router.dispatcher.tasks[free.task_id].row.pool == "b")
    assert moved and (await pool_get(router, "a")).status == "draining"
    await refused(pool_execute(router, task_type="echo", payload={}, pool="a"), "conflict")
    await refused(pool_register(router, name="a", type="local", max_workers=1), "conflict")
    gate.open()
    assert (await closing).status == "closed"
    assert (await pool_task(router, running.task_id)).status == "completed"
    await pool_scale(router, "b", 1)
    assert (await pool_task(router, free.task_id, wait_seconds=20)).pool == "b"
    await refused(pool_get(router, "a"), "unknown_pool")


@pytest.mark.parametrize("how", [{"force": True}, {"drain_timeout": 0.0}])
async def test_closing_at_once_cancels_what_runs(router: Router, gate: Any, how: Any) -> None:
    """By force, or when the time for draining is over."""
    await pool_register(router, name="a", type="local")
    task = await pool_execute(router, **gate.task, pool="a", wait=False)
    await gate.entered()
    await pool_close(router, "a", **how)
    assert (await pool_task(router, task.task_id)).status == "cancelled"


async def test_closing_outlasts_the_patience_of_its_caller(router: Router, gate: Any) -> None:
    """The call answers with the pool as it stands; a second call can end it at once."""
    await pool_register(router, name="a", type="local")
    task = await pool_execute(router, **gate.task, pool="a", wait=False)
    await gate.entered()
    hurried = router.bound(Caller(kind="mcp", patience=0.01))
    assert (await pool_close(hurried, "a", drain_timeout=3600.0)).status == "draining"
    assert (await pool_task(router, task.task_id)).status == "running"
    assert (await pool_close(router, "a", force=True)).status == "closed"
    assert (await pool_task(router, task.task_id)).status == "cancelled"
    closed = [event for event in (await pool_watch(router)).events if event.kind == "pool.closed"]
    assert [event.pool for event in closed if event.pool == "a"] == ["a"]


async def test_closing_loses_no_task_because_the_other_pools_are_full(open_router: Any, gate: Any) -> None:
    """What was accepted once is not cancelled for want of room."""
    async with open_router(max_queue=2) as router:
        for name in "ab":
            await pool_register(router, name=name, type="local", max_workers=1)
            await pool_scale(router, name, 0)
        tasks = [await pool_execute(router, task_type="echo", payload={}, wait=False) for _ in range(4)]
        await refused(pool_execute(router, task_type="echo", payload={}), "queue_full")
        await pool_close(router, "a")
        await pool_scale(router, "b", 1)
        ends = [await pool_task(router, task.task_id, wait_seconds=20) for task in tasks]
        assert [(end.status, end.pool) for end in ends] == [("completed", "b")] * 4


async def test_a_closed_name_can_be_registered_again(open_router: Any) -> None:
    """As a new pool; closed ones do not come back."""
    async with open_router() as router:
        first = await pool_register(router, name="a", type="local")
        await pool_close(router, "a")
        again = await pool_register(router, name="a", type="local", max_workers=7)
        assert again.pool_id != first.pool_id
        await pool_register(router, name="b", type="local")
        await pool_close(router, "b")
    async with open_router() as router:
        assert [(pool.name, pool.max_workers) for pool in (await pool_list(router)).pools] == [("a", 7)]


async def test_a_pool_is_healthy_or_says_why_not(router: Router) -> None:
    """One by name, or all of them."""
    report = await pool_health(router)
    assert report.status == "healthy" and [pool.name for pool in report.pools] == ["local"]
    assert (await pool_health(router, "local")).pools[0].latency_seconds >= 0


@pytest.mark.parametrize(
    "configured", [{}, {"pools": {"mine": {"type": "local"}}}], ids=["implied", "configured"]
)
async def test_a_size_that_was_fixed_outlives_the_owner(open_router: Any, configured: dict[str, Any]) -> None:
    """Until it is `auto` again; the definition is what it was."""
    name = next(iter(configured.get("pools", {"local": None})))
    async with open_router(**configured) as router:
        assert (await pool_scale(router, name, workers=3)).max_workers == 3
    async with open_router(**configured) as router:
        assert (await pool_get(router, name)).max_workers == 3
        assert (await pool_scale(router, name, workers="auto")).max_workers == 2
    async with open_router(**configured) as router:
        assert (await pool_get(router, name)).max_workers == 2


async def test_what_json_cannot_hold_is_no_payload(router: Router) -> None:
    """Not even quietly, as null."""
    message = await refused(
        pool_execute(router, task_type="echo", payload={"x": float("nan")}), "invalid_payload"
    )
    assert "finite" in message


# Pools of agents.

AGENTS: dict[str, Any] = {
    "agents": {"mine": {"argv": ["cat"]}, "other": {"argv": ["cat"]}},
    "allow": Allow(prompts=("mine",)),
}


async def test_a_pool_runs_prompts_or_everything_else(open_router: Any) -> None:
    """By its worker type; `pool_list` says which, and routing goes by it."""
    async with open_router(**AGENTS) as router:
        await pool_register(router, name="a", type="local", worker_type="mine")
        await pool_register(router, name="p", type="local")
        types = {pool.name: pool.task_types for pool in (await pool_list(router)).pools}
        assert types["a"] == ["prompt"]
        assert set(types["p"]) == set(router.registry.task_types) - {"prompt"}
        for strategy in ("least_loaded", "round_robin", "random"):
            prompted = await pool_execute(
                router, task_type="prompt", payload={"prompt": "x"}, strategy=strategy
            )
            echoed = await pool_execute(router, task_type="echo", payload={}, strategy=strategy)
            assert (prompted.status, prompted.pool) == ("completed", "a")
            assert (echoed.status, echoed.pool) == ("completed", "p")


async def test_a_pool_that_does_not_run_a_type_refuses_it(open_router: Any) -> None:
    """Also when it is named."""
    async with open_router(**AGENTS) as router:
        await pool_register(router, name="a", type="local", worker_type="mine")
        await pool_register(router, name="p", type="local")
        said = await refused(
            pool_execute(router, task_type="prompt", payload={"prompt": "x"}, pool="p"), "unsupported"
        )
        assert "'p' does not run 'prompt'" in said
        said = await refused(pool_execute(router, task_type="echo", payload={}, pool="a"), "unsupported")
        assert "it runs prompt" in said


async def test_without_a_pool_of_agents_a_prompt_says_how_to_register_one(open_router: Any) -> None:
    """In the words of the tool and of the console."""
    async with open_router(**AGENTS) as router:
        said = await refused(pool_execute(router, task_type="prompt", payload={"prompt": "x"}), "unsupported")
        assert 'worker_type="terminal-claude"' in said and "--worker-type terminal-claude" in said


async def test_a_worker_type_that_is_not_allowed_is_not_registered(open_router: Any) -> None:
    """Built in or configured; the refusal names the key."""
    async with open_router(**AGENTS) as router:
        for worker_type in ("terminal-claude", "other"):
            said = await refused(
                pool_register(router, name="a", type="local", worker_type=worker_type), "not_allowed"
            )
            assert worker_type in said and "allow.prompts" in said
        assert await names(router) == ["local"]


@pytest.mark.parametrize(
    ("worker_type", "said"), [("other", "allow.prompts"), ("mien", "Did you mean 'mine'")]
)
async def test_a_configured_pool_that_may_not_be_is_unhealthy(
    open_router: Any, worker_type: str, said: str
) -> None:
    """It stops nobody else; a prompt that waits for it says why."""
    pools = {"a": {"worker_type": worker_type}, "p": {}}
    async with open_router(**AGENTS, pools=pools) as router:
        assert (await pool_execute(router, task_type="echo", payload={})).pool == "p"
        (health,) = (await pool_health(router, "a")).pools
        assert health.status == "unhealthy" and health.reason is not None and said in health.reason
        task = await pool_execute(router, task_type="prompt", payload={"prompt": "x"}, wait=False)
        assert task.waiting is not None and task.waiting.code == "pool_unhealthy"
        assert said in task.waiting.message


async def test_the_implied_pool_does_not_become_one_of_agents(open_router: Any) -> None:
    """It may have work that agents could not do."""
    async with open_router(**AGENTS) as router:
        said = await refused(
            pool_register(router, name="local", type="local", worker_type="mine"), "conflict"
        )
        assert "worker_type is 'python', not 'mine'" in said
        assert (await pool_execute(router, task_type="echo", payload={})).status == "completed"
