"""One task's life, over real workers: `mcp_pools.dispatcher` and `mcp_pools.commits`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores.faults import Unlucky
from waiting import until

from mcp_pools import Router, telemetry
from mcp_pools.adapter import Ended, Printed, Returned
from mcp_pools.errors import PoolsError
from mcp_pools.models import Task
from mcp_pools.store import Update
from mcp_pools.tools import pool_cancel, pool_close, pool_execute, pool_register, pool_scale, pool_task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def single(open_router: Any) -> Any:
    """A router whose only pool has one worker at most."""
    async with open_router(pool_default_max_workers=1) as router:
        yield router


async def finished(router: Router, task: Task) -> Task:
    """A task's end."""
    return await pool_task(router, task.task_id, wait_seconds=20)


async def noting(router: Router, home: Path, word: str, **fields: Any) -> Task:
    """A task that notes a word, not waited for."""
    payload = {"file": str(home / "noted"), "word": word}
    return await pool_execute(router, task_type="note", payload=payload, wait=False, **fields)


def noted(home: Path) -> str:
    """The words noted so far."""
    file = home / "noted"
    return "".join(file.read_text().split()) if file.exists() else ""


# Queued.


async def test_higher_priorities_run_first_and_equal_ones_in_order(
    single: Router, gate: Any, home: Path
) -> None:
    """On one worker."""
    await pool_execute(single, **gate.task, wait=False)
    await gate.entered()
    tasks = [
        await noting(single, home, word, priority=priority)
        for word, priority in [("e", 0), ("g", -5), ("c", 3), ("a", 100), ("f", 0), ("d", 3), ("b", 99)]
    ]
    gate.open()
    for task in tasks:
        assert (await finished(single, task)).status == "completed"
    assert noted(home) == "abcdefg"


async def test_a_task_that_has_waited_long_overtakes_a_higher_priority(
    single: Router, gate: Any, home: Path
) -> None:
    """A level of priority is worth half a minute of waiting."""
    holding = await pool_execute(single, **gate.task, wait=False)
    await gate.entered()
    old = await noting(single, home, "a")
    pool = single.registry.pools["local"]
    live = pool.queue.remove(old.task_id)
    assert live is not None
    live.created_at -= 61.0
    pool.queue.push(live)
    later = [await noting(single, home, "b", priority=2), await noting(single, home, "c")]
    gate.open()
    for task in (holding, old, *later):
        await finished(single, task)
    assert noted(home) == "abc"


@pytest.mark.parametrize("pinned", [None, "local"])
async def test_a_full_queue_refuses_at_once(open_router: Any, gate: Any, pinned: str | None) -> None:
    """However many calls come together; what was accepted runs, and then there is room again."""
    async with open_router(max_queue=3, pool_default_max_workers=1) as router:
        await pool_execute(router, **gate.task, wait=False)
        await gate.entered()
        echo = {"task_type": "echo", "payload": {}, "wait": False, "pool": pinned}
        outcomes = await asyncio.gather(
            *(pool_execute(router, **echo) for _ in range(20)), return_exceptions=True
        )
        full = [outcome for outcome in outcomes if isinstance(outcome, PoolsError)]
        assert len(full) == 17 and {refusal.code for refusal in full} == {"queue_full"}
        assert full[0].retryable and "max_queue" in full[0].message
        gate.open()
        for task in outcomes:
            if isinstance(task, Task):
                assert (await finished(router, task)).status == "completed"
        assert (await pool_execute(router, **(echo | {"wait": True}))).status == "completed"


async def test_a_waiting_task_says_why(single: Router, gate: Any) -> None:
    """No idle worker; a pause before the next attempt; a pool that closes."""
    await pool_execute(single, **gate.task, wait=False)
    await gate.entered()
    queued = await pool_execute(single, task_type="echo", payload={}, wait=False)
    assert queued.waiting.code == "no_idle_worker" and "1 running" in queued.waiting.message
    gate.open()
    await finished(single, queued)
    failing = await pool_execute(
        single, task_type="fail-until", payload={"attempt": 2}, max_attempts=2, wait=False
    )

    async def backing_off() -> Any:
        look = await pool_task(single, failing.task_id)
        return look.status == "queued" and look.waiting.code == "retry_backoff" and look

    look = await until(backing_off)
    assert look.attempt == 1 and look.error.code == "task_error" and "Attempt 2" in look.waiting.message
    assert (await finished(single, failing)).result == 2


