"""Tasks over MCP: work that outlasts its call, its client's limit, its connection and its owner."""

# ruff: noqa: F811 - a fixture is imported by name

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest
from machine import Machine
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    JSONRPCNotification,
    JSONRPCRequest,
)
from tasks_client import Tasks, ask, ended, listen, start
from test_end_to_end import machine  # noqa: F401
from transports import session_transport
from waiting import until

from mcp_pools import Router
from mcp_pools.server import serve_session
from mcp_pools.task_handles import state_of
from mcp_pools.tasks_extension import EXTENSION, TaskState
from mcp_pools.tools import pool_cancel, pool_execute, pool_task

pytestmark = pytest.mark.anyio
GRACE = {"mcp_task_grace_seconds": 0.05}


@pytest.fixture
async def router(open_router: Any) -> AsyncIterator[Router]:
    """A router that gives calls little time before they become tasks."""
    async with open_router(**GRACE) as router:
        yield router


@asynccontextmanager
async def client(
    router: Router, *extensions: Tasks, mode: str = "auto", limit: float | None = None, **flags: Any
) -> AsyncIterator[Client]:
    """A client of a session of its own; `limit` is its patience with one request, in seconds."""
    transport = session_transport(router, flags)
    async with Client(
        transport, mode=mode, extensions=list(extensions), read_timeout_seconds=limit
    ) as connected:
        yield connected


async def refused(session: Any, method: str, task_id: str, **more: Any) -> MCPError:
    """The error that a method answers with."""
    with pytest.raises(MCPError) as caught:
        await ask(session, method, task_id, **more)
    return caught.value


# Handles.


async def test_work_that_outlasts_the_grace_becomes_a_task(router: Router, gate: Any) -> None:
    """Its id is that of our own task, and the end has what the call would have returned."""
    async with client(router, Tasks()) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        assert (handle.status, handle.ttl_ms, handle.poll_interval_ms) == ("working", None, 1000)
        live = await pool_task(router, handle.task_id)
        assert live.status in ("queued", "running")
        gate.open()
        task = await ended(caller.session, handle.task_id)
        plain = await caller.call_tool("pool_task", {"task_id": handle.task_id})
    result = task["result"]
    assert (task["status"], task["resultType"], result["isError"]) == ("completed", "complete", False)
    assert result["structuredContent"] == plain.structured_content
    assert json.loads(result["content"][0]["text"]) == plain.structured_content
    assert task["ttlMs"] >= 30 * 86_400_000


async def test_work_that_is_quick_stays_a_result(open_router: Any) -> None:
    """A client that knows tasks is not made to poll for what is there at once."""
    async with (
        open_router(mcp_task_grace_seconds=20) as router,
        client(router, tasks := Tasks()) as caller,
    ):
        answer = await caller.call_tool("pool_execute", {"task_type": "echo", "payload": {"x": 1}})
    assert answer.structured_content is not None
    assert answer.structured_content["result"] == {"x": 1}
    assert tasks.handles == []


async def test_who_does_not_want_to_wait_gets_the_task_as_it_stands(router: Router, gate: Any) -> None:
    """`wait=false` asks for our Task, not for a handle."""
    async with client(router, tasks := Tasks()) as caller:
        answer = await caller.call_tool("pool_execute", {**gate.task, "wait": False})
        assert answer.structured_content is not None
        assert answer.structured_content["status"] in ("queued", "running")
        assert tasks.handles == []
        gate.open()
        assert (await ended(caller.session, answer.structured_content["task_id"]))["status"] == "completed"


async def test_a_distribution_becomes_a_task_too(router: Router, gate: Any) -> None:
    """With its own id, and each item's outcome at the end."""
    work = {"task_type": "hold", "payload": {"gate": "{item}", "items": [str(gate.path)] * 2}}
    async with client(router, Tasks()) as caller:
        handle = await start(caller, "pool_distribute", work)
        await gate.entered()
        assert handle.status_message == "running, 0 of 2 items"
        gate.open()
        task = await ended(caller.session, handle.task_id)
    whole = task["result"]["structuredContent"]
    assert (whole["distribution_id"], whole["succeeded"]) == (handle.task_id, 2)


async def test_work_far_longer_than_the_clients_limit_comes_back_whole(open_router: Any) -> None:
    """No request lasts as long as the client's limit; the job lasts several."""
    nap = {"task_type": "sleep", "payload": {"seconds": 3}}
    async with open_router(**GRACE) as router, client(router, tasks := Tasks(), limit=1.0) as caller:
        answer = await caller.call_tool("pool_execute", nap, read_timeout_seconds=1.0)
    assert answer.structured_content is not None
    assert answer.structured_content["status"] == "completed"
    assert answer.structured_content["run_seconds"] > 2.9
    assert len(tasks.handles) == 1


