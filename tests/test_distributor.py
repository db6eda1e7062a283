"""Distributions over real workers: `mcp_pools.distributor` and what it is made of."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from stores.faults import Unlucky
from waiting import until

from mcp_pools import Router
from mcp_pools.distributor import shown
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller, Distribution, Task
from mcp_pools.pool import LiveTask
from mcp_pools.store import AcceptDistribution, TaskRow
from mcp_pools.tools import (
    pool_cancel,
    pool_close,
    pool_distribute,
    pool_execute,
    pool_register,
    pool_search,
    pool_task,
)

pytestmark = pytest.mark.anyio

CAPACITIES = {"a": 1, "b": 2, "c": 3, "d": 4}


async def squares(router: Router, items: list[Any], **wanted: Any) -> Distribution:
    """Ten divided by each item: 0 fails."""
    payload = {"expression": "10 / x", "items": items}
    return await pool_distribute(router, task_type="compute", payload=payload, **wanted)


async def echoes(router: Router, items: list[Any], **wanted: Any) -> Distribution:
    """Each item comes back as `x`."""
    payload = {"x": "{item}", "items": items}
    return await pool_distribute(router, task_type="echo", payload=payload, **wanted)


async def ended(router: Router, distribution_id: str) -> Distribution:
    """A distribution's end."""
    whole = await pool_task(router, distribution_id, wait_seconds=30)
    assert isinstance(whole, Distribution) and whole.finished_at is not None
    return whole


async def four_pools(router: Router, least: int = 0) -> None:
    """Pools of four different capacities."""
    for name, capacity in CAPACITIES.items():
        await pool_register(router, name=name, type="local", min_workers=least, max_workers=capacity)


def results(whole: Distribution) -> list[Any]:
    """The items' results, or the codes of their errors."""
    return [item.error.code if item.error else item.result for item in whole.results]


# Results, in order.


async def test_map_reduce_folds_the_results_in_the_items_order(router: Router) -> None:
    """The example of the README."""
    payload = {"expression": "x**2", "items": [1, 2, 3, 4, 5]}
    whole = await pool_distribute(router, task_type="compute", payload=payload, strategy="map_reduce")
    assert whole.reduced == results(whole) == [1, 4, 9, 16, 25]
    assert (whole.status, whole.total, whole.succeeded, whole.failed) == ("completed", 5, 5, 0)
    assert whole.pools == {"local": 5} and whole.next is None


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
async def test_an_item_that_fails_leaves_the_others_standing(router: Router, chunk_size: int | None) -> None:
    """Whatever the chunking: each item's own outcome, in its place."""
    whole = await squares(router, [1, 2, 0, 4, 5], strategy="map_reduce", chunk_size=chunk_size)
    assert results(whole) == [10.0, 5.0, "task_error", 2.5, 2.0]
    assert [item.index for item in whole.results] == [0, 1, 2, 3, 4]
    assert [item.status for item in whole.results][2] == "failed"
    assert "division by zero" in (whole.results[2].error.message if whole.results[2].error else "")
    assert (whole.status, whole.succeeded, whole.failed) == ("completed", 4, 1)
    assert whole.reduced == [10.0, 5.0, 2.5, 2.0]


async def test_a_distribution_all_of_whose_items_failed_has_failed(router: Router) -> None:
    """And folds nothing."""
    whole = await squares(router, [0, 0], strategy="map_reduce", reduce="sum")
    assert (whole.status, whole.succeeded, whole.failed, whole.reduced) == ("failed", 0, 2, 0)


async def test_what_is_kept_is_what_was_returned(router: Router) -> None:
    """Looked at again, in part, and its parts one by one."""
    whole = await squares(router, [1, 0, 5], strategy="map_reduce")
    assert await pool_task(router, whole.distribution_id) == whole
    part = await pool_task(router, whole.distribution_id, offset=1, limit=1)
    assert isinstance(part, Distribution) and part.results == whole.results[1:2]
    for item in whole.results:
        task = await pool_task(router, item.task_id)
        assert isinstance(task, Task)
        assert (task.status, task.distribution_id) == (item.status, whole.distribution_id)
    found = (await pool_search(router, status="failed")).tasks
    assert [task.task_id for task in found] == [whole.results[1].task_id]


