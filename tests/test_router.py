"""From a call to a task and its result, over real workers: `mcp_pools.router` and `mcp_pools.intake`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from stores.faults import Unlucky
from waiting import until

from mcp_pools import Router
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller, Task
from mcp_pools.store import Accept, RequestCancel
from mcp_pools.tools import (
    pool_cancel,
    pool_close,
    pool_execute,
    pool_get,
    pool_health,
    pool_list,
    pool_register,
    pool_task,
)

pytestmark = pytest.mark.anyio


async def refused(work: Any, code: str) -> PoolsError:
    """How a call is refused."""
    with pytest.raises(PoolsError) as refusal:
        await work
    assert refusal.value.code == code, refusal.value
    assert refusal.value.message
    return refusal.value


async def echo(router: Router, **fields: Any) -> Task:
    """Run an `echo`."""
    return await pool_execute(router, **({"task_type": "echo", "payload": {"x": 1}} | fields))


async def finished(router: Router, task: Task) -> Task:
    """A task's end."""
    return await pool_task(router, task.task_id, wait_seconds=20)


# Accepted or refused.


@pytest.mark.parametrize(
    ("task_type", "payload", "result"),
    [
        ("echo", {"x": [1, None, "é🐙", "a\0b"]}, {"x": [1, None, "é🐙", "a\0b"]}),
        ("sleep", {"seconds": 0}, {"slept": 0}),
        ("compute", {"expression": "6 * 7"}, None),
        ("transform", {"data": {"a": [1, 2]}, "expression": "a[1]"}, None),
        ("analyze", {"path": "."}, None),
        ("command", {"argv": ["true"]}, None),
    ],
)
async def test_every_built_in_type_runs(
    open_router: Any, home: Path, task_type: str, payload: Any, result: Any
) -> None:
    """With its result, its times, its worker, and nothing that is left to do."""
    (home / "source").mkdir()
    async with open_router(allow={"commands": ["*"]}) as router:
        mine = router.bound(Caller(cwd=str(home / "source")))
        task = await pool_execute(mine, task_type=task_type, payload=payload)
        assert (task.status, task.error, task.next, task.waiting) == ("completed", None, None, None)
        assert task.result is not None and (result is None or task.result == result)
        assert task.attempt == 1 and task.worker and task.pool == "local" and task.caller == "local"
        assert task.created_at <= task.started_at <= task.finished_at
        assert await pool_task(router, task.task_id) == task


async def test_without_waiting_the_task_comes_back_unfinished(router: Router, gate: Any) -> None:
    """`next` says how to go on; a look waits no longer than it was told to."""
    task = await pool_execute(router, **gate.task, wait=False)
    await gate.entered()
    look = await pool_task(router, task.task_id, wait_seconds=0.01)
    assert look.status == "running" and task.task_id in look.next
    gate.open()
    assert (await finished(router, task)).result == 1


async def test_patience_ends_a_wait_and_not_the_task(router: Router, gate: Any) -> None:
    """A caller with little of it gets the task as it stands."""
    hasty = router.bound(Caller(patience=0.01))
    task = await pool_execute(hasty, **gate.task)
    assert task.status in ("queued", "running") and task.next
    gate.open()
    assert (await finished(router, task)).status == "completed"


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"task_type": "ecko"}, "unknown_task_type", "Did you mean 'echo'?"),
        ({"pool": "lokal"}, "unknown_pool", "Did you mean 'local'?"),
        ({"strategy": "least_laoded"}, "invalid_payload", "Did you mean 'least_loaded'?"),
        ({"strategy": "affinity"}, "invalid_payload", "affinity_key"),
        ({"task_type": "sleep", "payload": {"seconds": -1}}, "invalid_payload", "seconds"),
        ({"task_type": "sleep", "payload": {"second": 1}}, "invalid_payload", "second"),
        ({"task_type": "sleep", "payload": {}}, "invalid_payload", "seconds"),
        ({"selector": {"gpu": "yes"}}, "unsupported", "gpu=yes"),
        ({"payload": {"x": "\ud800"}}, "invalid_payload", "JSON"),
        ({"payload": {"x": object()}}, "invalid_payload", ""),
        ({"payload": {"password": "hunter2"}}, "invalid_payload", "$secret"),
        ({"payload": {"x": {"$secret": "NOBODY"}}}, "not_allowed", "NOBODY"),
        ({"task_type": "command", "payload": {"argv": ["true"]}}, "not_allowed", "commands"),
        ({"idempotency_key": "\ud800"}, "invalid_payload", "idempotency_key"),
        ({"affinity_key": "\udcff"}, "invalid_payload", "affinity_key"),
        ({"selector": {"a": "\udcff"}}, "invalid_payload", "selector"),
        ({"timeout": 0}, "invalid_payload", "timeout"),
        ({"timeout": float("nan")}, "invalid_payload", "timeout"),
        ({"max_attempts": 0}, "invalid_payload", "max_attempts"),
        ({"priority": 1 << 70}, "invalid_payload", "priority"),
    ],
)
async def test_what_cannot_be_accepted_is_refused_with_the_way_out(
    router: Router, fields: Any, code: str, said: str
) -> None:
    """By its code and its name; and nothing of it is kept."""
    refusal = await refused(echo(router, **fields), code)
    assert said in str(refusal) and "hunter2" not in str(refusal)
    assert await router.registry.store.events() == [] and router.unfinished() == 0