async def test_a_task_that_failed_is_a_result(router: Router) -> None:
    """What was accepted is no error: `failed` would say that the call was refused."""
    work = {"task_type": "fail-until", "payload": {"attempt": 9}}
    async with client(router, Tasks()) as caller:
        done = await pool_execute(router, **work)
        task = await ask(caller.session, "tasks/get", done.task_id)
    content = task["result"]["structuredContent"]
    assert (task["status"], task["result"]["isError"]) == ("completed", False)
    assert (content["status"], content["error"]["code"]) == ("failed", "task_error")
    assert task["statusMessage"] == "failed: task_error"


async def test_a_refused_call_is_an_error_and_no_task(router: Router) -> None:
    """Nothing was accepted, so there is nothing to have a handle of."""
    async with client(router, tasks := Tasks()) as caller:
        answer = await caller.call_tool("pool_execute", {"task_type": "nothing", "payload": {}})
    assert answer.is_error and tasks.handles == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("queued", "working"),
        ("running", "working"),
        ("completed", "completed"),
        ("failed", "completed"),
        ("timed_out", "completed"),
        ("cancelled", "cancelled"),
    ],
)
async def test_each_status_has_its_word(status: str, said: str) -> None:
    """Only an end that is a result carries one, and only an end has a time to live."""
    over = said != "working"
    task = {
        "task_id": "t_1",
        "status": status,
        "created_at": "2026-11-24T10:00:00Z",
        "started_at": None,
        "finished_at": "2026-11-24T10:00:05.250000Z" if over else None,
    }
    state = state_of(task, {"isError": False}, retention_days=1)
    assert (state.status, state.over) == (said, over)
    assert (state.result is not None) == (said == "completed")
    assert state.ttl_ms == (86_405_250 if over else None)


# From elsewhere.


async def test_a_task_is_found_from_another_connection(router: Router, gate: Any) -> None:
    """Work outlives the window that asked for it, and so does its handle."""
    async with client(router, Tasks()) as one:
        handle = await start(one, "pool_execute", gate.task)
    async with client(router, Tasks()) as other:
        assert (await ask(other.session, "tasks/get", handle.task_id))["status"] == "working"
        gate.open()
        assert (await ended(other.session, handle.task_id))["result"]["structuredContent"]["result"] == 1


async def test_a_task_is_found_after_a_restart(open_router: Any, gate: Any) -> None:
    """The next owner knows it; what ran may have run, which is a result to read."""
    async with open_router(**GRACE) as router, client(router, Tasks()) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        await gate.entered()
        router.leave()
    async with open_router(**GRACE) as router, client(router, Tasks()) as caller:
        task = await ended(caller.session, handle.task_id)
    assert task["result"]["structuredContent"]["error"]["code"] == "interrupted"
    assert task["createdAt"] == handle.created_at


async def test_a_task_outlives_its_owner_behind_the_bridge(machine: Machine) -> None:
    """Killed mid-task, the owner has a successor that answers the same client about the same task."""
    machine.environment["MCP_POOLS_MCP_TASK_GRACE_SECONDS"] = "0.05"
    nap = {"task_type": "sleep", "payload": {"seconds": 60}}
    async with Client(machine.bridge(), extensions=[Tasks()]) as client:
        handle = await start(client, "pool_execute", nap)
        await until(lambda: machine.answer("task", handle.task_id)["status"] == "running")
        os.kill(machine.owner["pid"], signal.SIGKILL)
        with suppress(MCPError):  # it was on its way when the owner ended: it is answered, not repeated
            await ask(client.session, "tasks/get", handle.task_id)
        task = await ended(client.session, handle.task_id)
        assert task["result"]["structuredContent"]["error"]["code"] == "interrupted"
        again = await start(client, "pool_execute", nap)
        await ask(client.session, "tasks/cancel", again.task_id)
        assert (await ask(client.session, "tasks/get", again.task_id))["status"] == "cancelled"


# Cancelling and updating.


async def test_cancelling_stops_the_work(router: Router, gate: Any) -> None:
    """The answer is empty; the task is `cancelled`, and cancelling it again changes nothing."""
    async with client(router, Tasks()) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        for _ in range(2):
            answer = await ask(caller.session, "tasks/cancel", handle.task_id)
            assert {*answer} <= {"resultType", "_meta"} and answer["resultType"] == "complete"
        task = await ask(caller.session, "tasks/get", handle.task_id)
    assert task["status"] == "cancelled" and "result" not in task
    assert (await pool_task(router, handle.task_id)).status == "cancelled"


