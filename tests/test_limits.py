"""Limits of pools and callers, over real workers: who waits, why, and who goes on meanwhile."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller, Task
from mcp_pools.settings import load
from mcp_pools.store import Accept, TaskRow
from mcp_pools.stores.sqlite import SqliteStore
from mcp_pools.tools import pool_cancel, pool_distribute, pool_execute, pool_task

pytestmark = pytest.mark.anyio
POOLS = {"a": {"min_workers": 0, "max_workers": 3}}
TWO_POOLS = {name: {"min_workers": 0, "max_workers": 2} for name in "ab"}
ECHO: dict[str, Any] = {"task_type": "echo", "payload": {}}


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router looks at no pool from time to time: what starts, something else has started."""
    monkeypatch.setattr("mcp_pools.router.WATCH_SECONDS", 3600.0)


@pytest.fixture
def other_gate(gate: Any, home: Path) -> Any:
    """A second thing to wait for."""
    return type(gate)(home / "other")


def of(router: Router, name: str) -> Router:
    """The router on behalf of somebody."""
    return router.bound(Caller(name=name))


async def submitted(router: Router, **fields: Any) -> Task:
    """A task that is not waited for."""
    return await pool_execute(router, **fields, wait=False)


async def finished(router: Router, task: Task) -> Task:
    """A task's end."""
    return await pool_task(router, task.task_id, wait_seconds=20)


async def why(router: Router, task: Task) -> tuple[str, str]:
    """Why a task waits."""
    look = await pool_task(router, task.task_id)
    assert look.status == "queued" and look.waiting is not None
    return look.waiting.code, look.waiting.message


def one_at_a_time(ends: list[Task]) -> bool:
    """Whether none of these started before the one before it had finished."""
    ran = sorted(ends, key=lambda task: task.started_at)
    return all(earlier.finished_at <= later.started_at for earlier, later in pairwise(ran))


# So many at a time.


async def test_a_pool_runs_no_more_than_its_limit(open_router: Any, gate: Any, undisturbed: None) -> None:
    """Though it has idle workers; who waits is told so, and the next starts when one ends."""
    async with open_router(pools=POOLS, limits={"pools": {"a": {"concurrency": 1}}}) as router:
        first = await submitted(router, **gate.task)
        await gate.entered()
        others = [await submitted(router, **gate.task) for _ in range(3)]
        for task in others:
            code, message = await why(router, task)
            assert code == "concurrency_limited"
            assert message == "The pool a runs as many tasks as its limit allows: 1."
        gate.open()
        ends = [await finished(router, task) for task in (first, *others)]
        assert {end.status for end in ends} == {"completed"} and one_at_a_time(ends)


async def test_a_caller_at_its_limit_is_overtaken(
    open_router: Any, gate: Any, other_gate: Any, undisturbed: None
) -> None:
    """By everybody else, by its own priority not; when its task ends, its next one starts."""
    async with open_router(pools=POOLS, limits={"callers": {"ada": {"concurrency": 1}}}) as router:
        ada, bob = of(router, "ada"), of(router, "bob")
        first = await submitted(ada, **gate.task)
        await gate.entered()
        second = await submitted(ada, **other_gate.task, priority=100)
        code, message = await why(ada, second)
        assert code == "concurrency_limited"
        assert message == "The caller ada runs as many tasks as its limit allows: 1."
        for end in await asyncio.gather(*(pool_execute(bob, **ECHO) for _ in range(10))):
            assert (end.status, end.caller) == ("completed", "bob")
        assert (await pool_task(ada, second.task_id)).status == "queued"
        gate.open()
        await other_gate.entered()
        assert (await finished(ada, first)).status == "completed"
        other_gate.open()
        assert (await finished(ada, second)).status == "completed"


async def test_a_caller_has_one_limit_on_all_pools(open_router: Any, gate: Any, undisturbed: None) -> None:
    """What ends on one pool lets its next one start on another."""
    async with open_router(pools=TWO_POOLS, limits={"callers": {"ada": {"concurrency": 1}}}) as router:
        ada = of(router, "ada")
        first = await submitted(ada, **gate.task, pool="a")
        await gate.entered()
        second = await submitted(ada, **ECHO, pool="b")
        assert (await why(ada, second))[0] == "concurrency_limited"
        gate.open()
        ends = [await finished(ada, task) for task in (first, second)]
        assert [end.pool for end in ends] == ["a", "b"] and one_at_a_time(ends)


async def test_a_glob_is_a_limit_for_each_that_it_matches(
    open_router: Any, gate: Any, other_gate: Any
) -> None:
    """Not for all of them together."""
    async with open_router(pools=POOLS, limits={"callers": {"*": {"concurrency": 1}}}) as router:
        ada, bob = of(router, "ada"), of(router, "bob")
        await submitted(ada, **gate.task)
        await submitted(bob, **other_gate.task)
        await gate.entered()
        await other_gate.entered()
        waiting = {who.caller.name: await submitted(who, **ECHO) for who in (ada, bob)}
        assert "caller ada" in (await why(ada, waiting["ada"]))[1]
        assert "caller bob" in (await why(bob, waiting["bob"]))[1]
        other_gate.open()
        assert (await finished(bob, waiting["bob"])).status == "completed"
        assert (await pool_task(ada, waiting["ada"].task_id)).status == "queued"
        gate.open()
        assert (await finished(ada, waiting["ada"])).status == "completed"