async def test_a_payload_that_is_too_deep_is_refused(router: Router) -> None:
    """It is no traceback, and the next call works."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    await refused(echo(router, payload={"x": deep}), "invalid_payload")
    assert (await echo(router)).status == "completed"


async def test_keys_that_are_no_text_are_refused(router: Router) -> None:
    """A Python caller can give what JSON cannot; also together with an idempotency key."""
    for key in (None, "k"):
        await refused(echo(router, payload={1: "a", "b": 2}, idempotency_key=key), "invalid_payload")


async def test_a_payload_of_a_hundred_megabytes_is_refused(router: Router) -> None:
    """With its size, the limit and what to do instead."""
    refusal = await refused(echo(router, payload={"x": "p" * 100_000_000}), "invalid_payload")
    assert (
        "100000008" in refusal.message and "max_payload_bytes" in refusal.message and "file" in refusal.next
    )


async def test_large_payloads_and_results_come_through(router: Router) -> None:
    """Ten megabytes there and back."""
    task = await echo(router, payload={"x": "p" * 10_000_000})
    assert task.result == {"x": "p" * 10_000_000}


async def test_a_result_that_is_too_large_fails_its_task(open_router: Any) -> None:
    """Retrying would only repeat it."""
    async with open_router(max_result_bytes=1000) as router:
        small = await pool_execute(router, task_type="long-text", payload={"size": 998})
        assert small.status == "completed"
        large = await pool_execute(router, task_type="long-text", payload={"size": 999}, max_attempts=3)
    assert (large.status, large.error.code, large.attempt) == ("failed", "result_too_large", 1)
    assert large.result is None and "max_result_bytes" in large.error.message


async def test_a_result_that_is_no_unicode_fails_its_task(router: Router) -> None:
    """And the worker goes on."""
    task = await pool_execute(router, task_type="surrogate", payload={})
    assert (task.status, task.error.code) == ("failed", "task_error")


async def test_tasks_may_not_start_tasks_without_end(open_router: Any) -> None:
    """`max_depth` says how deep."""
    async with open_router(max_depth=1) as router:
        assert (await echo(router.bound(Caller(depth=1)))).status == "completed"
        await refused(echo(router.bound(Caller(depth=2))), "nesting_too_deep")


async def test_an_unknown_task_is_refused(router: Router) -> None:
    """For looking and for cancelling."""
    await refused(pool_task(router, "t_nothing"), "unknown_task")
    await refused(pool_cancel(router, "t_nothing"), "unknown_task")


# Secrets.


async def test_a_secret_reaches_the_worker_and_no_file(
    open_router: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read when the task is launched; what is kept is its name."""
    monkeypatch.setenv("THE_SECRET", "hunter2-is-not-it")
    file = home / "noted"
    async with open_router(secrets={"WORD": {"env": "THE_SECRET"}}) as router:
        payload = {"file": str(file), "word": {"$secret": "WORD"}}
        refusal = await refused(pool_execute(router, task_type="note", payload=payload), "invalid_payload")
        assert "word" in str(refusal)  # its schema says text
        task = await pool_execute(router, task_type="transform", payload=secret_transform())
        assert task.status == "completed" and task.result == {"value": len("hunter2-is-not-it")}
    for stored in home.glob("pools.db*"):
        assert b"hunter2" not in stored.read_bytes()