async def test_cancelling_is_off_where_pool_cancel_is(router: Router, gate: Any) -> None:
    """A narrowed connection has no way round: its flags hold for the extension, too."""
    async with client(router, Tasks(), disable_destructive=True) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        assert "switched off" in (await refused(caller.session, "tasks/cancel", handle.task_id)).message
        assert (await ask(caller.session, "tasks/get", handle.task_id))["status"] == "working"
    async with client(router, Tasks(), tools=["pool_list"]) as narrow:
        assert "switched off" in (await refused(narrow.session, "tasks/get", handle.task_id)).message
    gate.open()


async def test_answers_that_nobody_asked_for_are_passed_over(router: Router, gate: Any) -> None:
    """Whatever they hold; the task goes on."""
    async with client(router, Tasks()) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        answer = await ask(caller.session, "tasks/update", handle.task_id, inputResponses={"k": {"x": [1]}})
        assert {*answer} <= {"resultType", "_meta"}
        assert (await ask(caller.session, "tasks/get", handle.task_id))["status"] == "working"
    gate.open()


# Who may.


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_an_unknown_task_is_invalid_params(router: Router, method: str) -> None:
    """An id that nothing has, however long it is."""
    async with client(router, Tasks()) as caller:
        for task_id in ("t_0", "x" * 10_000, "", "'; DROP TABLE tasks"):
            error = await refused(caller.session, method, task_id, inputResponses={})
            assert error.code == INVALID_PARAMS and "There is no task" in error.message
            assert len(error.message) < 300


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_a_client_without_the_extension_is_told_what_is_missing(router: Router, method: str) -> None:
    """Also about a task that is there: the answer is the same."""
    task = await pool_execute(router, task_type="echo", payload={})
    async with client(router) as caller:
        for task_id in (task.task_id, "t_0"):
            error = await refused(caller.session, method, task_id, inputResponses={})
            assert error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
            assert error.error.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_without_the_extension_gets_the_task_as_it_stands(
    open_router: Any, gate: Any, mode: str
) -> None:
    """Our Task and its `next`, when the patience of MCP calls ends, not when the grace does."""
    async with open_router(**GRACE) as router:
        patient = router.bound(impatient(router, 0.3))
        async with client(patient, mode=mode) as caller:
            answer = await caller.call_tool("pool_execute", gate.task)
            assert answer.structured_content is not None
            assert answer.structured_content["status"] in ("queued", "running")
            assert answer.structured_content["next"].startswith("pool_task(")
            gate.open()


async def test_an_older_client_never_gets_a_task(router: Router, gate: Any) -> None:
    """In 2025-11-25 there are none, whatever a client declares."""
    patient = router.bound(impatient(router, 0.3))
    async with client(patient, tasks := Tasks(), mode="legacy") as caller:
        answer = await caller.call_tool("pool_execute", gate.task)
        assert answer.structured_content is not None and tasks.handles == []
        task_id = answer.structured_content["task_id"]
        assert (await refused(caller.session, "tasks/get", task_id)).code == METHOD_NOT_FOUND
        gate.open()


async def test_the_extension_is_advertised(router: Router) -> None:
    """To those whose era has it, in the one place where extensions stand."""
    async with client(router, Tasks()) as caller:
        extensions = caller.server_capabilities.extensions
        assert extensions is not None and extensions[EXTENSION] == {}
    async with client(router, mode="legacy") as older:
        assert not older.server_capabilities.extensions


# Listening.


async def test_a_listener_hears_the_changes_in_order_and_the_end_last(router: Router, gate: Any) -> None:
    """Each is what `tasks/get` would say, and the stream ends with its last task."""
    async with client(router, tasks := Tasks()) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        await gate.entered()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(listen, caller.session, handle.task_id)
                await until(lambda: tasks.news)
                gate.open()
        await until(lambda: tasks.news[-1]["status"] == "completed")
        final = await ask(caller.session, "tasks/get", handle.task_id)
    assert [each["status"] for each in tasks.news[:-1]] == ["working"] * (len(tasks.news) - 1)
    envelope = {"_meta", "resultType"}
    told, asked = ({name: each[name] for name in each.keys() - envelope} for each in (tasks.news[-1], final))
    assert told == asked