async def test_a_place_is_given_back_however_a_task_ends(
    open_router: Any, gate: Any, undisturbed: None
) -> None:
    """It failed, lost its worker, took too long, was tried again, was cancelled, or was never kept."""
    limits = {"pools": {"a": {"concurrency": 1}}, "callers": {"*": {"concurrency": 1}}}
    async with open_router(pools=POOLS, limits=limits) as router:
        for kind, attempts, status in [
            ("fail-until", 1, "failed"),
            ("fail-until", 2, "completed"),
            ("die-until", 1, "failed"),
            ("die-until", 2, "completed"),
        ]:
            end = await pool_execute(router, task_type=kind, payload={"attempt": 2}, max_attempts=attempts)
            assert end.status == status
        assert (await pool_execute(router, **gate.task, timeout=0.1)).status == "timed_out"
        running = await submitted(router, **gate.task)
        queued = await submitted(router, **gate.task)
        assert (await pool_cancel(router, queued.task_id)).cancelled
        assert (await pool_cancel(router, running.task_id)).cancelled
        again = [pool_execute(router, **ECHO, idempotency_key="k") for _ in range(5)]
        assert len({end.task_id for end in await asyncio.gather(*again)}) == 1
        assert (await pool_execute(router, **ECHO)).status == "completed"


async def test_an_idle_pool_takes_over_no_more_than_its_limit(
    open_router: Any, gate: Any, other_gate: Any, undisturbed: None
) -> None:
    """What waits elsewhere goes on waiting there."""
    async with open_router(pools=TWO_POOLS, limits={"pools": {"b": {"concurrency": 1}}}) as router:
        busy = [await submitted(router, **gate.task, pool="a") for _ in range(2)]
        waiting = [await submitted(router, **other_gate.task, pool="a") for _ in range(3)]
        for live in [router.dispatcher.tasks[task.task_id] for task in waiting]:
            pool = router.registry.pools["a"]
            assert pool.queue.remove(live.task_id) is live
            live.row.pinned = False
            live.lane = live.lane._replace(stealable=True)
            router.dispatcher.enqueue(pool, live)
        assert (await pool_execute(router, **ECHO, pool="b")).status == "completed"  # it has become idle
        await other_gate.entered()
        assert len(router.registry.pools["b"].running) == 1
        looks = [await pool_task(router, task.task_id) for task in waiting]
        assert sorted((look.status, look.pool) for look in looks) == [
            ("queued", "a"),
            ("queued", "a"),
            ("running", "b"),
        ]
        gate.open()
        other_gate.open()
        for task in (*busy, *waiting):
            assert (await finished(router, task)).status == "completed"


async def test_a_distribution_keeps_to_its_callers_limit(
    open_router: Any, gate: Any, undisturbed: None
) -> None:
    """One part after the other; others need not wait until it is over."""
    async with open_router(pools=TWO_POOLS, limits={"callers": {"ada": {"concurrency": 1}}}) as router:
        ada = of(router, "ada")
        items = [str(gate.path)] * 6
        whole = await pool_distribute(
            ada, task_type="hold", payload={"gate": "{item}", "items": items}, wait=False
        )
        await gate.entered()
        assert (await pool_execute(of(router, "bob"), **ECHO)).status == "completed"
        gate.open()
        end = await pool_task(ada, whole.distribution_id, wait_seconds=20)
        assert (end.status, end.succeeded) == ("completed", 6)
        parts = [await pool_task(ada, result.task_id) for result in end.results]
        assert one_at_a_time(parts) and {part.pool for part in parts} == {"a", "b"}


# So many a second.


@pytest.mark.parametrize("kind", ["pools", "callers"])
async def test_a_rate_lets_the_next_one_start_by_itself(
    open_router: Any, undisturbed: None, kind: str
) -> None:
    """Nothing else has to happen; none starts sooner than it may, and who waits is told so."""
    async with open_router(pools=POOLS, limits={kind: {"*": {"rate": 4.0, "burst": 2}}}) as router:
        ada = of(router, "ada")
        tasks = [await submitted(ada, **ECHO) for _ in range(5)]
        code, message = await why(ada, tasks[-1])
        whose = "pool a" if kind == "pools" else "caller ada"
        assert (code, message) == ("rate_limited", f"The {whose} may start 4 tasks a second.")
        ends = [await finished(ada, task) for task in tasks]
        assert [end.status for end in ends] == ["completed"] * 5
        events = [event for _, event in await router.registry.store.events()]
        starts = [event.at for event in events if event.kind == "task.started"]
        # Two may start at once; each later one a quarter of a second after the one before it could have.
        assert len(starts) == 5
        assert all(starts[nth] - starts[0] > (nth - 1) / 4 - 0.05 for nth in range(2, 5))