async def test_each_item_is_filled_into_a_payload_that_takes_no_items(router: Router) -> None:
    """A text that is nothing else becomes the item itself; within a text it becomes text."""
    payload = {
        "whole": "{item}",
        "name": "n-{item.n}",
        "deep": [{"{item}": "{item.n}"}],
        "items": [{"n": 1}, {"n": "é"}],
    }
    whole = await pool_distribute(router, task_type="echo", payload=payload)
    assert results(whole) == [
        {"whole": {"n": 1}, "name": "n-1", "deep": [{"{item}": 1}]},
        {"whole": {"n": "é"}, "name": "n-é", "deep": [{"{item}": "é"}]},
    ]


async def test_a_command_runs_for_each_item(open_router: Any, tmp_path: Path) -> None:
    """Numbers become text where the type wants text."""
    for lines in (1, 2):
        (tmp_path / f"{lines}.txt").write_text("line\n" * lines)
    async with open_router(allow={"commands": ["wc"]}) as router:
        caller = router.bound(Caller(cwd=str(tmp_path)))
        payload = {"argv": ["wc", "-l", "{item}.txt"], "items": [1, 2, 3]}
        whole = await pool_distribute(caller, task_type="command", payload=payload)
        assert [item.status for item in whole.results] == ["completed", "completed", "failed"]
        assert [item.result["stdout"][:1] for item in whole.results[:2]] == ["1", "2"]
        assert (whole.status, whole.failed) == ("completed", 1)


# Where the work goes.


@pytest.fixture
async def fleet(open_router: Any) -> Any:
    """Four pools of different capacity, none of which takes over what another one has."""
    async with open_router(work_stealing=False) as router:
        await four_pools(router)
        yield router


async def test_round_robin_is_even_within_one(fleet: Router) -> None:
    """Over several calls, too: whose turn it was is remembered."""
    counts: Counter[str] = Counter()
    for items in (1, 2, 7, 31):
        whole = await echoes(fleet, list(range(items)), strategy="round_robin")
        assert max(whole.pools.values()) - min([*whole.pools.values(), *[0] * (len(whole.pools) < 4)]) <= 1
        counts.update(whole.pools)
    assert max(counts.values()) - min(counts.values()) <= 1 and counts.total() == 41


async def test_least_loaded_is_in_proportion_to_free_capacity(fleet: Router, gate: Any) -> None:
    """Idle pools get work by their size; what runs already counts."""
    whole = await echoes(fleet, list(range(40)), strategy="least_loaded")
    assert whole.pools == {"a": 4, "b": 8, "c": 12, "d": 16}
    held = await pool_distribute(
        fleet,
        task_type="hold",
        payload={"gate": str(gate.path), "items": [1] * 4},
        pools=["d"],
        wait=False,
    )
    whole = await echoes(fleet, list(range(6)), strategy="least_loaded")
    assert whole.pools == {"a": 1, "b": 2, "c": 3}
    gate.open()
    await ended(fleet, held.distribution_id)


async def test_random_is_uniform(fleet: Router) -> None:
    """400 items on four pools: each gets 100, give or take five standard deviations (43)."""
    whole = await echoes(fleet, list(range(400)), strategy="random")
    assert set(whole.pools) == set(CAPACITIES)
    assert all(57 <= count <= 143 for count in whole.pools.values()), whole.pools


async def test_broadcast_runs_once_on_every_pool(fleet: Router) -> None:
    """The whole payload, its items untouched."""
    payload = {"x": "{item}", "items": [1, 2, 3]}
    whole = await pool_distribute(fleet, task_type="echo", payload=payload, strategy="broadcast")
    assert whole.pools == dict.fromkeys(CAPACITIES, 1) and whole.total == 4
    assert results(whole) == [payload] * 4