async def test_a_listener_hears_of_a_cancellation(router: Router, gate: Any) -> None:
    """It came from elsewhere."""
    async with client(router, tasks := Tasks()) as caller:
        handle = await start(caller, "pool_execute", gate.task)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(listen, caller.session, handle.task_id)
                await until(lambda: tasks.news)
                await pool_cancel(router, handle.task_id)
        await until(lambda: tasks.news[-1]["status"] == "cancelled")


async def test_the_acknowledgement_comes_first_and_names_the_tasks_there_are(router: Router) -> None:
    """Then what they are, then the end of the stream; unknown ids are left out, and nulls stay."""
    done = await pool_execute(router, task_type="echo", payload={"x": None})
    frames = await spoken(router, {"taskIds": [done.task_id, "t_0"]})
    kinds = [getattr(each, "method", "answer") for each in frames]
    assert kinds == ["notifications/subscriptions/acknowledged", "notifications/tasks", "answer"]
    assert frames[0].params["notifications"] == {"taskIds": [done.task_id]}
    assert frames[1].params["result"]["structuredContent"]["result"] == {"x": None}
    stamps = [each.params["_meta"] for each in frames[:2]] + [frames[2].result["_meta"]]
    assert {stamp["io.modelcontextprotocol/subscriptionId"] for stamp in stamps} == {7}


async def test_listening_to_other_things_as_well_goes_on_behind_the_last_task(router: Router) -> None:
    """One stream, one acknowledgement of both."""
    done = await pool_execute(router, task_type="echo", payload={})
    wanted = {"taskIds": [done.task_id], "toolsListChanged": True}
    frames = await spoken(router, wanted, frames=2)
    assert frames[0].params["notifications"] == wanted
    assert frames[1].method == "notifications/tasks"


async def test_listening_needs_the_extension_and_ids(router: Router) -> None:
    """Each mistake has its error, before anything is acknowledged."""
    done = await pool_execute(router, task_type="echo", payload={})
    [error] = await spoken(router, {"taskIds": [done.task_id]}, declared=False)
    assert error.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    for wrong in ("t_1", [1], [[]], {"t_1": 1}, [f"t_{n}" for n in range(257)]):
        [error] = await spoken(router, {"taskIds": wrong})
        assert error.error.code == INVALID_PARAMS and "taskIds" in error.error.message


async def test_listening_is_bounded(router: Router, gate: Any) -> None:
    """Streams that follow more than 4,096 tasks in all are refused, and polling goes on."""
    async with client(router, tasks := Tasks()) as caller, anyio.create_task_group() as group:
        handle = await start(caller, "pool_execute", gate.task)
        for stream in range(16):
            names = [f"t_{stream}_{n}" for n in range(255)]
            group.start_soon(listen, caller.session, handle.task_id, *names)
        await until(lambda: len(tasks.news) >= 16)
        with pytest.raises(MCPError, match="1 more than 4096 tasks"):
            await listen(caller.session, handle.task_id)
        assert (await ask(caller.session, "tasks/get", handle.task_id))["status"] == "working"
        gate.open()


# The shapes.


def test_a_handle_carries_no_outcome() -> None:
    """Result, error and questions belong to `tasks/get`."""
    state = TaskState(
        task_id="t_1", status="completed", created_at="c", updated_at="u", ttl_ms=5, result={"content": []}
    )
    assert state.handle() == {
        "resultType": "task",
        "taskId": "t_1",
        "status": "completed",
        "createdAt": "c",
        "lastUpdatedAt": "u",
        "ttlMs": 5,
        "pollIntervalMs": 1000,
    }
    assert state.detailed()["result"] == {"content": []} and "resultType" not in state.detailed()


def impatient(router: Router, seconds: float) -> Any:
    """The router's caller, who waits as long as MCP calls do, `seconds` here."""
    return replace(router.caller, kind="mcp", patience=seconds)


async def spoken(
    router: Router, wanted: dict[str, Any], *, declared: bool = True, frames: int | None = None
) -> list[Any]:
    """What the server says to a listen request, frame by frame, to its answer or so many of them."""
    extensions = {"extensions": {EXTENSION: {}}} if declared else {}
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": extensions,
    }
    params = {"notifications": wanted, "_meta": meta}
    request = JSONRPCRequest(jsonrpc="2.0", id=7, method="subscriptions/listen", params=params)
    heard: list[Any] = []
    async with create_client_server_memory_streams() as ((read, write), server):
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(serve_session, router, *server, {})
                await write.send(SessionMessage(request))
                while frames is None or len(heard) < frames:
                    heard.append((await read.receive()).message)
                    if not isinstance(heard[-1], JSONRPCNotification):
                        break
                await write.aclose()
    return heard