async def test_a_closing_pool_sends_away_what_pauses_between_two_attempts(router: Router) -> None:
    """It keeps its pause and says so; what is pinned is cancelled."""
    for name in "ab":
        await pool_register(router, name=name, type="local", max_workers=1)
    await pool_scale(router, "b", 0)
    failing = {"task_type": "fail-until", "payload": {"attempt": 2}, "max_attempts": 2, "pool": "a"}
    tasks = [await pool_execute(router, **failing, wait=False) for _ in range(2)]
    rows = [router.dispatcher.tasks[task.task_id].row for task in tasks]
    await until(lambda: all(row.status == "queued" and row.not_before for row in rows))
    rows[0].pinned = False
    await pool_close(router, "a", force=True)
    assert (await finished(router, tasks[1])).status == "cancelled"
    look = await pool_task(router, tasks[0].task_id)
    assert (look.status, look.pool) == ("queued", "b") and look.waiting is not None
    await pool_scale(router, "b", 1)
    end = await finished(router, tasks[0])
    assert (end.status, end.pool, end.result) == ("completed", "b", 2)


# Attempts.


@pytest.mark.parametrize("kind", ["fail-until", "die-until"])
async def test_a_failed_attempt_is_followed_by_another_if_there_is_one(router: Router, kind: str) -> None:
    """Whether the task raised or took its worker down."""
    task = await pool_execute(router, task_type=kind, payload={"attempt": 2}, max_attempts=2)
    assert (task.status, task.result, task.attempt, task.error) == ("completed", 2, 2, None)
    assert router.registry.meters.total(telemetry.RETRIES) == 1


@pytest.mark.parametrize(("kind", "code"), [("fail-until", "task_error"), ("die-until", "worker_lost")])
@pytest.mark.parametrize("most", [1, 2])
async def test_no_task_runs_more_often_than_it_may(router: Router, kind: str, code: str, most: int) -> None:
    """The last attempt's error stays."""
    task = await pool_execute(router, task_type=kind, payload={"attempt": 9}, max_attempts=most)
    assert (task.status, task.error.code, task.attempt) == ("failed", code, most)
    assert task.result is None and (await pool_execute(router, task_type="echo", payload={})).result == {}


async def test_a_retry_goes_elsewhere_if_it_may(router: Router) -> None:
    """A pinned one stays."""
    for name in "ab":
        await pool_register(router, name=name, type="local", max_workers=1)
    again = {"task_type": "die-until", "payload": {"attempt": 2}, "max_attempts": 2}
    free = await pool_execute(router, **again)
    events = [event for _, event in await router.registry.store.events() if event.task_id == free.task_id]
    started = [event.pool for event in events if event.kind == "task.started"]
    assert sorted(started) == ["a", "b"]
    assert (await pool_execute(router, **again, pool="a")).pool == "a"


async def test_a_task_that_runs_too_long_has_timed_out(router: Router, gate: Any) -> None:
    """Each attempt has the whole time; the worker's place is free again."""
    task = await pool_execute(router, **gate.task, timeout=0.1)
    assert (task.status, task.error.code, task.attempt) == ("timed_out", "timeout", 1)
    task = await pool_execute(router, **gate.task, timeout=0.1, max_attempts=2)
    assert (task.status, task.attempt) == ("timed_out", 2)
    assert (await pool_execute(router, task_type="echo", payload={})).status == "completed"


# Cancelled.


async def test_cancelling_what_runs_stops_it(single: Router, gate: Any) -> None:
    """Before the call returns; twice is once; and the worker's place is free."""
    task = await pool_execute(single, **gate.task, wait=False)
    await gate.entered()
    answers = await asyncio.gather(*(pool_cancel(single, task.task_id) for _ in range(3)))
    assert all(answer.cancelled and not answer.already_finished for answer in answers)
    end = await pool_task(single, task.task_id)
    assert (end.status, end.error.code) == ("cancelled", "cancelled")
    again = await pool_cancel(single, task.task_id)
    assert again.already_finished and not again.cancelled
    assert (await pool_execute(single, task_type="echo", payload={})).status == "completed"


async def test_cancelling_what_waits_keeps_it_from_running(single: Router, gate: Any, home: Path) -> None:
    """Those beside it run."""
    await pool_execute(single, **gate.task, wait=False)
    await gate.entered()
    first, second, third = [await noting(single, home, word) for word in "abc"]
    assert (await pool_cancel(single, second.task_id)).cancelled
    gate.open()
    for task in (first, third):
        assert (await finished(single, task)).status == "completed"
    end = await pool_task(single, second.task_id)
    assert (end.status, end.attempt, end.started_at) == ("cancelled", 0, None)
    assert noted(home) == "ac"


async def test_cancelling_between_two_attempts_ends_the_task(router: Router) -> None:
    """Its pause is not waited for."""
    failing = {"task_type": "fail-until", "payload": {"attempt": 9}, "max_attempts": 9}
    task = await pool_execute(router, **failing, wait=False)
    live = router.dispatcher.tasks[task.task_id]
    await until(lambda: live.row.status == "queued" and live.row.attempt == 1)
    assert (await pool_cancel(router, task.task_id)).cancelled
    end = await pool_task(router, task.task_id)
    assert (end.status, end.attempt) == ("cancelled", 1)