async def test_an_affinity_key_comes_home_when_its_pool_is_well_again(open_router: Any, home: Path) -> None:
    """While it is ill, the key has one stable stand-in."""
    async with open_router() as router:
        await four_pools(router, least=1)

        async def where() -> str:
            task = await pool_execute(router, task_type="echo", payload={}, affinity_key="key")
            return str(task.pool)

        first = await where()
        assert {await where() for _ in range(5)} == {first}
        pool = router.registry.pools[first]
        (home / "run" / first).rename(home / "aside")  # a worker without its journal cannot start
        [worker] = pool.adapter.workers
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: pool.health == "unhealthy")
        other = await where()
        assert other != first and {await where() for _ in range(5)} == {other}
        (home / "aside").rename(home / "run" / first)
        await until(lambda: pool.health == "healthy")
        assert await where() == first


async def test_pools_can_be_chosen(fleet: Router) -> None:
    """By name, by type, by label."""
    await pool_register(fleet, name="e", type="local", max_workers=1, labels={"disk": "fast"})
    assert set((await echoes(fleet, [1, 2], pools=["a", "c"])).pools) == {"a", "c"}
    assert set((await echoes(fleet, list(range(10)), pool_filter="mahavishnu")).pools) == {*CAPACITIES, "e"}
    assert set((await echoes(fleet, [1, 2], selector={"disk": "fast"})).pools) == {"e"}
    await refused(echoes(fleet, [1], pools=["nowhere"]), "unknown_pool")
    await refused(echoes(fleet, [1], pool_filter="kubernetes"), "unsupported")
    await refused(echoes(fleet, [1], pools=["a"], selector={"disk": "fast"}), "unsupported")
    await refused(echoes(fleet, [1], pools=[]), "invalid_payload")


async def test_an_ill_pool_is_a_failed_result_of_a_broadcast(open_router: Any, home: Path) -> None:
    """In its place, with its reason; the others answer."""
    (home / "run").mkdir()
    (home / "run" / "ill").write_text("a file where its directory belongs")
    async with open_router(pools={"ill": {"type": "local"}, "well": {"type": "local"}}) as router:
        whole = await pool_distribute(router, task_type="echo", payload={"x": 1}, strategy="broadcast")
        outcome = {item.pool: item for item in whole.results}
        assert outcome["well"].result == {"x": 1}
        assert outcome["ill"].error is not None and outcome["ill"].error.code == "pool_unreachable"
        assert (whole.status, whole.succeeded, whole.failed) == ("completed", 1, 1)
        assert await pool_task(router, whole.distribution_id) == whole
        spread = await echoes(router, [1, 2, 3, 4])
        assert spread.pools == {"well": 4}


def test_what_is_shown_of_a_part_stays_as_it_was_when_it_was_looked_at() -> None:
    """An end that comes while the answer is being made is not on disk yet, so nobody is told of it."""
    row = TaskRow(task_id="t_1", task_type="echo", caller="local", created_at=0.0, payload=b"{}")
    row.status = "running"
    part = LiveTask(row)
    seen = shown(part)
    row.status, row.result = "completed", b"1"
    assert (seen.status, seen.result) == ("running", None)
    assert (shown(part).status, shown(part).result) == ("running", None)
    part.wake()
    assert (shown(part).status, shown(part).result) == ("completed", b"1")


# Attempts, errors, ends.


async def test_only_the_items_that_failed_are_tried_again(router: Router, home: Path) -> None:
    """In a chunk as by themselves; each keeps its place."""
    file = home / "noted"
    payload = {"items": [1, 2, 3, 4, 5, 6], "file": str(file), "fail": [2, 5]}
    whole = await pool_distribute(
        router, task_type="note-items", payload=payload, chunk_size=3, max_attempts=2
    )
    assert results(whole) == [10, 20, 30, 40, 50, 60]
    assert Counter(file.read_text().split()) == {"1": 1, "2": 2, "3": 1, "4": 1, "5": 2, "6": 1}
    once = await pool_distribute(router, task_type="note-items", payload=payload, chunk_size=3)
    assert results(once) == [10, "task_error", 30, 40, "task_error", 60]
    assert {task.status for task in (await pool_search(router, task_type="note-items")).tasks} == {
        "completed"
    }