async def test_a_caller_over_its_rate_is_overtaken(open_router: Any) -> None:
    """Its next task would start in ten minutes; everybody else's starts at once."""
    limits = {"callers": {"ada": {"rate": 1 / 600, "burst": 1}}}
    async with open_router(pools=POOLS, limits=limits) as router:
        ada = of(router, "ada")
        assert (await pool_execute(ada, **ECHO)).status == "completed"
        waiting = await submitted(ada, **ECHO, priority=100)
        assert (await why(ada, waiting))[0] == "rate_limited"
        for _ in range(3):
            assert (await pool_execute(of(router, "bob"), **ECHO)).status == "completed"
        assert (await why(ada, waiting))[0] == "rate_limited"
        assert (await pool_cancel(ada, waiting.task_id)).cancelled


# Owners.


async def test_limits_hold_for_what_an_earlier_owner_left(
    open_router: Any, home: Path, gate: Any, undisturbed: None
) -> None:
    """What ran then has ended and frees no place; what waits starts one at a time."""
    store = SqliteStore(home / "pools.db")
    await store.open()
    for at, status in enumerate(("running", "running", "queued", "queued")):
        given = {"caller": "ada", "pool": "a", "pool_type": "local", "status": status, "created_at": 0.0}
        running = {"attempt": 1, "launch": 1, "started_at": 1.0, "worker": "w"} if at < 2 else {}
        payload = b'{"gate":"%s"}' % str(gate.path).encode()
        row = TaskRow(task_id=f"t_{at}", task_type="hold", payload=payload, **given | running)
        assert await store.commit(Accept(row))
    await store.close()
    limits = {"pools": {"a": {"concurrency": 1}}, "callers": {"ada": {"concurrency": 1}}}
    async with open_router(pools=POOLS, limits=limits) as router:
        for task_id in ("t_0", "t_1"):
            end = await pool_task(router, task_id, wait_seconds=20)
            assert (end.status, end.error.code) == ("failed", "interrupted")
        await gate.entered()
        task = await submitted(of(router, "ada"), **gate.task)
        assert (await why(router, task))[0] == "concurrency_limited"
        assert len(router.registry.pools["a"].running) == 1
        gate.open()
        ends = [await pool_task(router, each, wait_seconds=20) for each in ("t_2", "t_3", task.task_id)]
        assert {end.status for end in ends} == {"completed"} and one_at_a_time(ends)


# How they are written.


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("{pool: {a: {rate: 1}}}", "limits.pool", "pools"),
        ("{caller: {}}", "limits.caller", "callers"),
        ("{pools: {a: {concurency: 1}}}", "limits.pools.a.concurency", "concurrency"),
        ("{callers: {'*': {rates: 1}}}", "limits.callers.*.rates", "rate"),
        ("{callers: {ada: {bursts: 1}}}", "limits.callers.ada.bursts", "burst"),
    ],
)
def test_an_unknown_key_gets_the_nearest_one(home: Path, text: str, key: str, suggestion: str) -> None:
    """With the file that it stands in."""
    file = home / "config.yaml"
    file.write_text(f"limits: {text}")
    with pytest.raises(PoolsError) as refused:
        load(home=home, environ={}, config_file=file)
    assert f"Unknown key {key!r} in {file}." in refused.value.message
    assert f"Did you mean '{suggestion}'?" in refused.value.next


@pytest.mark.parametrize("kind", ["pools", "callers"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("rate", value) for value in (0, -1, float("inf"), float("nan"), "fast")),
        *(("burst", value) for value in (0, -1, 1.5)),
        *(("concurrency", value) for value in (0, -3, 0.5, "all")),
    ],
)
def test_a_limit_that_lets_nothing_through_or_is_none_is_refused(
    home: Path, kind: str, key: str, value: Any
) -> None:
    """A pool that runs nothing is closed or has no workers; no limit is no key."""
    with pytest.raises(PoolsError) as refused:
        Settings(home=home, limits={kind: {"a": {key: value}}})
    assert refused.value.code == "invalid_payload"
    assert f"limits.{kind}.a.{key}" in refused.value.message and repr(value) in refused.value.message


def test_limits_come_from_the_environment_too(home: Path) -> None:
    """As JSON, or as YAML in one line."""
    wanted = Settings(home=home, limits={"pools": {"a*": {"rate": 0.5, "burst": 2}}}).limits
    for text in ('{"pools": {"a*": {"rate": 0.5, "burst": 2}}}', "{pools: {a*: {rate: 0.5, burst: 2}}}"):
        assert load(home=home, environ={"MCP_POOLS_LIMITS": text}, user_config_dir=home).limits == wanted


async def test_without_limits_nobody_is_held_back(open_router: Any, gate: Any) -> None:
    """As many run as there are workers."""
    async with open_router(pools=POOLS) as router:
        tasks = [await submitted(router, **gate.task) for _ in range(4)]
        await until(lambda: len(router.registry.pools["a"].running) == 3)
        assert (await why(router, tasks[3]))[0] == "no_idle_worker"
        gate.open()
        for task in tasks:
            assert (await finished(router, task)).status == "completed"