async def test_cancelling_between_two_attempts_while_the_store_fails_ends_the_task(router: Router) -> None:
    """Also when the next attempt is not yet kept."""
    failing = {"task_type": "fail-until", "payload": {"attempt": 9}, "max_attempts": 9}
    store = Unlucky(router.registry.store, lands=True, rate=1.0)
    store.only = lambda change: isinstance(change, Update) and change.row.status == "queued"
    router.dispatcher.commits._store = store
    task = await pool_execute(router, **failing, wait=False)
    await until(lambda: store.failures)
    assert (await pool_cancel(router, task.task_id)).cancelled
    assert (await pool_task(router, task.task_id)).status == "cancelled"
    store.rate = 0.0
    assert (await pool_execute(router, task_type="echo", payload={})).status == "completed"


async def test_cancelling_what_has_finished_changes_nothing(router: Router) -> None:
    """It says so."""
    task = await pool_execute(router, task_type="echo", payload={})
    answer = await pool_cancel(router, task.task_id)
    assert answer.already_finished and not answer.cancelled
    assert await pool_task(router, task.task_id) == task


# Fenced.


async def test_the_last_words_of_an_old_attempt_change_nothing_and_are_counted(
    router: Router, gate: Any
) -> None:
    """While the next attempt runs, and after it has ended."""
    pool = router.registry.pools["local"]
    meters = router.registry.meters
    task = await pool_execute(router, **gate.task, max_attempts=2, timeout=20, wait=False)
    await gate.entered()
    live = router.dispatcher.tasks[task.task_id]
    old = replace(live.row)
    router.dispatcher.heard(pool, Ended(old.attempt_id, "worker_lost", message="gone"))
    await gate.entered(2)
    before = meters.total(telemetry.FENCED)
    words = [
        Ended(old.attempt_id, None, b'"stale"'),
        Ended(old.attempt_id, "task_error", message="stale"),
        Printed(old.attempt_id, b"stale"),
        Returned(old.attempt_id),
    ]
    for word in words:
        router.dispatcher.heard(pool, word)
    assert meters.total(telemetry.FENCED) == before + len(words)
    gate.open()
    end = await finished(router, task)
    assert (end.status, end.result, end.attempt, end.output_tail) == ("completed", 2, 2, None)
    router.dispatcher.heard(pool, words[0])
    stale = replace(old, status="completed", result=b'"stale"', finished_at=1.0)
    assert not await router.registry.store.commit(Update(stale, old.launch))
    assert await pool_task(router, task.task_id) == end


async def test_a_task_that_the_store_knows_as_ended_is_ended(router: Router, gate: Any) -> None:
    """Whoever ended it: what comes later is dropped, counted, and waiters learn the truth."""
    task = await pool_execute(router, **gate.task, wait=False)
    await gate.entered()
    live = router.dispatcher.tasks[task.task_id]
    other = replace(live.row, status="failed", finished_at=1.0, error=b'{"code":"interrupted","message":"m"}')
    assert await router.registry.store.commit(Update(other, other.launch))
    gate.open()
    end = await finished(router, task)
    assert (end.status, end.error.code) == ("failed", "interrupted")
    assert router.registry.meters.total(telemetry.FENCED) == 1


async def test_a_launch_that_never_started_goes_back_and_costs_nothing(router: Router) -> None:
    """It runs later, as its first attempt; only its launches are two."""
    pool = router.registry.pools["local"]
    launch = pool.adapter.launch

    def lost_on_the_way(launches: Any) -> None:
        pool.adapter.launch = launch
        for each in launches:
            router.dispatcher.heard(pool, Returned(each.attempt_id))

    pool.adapter.launch = lost_on_the_way
    task = await pool_execute(router, task_type="echo", payload={})
    assert (task.status, task.attempt) == ("completed", 1)
    kept = await router.registry.store.task(task.task_id)
    assert kept is not None and (kept.attempt, kept.launch) == (1, 2)


# Many.


async def test_many_tasks_at_once_each_run_once(open_router: Any, home: Path) -> None:
    """On two workers, with results in place."""
    async with open_router() as router:
        tasks = await asyncio.gather(
            *(pool_execute(router, task_type="echo", payload={"n": n}) for n in range(500))
        )
        assert [task.result["n"] for task in tasks] == list(range(500))
        notes = [await noting(router, home, "x") for _ in range(100)]
        for task in notes:
            assert (await finished(router, task)).attempt == 1
        assert noted(home) == "x" * 100
        await until(lambda: router.unfinished() == 0)
        assert not any(pool.running for pool in router.registry.pools.values())