async def test_an_item_whose_worker_dies_is_tried_again(router: Router) -> None:
    """As often as was allowed."""
    wanted = {"task_type": "die-until", "payload": {"attempt": "{item}", "items": [1, 2]}}
    whole = await pool_distribute(router, **wanted, max_attempts=2)
    assert results(whole) == [1, 2]
    whole = await pool_distribute(router, **wanted)
    assert results(whole) == [1, "worker_lost"]


async def test_an_item_that_failed_is_tried_again_elsewhere(router: Router) -> None:
    """Where another healthy pool takes it."""
    for name in "ab":
        await pool_register(router, name=name, type="local", max_workers=1)
    wanted = {"task_type": "fail-until", "payload": {"attempt": "{item}", "items": [2, 2, 2, 2]}}
    begun = await pool_distribute(router, **wanted, max_attempts=2, wait=False)
    first = [item.pool for item in begun.results]
    whole = await ended(router, begun.distribution_id)
    assert results(whole) == [2, 2, 2, 2]
    assert [item.pool for item in whole.results] == [{"a": "b", "b": "a"}[str(pool)] for pool in first]


async def test_fail_fast_cancels_the_rest(router: Router, gate: Any) -> None:
    """What runs is stopped, what waits never starts; each says why."""
    payload = {"fail": "{item}", "gate": str(gate.path), "items": [False, *[False] * 28, True, False]}
    await pool_register(router, name="two", type="local", max_workers=2)
    begun = await pool_distribute(
        router, task_type="fail-or-hold", payload=payload, pools=["two"], on_error="fail_fast", wait=False
    )
    first = router.dispatcher.tasks[begun.results[1].task_id]
    await until(lambda: first.row.status == "running")
    assert await pool_cancel(router, first.task_id)  # one that is cancelled by itself is no failure
    for item in begun.results[2:29]:
        await pool_cancel(router, item.task_id)
    whole = await ended(router, begun.distribution_id)
    assert (whole.status, whole.failed, whole.cancelled, whole.succeeded) == ("failed", 1, 30, 0)
    why = "Cancelled because another item failed (on_error is fail_fast)."
    said = [item.error.message for item in whole.results if item.error]
    assert (said[0], said[30], said[29]) == (why, why, "RuntimeError: told to")


async def test_cancelling_stops_all_of_it(router: Router, gate: Any) -> None:
    """What runs, what waits; it has ended when the call returns."""
    payload = {"gate": str(gate.path), "items": list(range(20))}
    begun = await pool_distribute(router, task_type="hold", payload=payload, wait=False)
    assert begun.status in ("queued", "running") and begun.next is not None
    await gate.entered()
    answer = await pool_cancel(router, begun.distribution_id)
    assert answer.cancelled and not answer.already_finished
    whole = await ended(router, begun.distribution_id)
    assert (whole.status, whole.cancelled) == ("cancelled", 20)
    assert router.unfinished() == 0
    again = await pool_cancel(router, begun.distribution_id)
    assert again.already_finished and not again.cancelled


async def test_a_caller_that_withdraws_takes_the_whole_with_it(router: Router, gate: Any) -> None:
    """As an interrupted command does."""
    view = router.bound(Caller())
    payload = {"gate": str(gate.path), "items": [1, 2, 3]}
    call = asyncio.create_task(pool_distribute(view, task_type="hold", payload=payload))
    await gate.entered()
    view.withdraw()
    assert (await call).status == "cancelled"


async def test_a_pool_that_closes_sends_its_share_elsewhere(router: Router, gate: Any) -> None:
    """No item is lost."""
    for name in "ab":
        await pool_register(router, name=name, type="local", max_workers=1)
    payload = {"gate": str(gate.path), "items": list(range(8))}
    begun = await pool_distribute(router, task_type="hold", payload=payload, wait=False)
    assert begun.pools == {"a": 4, "b": 4}
    await gate.entered()
    closing = asyncio.create_task(pool_close(router, "a"))
    await until(lambda: len(router.registry.pools["b"].queue) == 6)
    gate.open()
    await closing
    whole = await ended(router, begun.distribution_id)
    assert whole.succeeded == 8 and whole.pools == {"a": 1, "b": 7}