async def test_a_secret_that_a_task_says_is_masked(
    open_router: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its result, its output and its error; the file never holds it."""
    monkeypatch.setenv("THE_SECRET", 'open "sesame" now')
    settings = {"secrets": {"WORD": {"env": "THE_SECRET"}}, "allow": {"commands": ["*"], "env": ["*"]}}
    async with open_router(**settings) as router:
        echoed = await pool_execute(router, task_type="echo", payload={"said": {"$secret": "WORD"}})
        assert echoed.result == {"said": "***"}
        for status in (0, 1):
            said = f"import os; print(os.environ['WORD']); raise SystemExit({status})"
            payload = {"argv": [sys.executable, "-c", said], "env": {"WORD": {"$secret": "WORD"}}}
            task = await pool_execute(router, task_type="command", payload=payload)
            assert task.output_tail == "***\n"
            assert "sesame" not in str(task)
    assert all(b"sesame" not in file.read_bytes() for file in home.iterdir() if file.is_file())


def secret_transform() -> dict[str, Any]:
    """A payload whose result is the length of the secret."""
    return {"data": {"token": {"$secret": "WORD"}}, "expression": "length(token)"}


@pytest.mark.parametrize(
    "source", [{"env": "NOT_SET"}, {"file": "/nowhere/at/all"}, {"command": ["false"]}, {"command": ["/no"]}]
)
async def test_a_secret_that_cannot_be_read_fails_its_task(open_router: Any, source: Any) -> None:
    """By its name; the worker it was to go to is free again."""
    async with open_router(secrets={"WORD": source}, pool_default_max_workers=1) as router:
        task = await pool_execute(router, task_type="transform", payload=secret_transform())
        assert (task.status, task.error.code) == ("failed", "task_error") and "WORD" in task.error.message
        assert (await echo(router)).status == "completed"


async def test_a_cancel_while_a_secret_is_read_is_honoured(open_router: Any, home: Path) -> None:
    """The task never reaches a worker."""
    slow = f"import pathlib, time\npathlib.Path({str(home / 'reading')!r}).touch()\n"
    slow += f"while not pathlib.Path({str(home / 'go')!r}).exists(): time.sleep(0.01)\nprint(1)"
    secrets = {"WORD": {"command": [sys.executable, "-c", slow]}}
    async with open_router(secrets=secrets) as router:
        payload = {"x": {"$secret": "WORD"}}
        task = await echo(router, payload=payload, wait=False)
        await until(lambda: (home / "reading").exists())
        cancelling = asyncio.create_task(pool_cancel(router, task.task_id))
        await until(lambda: router.dispatcher.tasks[task.task_id].cancelling)
        (home / "go").touch()
        assert (await cancelling).cancelled
        assert (await pool_task(router, task.task_id)).status == "cancelled"


# Where it runs.


async def test_a_pinned_task_runs_on_its_pool(router: Router) -> None:
    """Whatever else there is."""
    for name in "abc":
        await pool_register(router, name=name, type="local", max_workers=1)
    for name in "abcba":
        assert (await echo(router, pool=name)).pool == name


async def test_a_selector_finds_the_pool_with_the_labels(router: Router) -> None:
    """And `region` is one of them."""
    await pool_register(router, name="a", type="local", labels={"gpu": "no"}, region="eu")
    await pool_register(router, name="b", type="local", labels={"gpu": "yes"}, region="us")
    for selector, name in [
        ({"gpu": "yes"}, "b"),
        ({"region": "eu"}, "a"),
        ({"gpu": "no", "region": "eu"}, "a"),
    ]:
        assert (await echo(router, selector=selector)).pool == name
    await refused(echo(router, selector={"gpu": "yes", "region": "eu"}), "unsupported")


async def test_an_affinity_key_keeps_its_pool_across_owners(open_router: Any) -> None:
    """As long as there is that pool; then it gets another for good."""
    keys = [f"k{number}" for number in range(12)]
    async with open_router() as router:
        for name in "abc":
            await pool_register(router, name=name, type="local", max_workers=1)
        first = {key: (await echo(router, affinity_key=key)).pool for key in keys}
        assert len(set(first.values())) > 1
    async with open_router() as router:
        await pool_register(router, name="d", type="local", max_workers=1)
        assert {key: (await echo(router, affinity_key=key)).pool for key in keys} == first
        gone = first["k0"]
        await pool_close(router, gone)
        second = {key: (await echo(router, affinity_key=key)).pool for key in keys}
        assert gone not in second.values()
        assert all(second[key] == first[key] for key in keys if first[key] != gone)
    async with open_router() as router:
        await pool_register(router, name="e", type="local", max_workers=1)
        await pool_register(router, name=gone, type="local", max_workers=1)
        assert {key: (await echo(router, affinity_key=key)).pool for key in keys} == second


# Idempotency.


async def test_the_same_request_under_a_key_is_the_same_task(open_router: Any) -> None:
    """At once, later, and under the next owner; another request is a conflict; callers have their own."""
    async with open_router() as router:
        first = await echo(router, idempotency_key="k")
        assert await echo(router, idempotency_key="k") == first
        refusal = await refused(echo(router, idempotency_key="k", payload={"x": 2}), "conflict")
        assert first.task_id in refusal.message
        other = await echo(router.bound(Caller(name="other")), idempotency_key="k")
        assert other.task_id != first.task_id
    async with open_router() as router:
        assert await echo(router, idempotency_key="k") == first
        await refused(echo(router, idempotency_key="k", priority=1), "conflict")


async def test_of_concurrent_calls_under_one_key_one_runs(router: Router, home: Path) -> None:
    """All of them get that one's result."""
    note = {"task_type": "note", "payload": {"file": str(home / "noted"), "word": "once"}}
    tasks = await asyncio.gather(
        *(pool_execute(router, **note, idempotency_key="k") for _ in range(20)),
    )
    assert len({task.task_id for task in tasks}) == 1
    assert {task.status for task in tasks} == {"completed"}
    assert (home / "noted").read_text() == "once\n"


async def test_of_concurrent_rivals_under_one_key_one_runs(router: Router) -> None:
    """The others are told that the key is another request's."""
    calls = [echo(router, idempotency_key="k", payload={"x": n}) for n in range(10)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PoolsError"] * 9 + ["Task"]


# A store that fails.


@pytest.mark.parametrize("lands", [True, False])
async def test_a_failing_store_costs_time_and_nothing_else(open_router: Any, home: Path, lands: bool) -> None:
    """Every task runs once and ends as it would have."""
    async with open_router() as router:
        unlucky(router, lands=lands, rate=0.2)
        note = {"task_type": "note", "payload": {"file": str(home / "noted"), "word": "w"}}
        tasks = await asyncio.gather(*(pool_execute(router, **note) for _ in range(30)))
        assert {task.status for task in tasks} == {"completed"}
        assert (home / "noted").read_text() == "w\n" * 30
    async with open_router() as router:
        assert [(await pool_task(router, task.task_id)).status for task in tasks] == ["completed"] * 30


async def test_a_task_that_was_refused_though_it_landed_never_runs(
    open_router: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not now and not under the next owner: its caller was told that there is none."""
    async with open_router() as router:
        store = unlucky(router, lands=True, rate=1.0)
        store.only = lambda change: isinstance(change, Accept)
        note = {"task_type": "note", "payload": {"file": str(home / "noted"), "word": "ghost"}}
        with pytest.raises((PoolsError, OSError)):
            await pool_execute(router, **note)
        await until(lambda: router.unfinished() == 0)

        async def at_rest() -> bool:
            return await router.registry.store.unfinished() == []

        await until(at_rest)
    async with open_router() as router:
        assert (await echo(router)).status == "completed"
    assert not (home / "noted").exists()


async def test_a_call_that_is_given_up_while_it_is_kept_leaves_nothing_to_run(
    open_router: Any, home: Path
) -> None:
    """Its id was never told."""
    note = {"task_type": "note", "payload": {"file": str(home / "noted"), "word": "ghost"}}
    async with open_router() as router:
        calls = [asyncio.create_task(pool_execute(router, **note)) for _ in range(5)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

        async def at_rest() -> bool:
            return router.unfinished() == 0 and await router.registry.store.unfinished() == []

        await until(at_rest)
        assert (await echo(router)).status == "completed"
    assert not (home / "noted").exists()


async def test_a_cancel_that_could_not_be_kept_can_be_repeated(router: Router, gate: Any) -> None:
    """The first one fails with the store's error; the second one cancels."""
    task = await pool_execute(router, **gate.task, wait=False)
    await gate.entered()
    store = unlucky(router, lands=False, rate=1.0)
    store.only = lambda change: isinstance(change, RequestCancel)
    with pytest.raises((PoolsError, OSError)):
        await pool_cancel(router, task.task_id)
    store.rate = 0.0
    assert (await pool_cancel(router, task.task_id)).cancelled


def unlucky(router: Router, *, lands: bool, rate: float) -> Unlucky:
    """Make a router's store fail from now on."""
    store = Unlucky(router.registry.store, lands=lands, rate=rate)
    router.registry.store = store  # type: ignore[assignment]
    router.dispatcher.commits._store = store
    return store


# The next owner.


async def test_queued_work_goes_on_under_the_next_owner(open_router: Any, gate: Any, home: Path) -> None:
    """An owner that leaves ends what runs, which is then `interrupted`; what waits, waits."""
    note = {"task_type": "note", "payload": {"file": str(home / "noted"), "word": "w"}}
    async with open_router(pool_default_max_workers=1) as router:
        running = await pool_execute(router, **gate.task, wait=False)
        again = await pool_execute(router, **gate.task, wait=False, max_attempts=2)
        await gate.entered()
        queued = [await pool_execute(router, **note, wait=False) for _ in range(5)]
        assert router.unfinished() == 7
    gate.open()
    async with open_router(pool_default_max_workers=1) as router:
        interrupted = await pool_task(router, running.task_id)
        assert (interrupted.status, interrupted.error.code) == ("failed", "interrupted")
        assert (await finished(router, again)).status == "completed"
        for task in queued:
            assert (await finished(router, task)).status == "completed"
    assert (home / "noted").read_text() == "w\n" * 5


async def test_an_interrupted_task_with_attempts_left_runs_again(open_router: Any, gate: Any) -> None:
    """Under the next owner, as its second attempt."""
    async with open_router() as router:
        task = await pool_execute(router, **gate.task, wait=False, max_attempts=2)
        await gate.entered()
    gate.open()
    async with open_router() as router:
        assert (await finished(router, task)).result == 2


OWNER = """
import asyncio, sys
from mcp_pools import Router, Settings
from mcp_pools.models import Caller
from mcp_pools.tools import pool_execute

async def main(home, gate, noted):
    settings = Settings(home=home, task_modules=["workloads"], pool_default_max_workers=1)
    async with Router.open(settings) as router:
        hold = {"task_type": "hold", "payload": {"gate": gate}, "wait": False}
        note = {"task_type": "note", "payload": {"file": noted, "word": "w"}, "wait": False}
        print((await pool_execute(router, **hold)).task_id, flush=True)
        await asyncio.gather(*(one(router, note) for _ in range(50)))
        print("done", flush=True)
        await asyncio.Event().wait()

async def one(router, note):
    print((await pool_execute(router, **note)).task_id, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("told", [1, 20, 51])
async def test_a_killed_owner_loses_nothing_it_told_of(
    open_router: Any, gate: Any, home: Path, told: int
) -> None:
    """What ran is `interrupted`; every task it gave an id for runs, once."""
    noted = home / "noted"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(home), str(gate.path), str(noted)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    ids = [(await child.stdout.readline()).decode().strip() for _ in range(told)]
    await gate.entered()
    child.send_signal(signal.SIGKILL)
    ids += (await child.stdout.read()).decode().split("\n")[:-1]
    await child.wait()
    ids = [task_id for task_id in ids if task_id != "done"]
    async with open_router() as router:
        first, *rest = [await pool_task(router, task_id, wait_seconds=20) for task_id in ids]
        await until(lambda: router.unfinished() == 0)
    assert (first.status, first.error.code) == ("failed", "interrupted")
    assert {task.status for task in rest} <= {"completed"}
    ran = noted.read_text().splitlines() if noted.exists() else []
    assert len(rest) <= len(ran) <= 50


async def test_an_intent_to_cancel_is_honoured_by_the_next_owner(open_router: Any, home: Path) -> None:
    """Whether the task waited or ran."""
    note = {"task_type": "note", "payload": {"file": str(home / "noted"), "word": "w"}}
    async with open_router() as router:
        await pool_register(router, name="a", type="local")
        router.leave()
        task = await pool_execute(router, **note, wait=False, pool="a")
        await router.registry.store.commit(RequestCancel(task.task_id, 1.0))
    async with open_router() as router:
        assert (await finished(router, task)).status == "cancelled"
    assert not (home / "noted").exists()


async def test_unfinished_work_of_a_type_that_is_gone_fails_and_hinders_nobody(
    open_router: Any, gate: Any
) -> None:
    """The home opens; each such task says what it misses."""
    async with open_router(pool_default_max_workers=1) as router:
        running = await pool_execute(router, **gate.task, wait=False, max_attempts=2)
        await gate.entered()
        queued = await pool_execute(router, **gate.task, wait=False)
    async with open_router(task_modules=[]) as router:
        for task in (running, queued):
            end = await finished(router, task)
            assert (end.status, end.error.code) == ("failed", "unknown_task_type")
        assert (await echo(router)).status == "completed"


async def test_a_home_has_one_owner(open_router: Any, router: Router) -> None:
    """The second is told how to share."""
    with pytest.raises(PoolsError, match="MCP_POOLS_HOME") as taken:
        async with open_router():
            pass
    assert taken.value.code == "conflict"


async def test_a_pool_that_does_not_open_is_unhealthy_and_its_tasks_say_so(
    open_router: Any, home: Path
) -> None:
    """They wait, can be cancelled, and run once it opens; other pools are not its matter."""
    (home / "run").mkdir()
    (home / "run" / "ill").write_text("a file where its directory belongs")
    async with open_router(pools={"ill": {"type": "local"}, "well": {"type": "local"}}) as router:
        health = {pool.name: pool for pool in (await pool_health(router)).pools}
        assert health["ill"].status == "unhealthy" and health["ill"].reason
        assert health["well"].status == "healthy"
        assert (await echo(router)).pool == "well"
        first = await echo(router, pool="ill", wait=False)
        second = await echo(router, pool="ill", wait=False)
        assert (await pool_task(router, first.task_id)).waiting.code == "pool_unhealthy"
        assert (await pool_cancel(router, first.task_id)).cancelled
        (home / "run" / "ill").unlink()
        assert (await finished(router, second)).status == "completed"


# Looking.


async def test_a_part_of_a_result_can_be_asked_for(router: Router) -> None:
    """By JMESPath, and by slice."""
    task = await echo(router, payload={"a": {"b": list(range(10))}})
    part = await pool_task(router, task.task_id, select="a.b", offset=2, limit=3)
    assert part.result == [2, 3, 4]
    await refused(pool_task(router, task.task_id, select="a.["), "invalid_payload")


async def test_what_finished_shows_in_its_pools_numbers(router: Router) -> None:
    """Completed, failed, and how long they took."""
    for _ in range(3):
        await echo(router)
    await pool_execute(router, task_type="compute", payload={"expression": "1 / 0"})
    metrics = (await pool_get(router, "local")).metrics
    assert (metrics.tasks_completed, metrics.tasks_failed) == (3, 1)
    assert 0 <= metrics.p50_seconds <= metrics.p95_seconds <= metrics.p99_seconds


async def test_every_step_of_a_task_is_an_event(router: Router) -> None:
    """In order, with its pool; and all of it is JSON."""
    task = await pool_execute(router, task_type="fail-until", payload={"attempt": 2}, max_attempts=2)
    events = await router.registry.store.events()
    assert [event.kind for _, event in events if event.task_id == task.task_id] == [
        *("task.started", "task.retried", "task.started", "task.completed"),
    ]
    json.dumps([event.data for _, event in events])


async def test_the_list_of_pools_is_the_same_from_both_ends(router: Router) -> None:
    """`pool_list` and `pool_get` agree."""
    [pool] = (await pool_list(router)).pools
    assert (await pool_get(router, pool.name)).pool_id == pool.pool_id


async def test_pools_that_are_switched_off_take_no_tasks(open_router: Any) -> None:
    """The refusal names the key."""
    async with open_router(pools_enabled=False) as router:
        with pytest.raises(PoolsError, match="pools_enabled") as refusal:
            await pool_execute(router, task_type="echo", payload={})
        assert refusal.value.code == "not_allowed"