# Folding.


@pytest.mark.parametrize(
    ("reduce", "reduced"), [("sum", 6), ("count", 3), ("min", 1), ("max", 3), ("concat", [3, 1, 2])]
)
async def test_the_folds(router: Router, reduce: str, reduced: Any) -> None:
    """Of the results that succeeded."""
    payload = {"expression": "x", "items": [3, 1, 2]}
    whole = await pool_distribute(
        router, task_type="compute", payload=payload, strategy="map_reduce", reduce=reduce
    )
    assert whole.reduced == reduced


async def test_a_fold_is_done_by_any_strategy_that_is_asked_for_one(router: Router) -> None:
    """`concat` would only repeat the results: without `map_reduce` it is not done."""
    assert (await echoes(router, [1], reduce="merge")).reduced == {"x": 1}
    assert (await echoes(router, [1])).reduced is None


async def test_a_fold_that_fails_leaves_the_results_standing(router: Router) -> None:
    """And says which one it could not take."""
    whole = await echoes(router, [1, 2], strategy="map_reduce", reduce="sum")
    assert whole.status == "completed" and results(whole) == [{"x": 1}, {"x": 2}]
    assert whole.reduced is None and whole.error is not None
    assert whole.error.code == "task_error" and "result 0 is an object" in whole.error.message
    assert await pool_task(router, whole.distribution_id) == whole


async def test_a_task_type_folds(router: Router) -> None:
    """It gets the results as its items; when it fails, that is told, too."""
    payload = {"expression": "x", "items": [1, 2, 3]}
    wanted = {"task_type": "compute", "payload": payload, "strategy": "map_reduce"}
    whole = await pool_distribute(router, **wanted, reduce="sum-of-squares")
    assert whole.reduced == 14 and whole.total == 3
    assert await pool_task(router, whole.distribution_id) == whole
    bad = await echoes(router, [1], reduce="sum-of-squares")
    assert bad.error is not None and bad.error.code == "invalid_payload" and bad.succeeded == 1


# Refused.


@pytest.mark.parametrize(
    ("wanted", "code", "said"),
    [
        ({"payload": {"x": 1}}, "invalid_payload", "no 'items'"),
        ({"payload": {"items": None}}, "invalid_payload", "no 'items'"),
        ({"payload": {"items": []}}, "invalid_payload", "empty"),
        ({"payload": {"items": {"a": 1}}}, "invalid_payload", "a dict, not a list"),
        ({"payload": {"x": "{item.y}", "items": [{"y": 1}, {"z": 1}]}}, "invalid_payload", "Item 1"),
        ({"task_type": "ecko"}, "unknown_task_type", "ecko"),
        ({"strategy": "broadkast"}, "invalid_payload", "broadcast"),
        ({"reduce": "summ"}, "invalid_payload", "sum"),
        ({"on_error": "explode"}, "invalid_payload", "explode"),
        ({"chunk_size": 0}, "invalid_payload", "chunk_size"),
        ({"timeout": -1.0}, "invalid_payload", "timeout"),
        ({"max_attempts": 0}, "invalid_payload", "max_attempts"),
        ({"payload": {"token": "x", "items": [1]}}, "invalid_payload", "token"),
        (
            {"task_type": "sleep", "payload": {"seconds": "{item}", "items": [0, -1]}},
            "invalid_payload",
            "Item 1",
        ),
        ({"task_type": "command", "payload": {"argv": ["id"], "items": [1]}}, "not_allowed", "commands"),
    ],
)
async def test_what_cannot_be_accepted_is_refused_whole(
    router: Router, wanted: dict[str, Any], code: str, said: str
) -> None:
    """With the way out, and nothing is kept."""
    given = {"task_type": "echo", "payload": {"x": "{item}", "items": [1]}} | wanted
    with pytest.raises(PoolsError) as refusal:
        await pool_distribute(router, **given)
    assert refusal.value.code == code and said in str(refusal.value)
    assert router.unfinished() == 0 and (await pool_search(router)).tasks == []


async def test_what_does_not_fit_the_queues_is_refused_whole(open_router: Any, gate: Any) -> None:
    """At once; larger chunks may fit."""
    async with open_router(max_queue=10, pool_default_max_workers=1) as router:
        await pool_execute(router, **gate.task, wait=False)
        await gate.entered()
        await refused(squares(router, [1] * 11), "queue_full")
        assert router.unfinished() == 1
        begun = await squares(router, [1] * 11, chunk_size=2, wait=False)
        gate.open()
        assert (await ended(router, begun.distribution_id)).succeeded == 11


async def test_the_same_request_under_a_key_is_the_same_distribution(open_router: Any) -> None:
    """Also for the next owner; another request under it, or a task's key, is a conflict."""
    async with open_router() as router:
        first = await echoes(router, [1, 2], idempotency_key="k")
        assert await echoes(router, [1, 2], idempotency_key="k") == first
        both = await asyncio.gather(*(echoes(router, [3], idempotency_key="m") for _ in range(5)))
        assert len({whole.distribution_id for whole in both}) == 1
        await refused(echoes(router, [1, 3], idempotency_key="k"), "conflict")
        await refused(echoes(router, [1, 2], idempotency_key="k", on_error="fail_fast"), "conflict")
        await refused(pool_execute(router, task_type="echo", payload={}, idempotency_key="k"), "conflict")
        await pool_execute(router, task_type="echo", payload={}, idempotency_key="t")
        await refused(echoes(router, [1], idempotency_key="t"), "conflict")
    async with open_router() as router:
        assert await echoes(router, [1, 2], idempotency_key="k") == first


# Durable.


async def test_the_next_owner_goes_on_with_it(open_router: Any, gate: Any) -> None:
    """What waited runs, what ran is interrupted, what had ended stands; then it is folded."""
    async with open_router(pool_default_max_workers=1) as router:
        payload = {"gate": str(gate.path), "items": list(range(5))}
        done = await echoes(router, [1])
        begun = await pool_distribute(
            router, task_type="hold", payload=payload, reduce="count", strategy="map_reduce", wait=False
        )
        await gate.entered()
    gate.open()
    async with open_router(pool_default_max_workers=1) as router:
        whole = await ended(router, begun.distribution_id)
        assert results(whole) == ["interrupted", 1, 1, 1, 1]
        assert (whole.status, whole.succeeded, whole.failed, whole.reduced) == ("completed", 4, 1, 4)
        assert await pool_task(router, done.distribution_id) == done
        assert router.unfinished() == 0


async def test_an_intent_to_cancel_it_outlives_its_owner(open_router: Any, gate: Any) -> None:
    """Whatever of it was left is cancelled by the next one."""
    async with open_router(pool_default_max_workers=1) as router:
        payload = {"gate": str(gate.path), "items": list(range(5))}
        begun = await pool_distribute(router, task_type="hold", payload=payload, wait=False)
        await gate.entered()
        await router.dispatcher.keep_cancel(begun.distribution_id)
    async with open_router(pool_default_max_workers=1) as router:
        whole = await ended(router, begun.distribution_id)
        assert whole.status == "cancelled" and whole.cancelled >= 4


@pytest.mark.parametrize("lands", [True, False])
async def test_a_failing_store_costs_time_and_nothing_else(open_router: Any, lands: bool) -> None:
    """Every item has its result, and the next owner sees the same."""
    async with open_router() as router:
        store = Unlucky(router.registry.store, lands=lands, rate=0.2)
        router.dispatcher.commits._store = store
        whole = await echoes(router, list(range(200)), strategy="map_reduce", reduce="count")
        assert [item.result for item in whole.results] == [{"x": n} for n in range(200)]
        assert whole.reduced == 200 and store.failures
    async with open_router() as router:
        assert await pool_task(router, whole.distribution_id) == whole


async def test_one_that_was_refused_though_it_landed_never_runs(open_router: Any, home: Path) -> None:
    """Its caller was told that there is none."""
    payload = {"file": str(home / "noted"), "word": "ghost", "items": [1, 2, 3]}
    async with open_router() as router:
        store = Unlucky(router.registry.store, lands=True, rate=1.0)
        store.only = lambda change: isinstance(change, AcceptDistribution)
        router.dispatcher.commits._store = store
        with pytest.raises((PoolsError, OSError)):
            await pool_distribute(router, task_type="note", payload=payload)

        async def at_rest() -> bool:
            kept = router.registry.store
            return not (await kept.unfinished() or await kept.unfinished_distributions())

        await until(at_rest)
        await until(lambda: router.unfinished() == 0)
    async with open_router() as router:
        assert (await pool_execute(router, task_type="echo", payload={})).status == "completed"
    assert not (home / "noted").exists()


async def test_many_parts_are_kept_in_one_commit(router: Router) -> None:
    """Thousands of items cost a few commits, and a handful of events."""
    commits = router.registry.store.commits
    whole = await echoes(router, list(range(2000)), wait=False)
    assert router.registry.store.commits - commits < 20
    await ended(router, whole.distribution_id)
    assert router.registry.store.commits - commits < 1000
    events = [event for _, event in await router.registry.store.events()]
    assert len(events) < 40


async def test_its_events_tell_how_far_it_is(router: Router) -> None:
    """From queued to its end; what they tell of pools adds up; all of it is JSON."""
    whole = await squares(router, [*range(100)], on_error="collect")
    told = [event for _, event in await router.registry.store.events() if "distribution_id" in event.data]
    assert {event.data["distribution_id"] for event in told} == {whole.distribution_id}
    kinds = [event.kind for event in told]
    assert kinds[0] == "distribution.queued" and kinds[-1] == "distribution.completed"
    assert set(kinds[1:-1]) == {"distribution.progress"} and len(kinds) <= 23
    by_status: Counter[str] = Counter()
    for event in told:
        by_status.update(event.data["pools"].get("local", {}))
    assert by_status == {"completed": 99, "failed": 1}
    done = [event.data.get("completed", 0) + event.data.get("failed", 0) for event in told]
    assert done == sorted(done) and done[-1] == 100
    json.dumps([event.data for event in told])


async def test_whoever_waits_hears_how_far_it_is(router: Router) -> None:
    """Items done, of how many; the last word is that all are."""
    heard: list[tuple[float, float | None, str | None]] = []
    view = router.bound(progress=lambda *words: heard.append(words))
    await squares(view, [1, 2, 0, 4])
    assert heard[-1] == (4, 4, "1 failed")


async def test_a_very_large_item_is_one_among_many(router: Router) -> None:
    """Ten megabytes beside a thousand small ones."""
    large = "x" * 10_000_000
    items = [large if at == 500 else at for at in range(1000)]
    whole = await echoes(router, items)
    assert whole.succeeded == 1000
    assert whole.results[500].result == {"x": large} and whole.results[999].result == {"x": 999}


async def test_patience_ends_a_wait_and_not_the_work(router: Router, gate: Any) -> None:
    """The distribution as it stands, and the call that goes on waiting."""
    hurried = router.bound(Caller(patience=0.05))
    payload = {"gate": str(gate.path), "items": [1, 2]}
    begun = await pool_distribute(hurried, task_type="hold", payload=payload)
    assert begun.status in ("queued", "running") and begun.succeeded == 0
    assert begun.next == f'pool_task(task_id="{begun.distribution_id}", wait_seconds=30)'
    assert {item.status for item in begun.results} <= {"queued", "running"}
    gate.open()
    assert (await ended(router, begun.distribution_id)).succeeded == 2


async def refused(call: Any, code: str) -> None:
    """The call is refused, with this code."""
    with pytest.raises(PoolsError) as refusal:
        await call
    assert refusal.value.code == code, refusal.value
