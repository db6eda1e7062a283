"""The server, through the SDK's own client, in both protocol eras."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import jsonschema
import pytest
from mcp.shared.exceptions import MCPError
from mcp.shared.memory import create_client_server_memory_streams
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_PARAMS, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcp_pools import __version__
from mcp_pools.errors import PoolsError
from mcp_pools.models import Task
from mcp_pools.selection import select_tools
from mcp_pools.server import INSTRUCTIONS, build_server, serve_session
from mcp_pools.tool import TOOLS
from mcp_pools.tools import pool_cancel, pool_execute, pool_list

pytestmark = pytest.mark.anyio

ECHO = {"task_type": "echo", "payload": {"x": "é"}}
SLEEP: dict[str, Any] = {"task_type": "sleep", "payload": {"seconds": 3600}, "idempotency_key": "nap"}


def calls(task_id: str) -> dict[str, dict[str, Any]]:
    """Arguments with which each tool succeeds."""
    return {
        "pool_list": {},
        "pool_get": {"name": "local"},
        "pool_register": {"name": "bench", "type": "local"},
        "pool_scale": {"name": "local", "workers": "auto"},
        "pool_close": {"name": "local"},
        "pool_discover": {},
        "pool_execute": ECHO,
        "pool_distribute": {"task_type": "echo", "payload": {"x": "{item}", "items": ["é", 2]}},
        "pool_rebalance": {"dry_run": True},
        "pool_task": {"task_id": task_id},
        "pool_cancel": {"task_id": task_id},
        "pool_health": {},
        "pool_stats": {"by_type": True},
        "pool_watch": {},
        "pool_search": {"query": "echo"},
    }


def test_no_tool_is_exempt() -> None:
    """A new tool needs a line in `calls`, or the tests below would pass it over."""
    assert set(calls("")) == set(TOOLS)


async def test_server_says_who_it_is(connect: Any) -> None:
    """Name, title, version and instructions reach the client; the instructions stay short."""
    async with connect() as client:
        assert client.server_info.name == "mcp-pools"
        assert client.server_info.title == "MCP Pools"
        assert client.server_info.version == __version__
        assert client.instructions == INSTRUCTIONS
    assert len(INSTRUCTIONS.encode()) < 2048


async def test_every_tool_is_listed_in_full_and_in_order(connect: Any) -> None:
    """The listing is `TOOLS`: its order, titles, hints and schemas, the same twice."""
    async with connect() as client:
        listed = (await client.list_tools()).tools
        again = (await client.list_tools(cache_mode="refresh")).tools
    assert [each.name for each in listed] == list(TOOLS)
    assert again == listed
    for each, tool in zip(listed, TOOLS.values(), strict=True):
        assert each.title == tool.title and each.annotations is not None
        assert each.description == tool.description and len(tool.description.encode()) < 2048
        assert each.annotations.read_only_hint is (tool.effect == "read")
        assert each.annotations.destructive_hint is (tool.effect == "destroy")
        assert each.annotations.idempotent_hint is tool.idempotent
        assert each.annotations.open_world_hint is tool.open_world
        assert each.input_schema == tool.input_schema
        assert each.input_schema["additionalProperties"] is False
        assert each.output_schema == tool.output_schema


@pytest.mark.parametrize("name", TOOLS)
async def test_results_are_structured_and_match_their_schema(connect: Any, name: str) -> None:
    """Each tool's result validates and lacks nothing, and its text is the same JSON, compact."""
    async with connect() as client:
        task = await client.call_tool("pool_execute", ECHO)
        result = await client.call_tool(name, calls(task.structured_content["task_id"])[name])
    assert not result.is_error
    jsonschema.validate(result.structured_content, TOOLS[name].output_schema)
    assert result.structured_content.keys() >= TOOLS[name].output_schema["properties"].keys()
    [block] = result.content
    assert json.loads(block.text) == result.structured_content
    assert "\n" not in block.text and '": ' not in block.text and "\\u" not in block.text


@pytest.mark.parametrize("name", TOOLS)
async def test_a_mistyped_argument_is_refused_with_the_nearest_name(connect: Any, name: str) -> None:
    """No tool drops an argument it does not know."""
    known = TOOLS[name].parameters[0].name
    async with connect() as client:
        result = await client.call_tool(name, {f"{known}x": 1})
    assert result.is_error
    assert f"Did you mean {known!r}?" in result.content[0].text
    assert result.structured_content["error"]["code"] == "invalid_payload"


async def test_a_refusal_is_an_error_that_says_what_to_do(connect: Any) -> None:
    """What could not be accepted is an error result: message, next step, code."""
    async with connect() as client:
        result = await client.call_tool("pool_get", {"name": "nowhere"})
    assert result.is_error
    error = result.structured_content["error"]
    assert set(error) == {"code", "message", "next", "retryable", "details"}
    assert error["code"] == "unknown_pool"
    assert result.content[0].text == f"{error['message']} {error['next']}"


async def test_an_accepted_task_that_failed_is_not_an_error(connect: Any) -> None:
    """The client must not repeat work because of an error flag."""
    async with connect() as client:
        failing = {"task_type": "compute", "payload": {"expression": "1 / 0"}}
        result = await client.call_tool("pool_execute", failing)
    assert not result.is_error
    assert result.structured_content["status"] == "failed"
    assert result.structured_content["error"]["code"] == "task_error"


async def test_an_unknown_tool_is_a_protocol_error_naming_the_nearest(connect: Any) -> None:
    """A wrong name is malformed, not a failed call."""
    async with connect() as client:
        with pytest.raises(MCPError, match="Did you mean 'pool_execute'") as unknown:
            await client.call_tool("pool_exicute", {})
    assert unknown.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({}, list(TOOLS)),
        ({"read_only": True}, [name for name, tool in TOOLS.items() if tool.effect == "read"]),
        ({"disable_destructive": True}, [name for name, tool in TOOLS.items() if tool.effect != "destroy"]),
        (
            {"tools": ["pool_task", "pool_list"]},
            [name for name in TOOLS if name in ("pool_list", "pool_task")],
        ),
        ({"tools": []}, []),
        ({"exclude_tools": ["pool_close"]}, [name for name in TOOLS if name != "pool_close"]),
        ({"toolsets": ["pools"]}, [name for name, tool in TOOLS.items() if tool.toolset == "pools"]),
        (
            {"toolsets": ["execution"], "tools": ["pool_list"], "read_only": True},
            [
                name
                for name, tool in TOOLS.items()
                if name == "pool_list" or (tool.toolset == "execution" and tool.effect == "read")
            ],
        ),
    ],
)
async def test_flags_narrow_what_is_listed_and_what_is_callable(
    connect: Any, flags: dict[str, Any], names: list[str]
) -> None:
    """A tool that is not listed cannot be called either."""
    async with connect(**flags) as client:
        listed = [each.name for each in (await client.list_tools()).tools]
        assert listed == names
        for name in TOOLS.keys() - set(listed):
            with pytest.raises(MCPError, match=f"{name} is switched off") as off:
                await client.call_tool(name, {})
            assert off.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ({"readonly": True}, "Did you mean 'read_only'"),
        ({"tools": ["pool_lst"]}, "Did you mean 'pool_list'"),
        ({"exclude_tools": ["pool_clos"]}, "Did you mean 'pool_close'"),
        ({"toolsets": ["pool"]}, "Did you mean 'pools'"),
    ],
)
def test_a_mistyped_flag_is_refused(flags: dict[str, Any], hint: str) -> None:
    """A restriction that was misspelt must not silently restrict nothing."""
    with pytest.raises(PoolsError, match=hint):
        select_tools(flags)


async def test_a_crash_is_masked_and_logged(
    connect: Any, router: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns a reference; the traceback stays in the owner's log."""

    async def crash(pool: str | None = None) -> None:
        raise RuntimeError("secret path /etc/shadow")

    monkeypatch.setattr(router.registry, "health", crash)
    async with connect() as client:
        result = await client.call_tool("pool_health", {})
    text = result.content[0].text
    reference = text.partition("(reference ")[2].partition(")")[0]
    assert result.is_error and reference and "secret" not in result.model_dump_json()
    assert "structured_content" not in result.model_fields_set, "some clients take no null for it"
    [record] = [each for each in caplog.records if each.name == "mcp_pools.server"]
    assert reference in record.getMessage() and record.exc_info is not None


async def test_a_payload_that_is_no_unicode_costs_only_its_call(connect: Any) -> None:
    """A lone surrogate is refused; the session goes on."""
    async with connect() as client:
        spoilt = await client.call_tool("pool_execute", {**ECHO, "payload": {"x": "\ud800"}})
        assert spoilt.is_error and spoilt.structured_content["error"]["code"] == "invalid_payload"
        assert not (await client.call_tool("pool_execute", ECHO)).is_error


async def test_progress_arrives_in_order_before_the_result(connect: Any, router: Any) -> None:
    """Progress reaches a client that asked for it, and never falls back."""
    seen: list[tuple[float, float | None, str | None]] = []
    arrived = anyio.Event()

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))
        if done == total:
            arrived.set()

    async with connect() as client, anyio.create_task_group() as group:

        async def call() -> None:
            nap = {"task_type": "sleep", "payload": {"seconds": 0.6}}
            await client.call_tool("pool_execute", nap, progress_callback=on_progress)

        group.start_soon(call)
        with anyio.fail_after(10):
            await arrived.wait()
        group.cancel_scope.cancel()
    assert seen[-1] == (0.6, 0.6, None) and len(seen) > 1
    assert sorted(seen) == seen


async def test_cancelling_a_call_reaches_the_tool(connect: Any, router: Any) -> None:
    """A client that gives a waiting call up gives its task up."""
    async with connect() as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "pool_execute", SLEEP)
            await until_busy(router)
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            while (await nap(router)).status != "cancelled":
                await anyio.lowlevel.checkpoint()


async def test_a_client_that_goes_away_cancels_nothing(router: Any) -> None:
    """Work outlives the window that asked for it; its session ends with its last answer."""
    async with create_client_server_memory_streams() as ((read, write), server):
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(serve_session, router, *server, {})
                for message in handshake(call("pool_execute", SLEEP)):
                    await write.send(SessionMessage(message))
                assert (await answer(read)).id == 1
                await until_busy(router)
                await write.aclose()
                await anyio.wait_all_tasks_blocked()
                task = await nap(router)
                assert task.status == "running"
                await pool_cancel(router, task.task_id)
                last = await answer(read)
    assert last.id == 2 and last.result["structuredContent"]["status"] == "cancelled"


async def test_a_cancelled_call_does_not_hold_the_session(router: Any) -> None:
    """Nobody answers a cancelled call, so nobody waits for its answer."""
    async with create_client_server_memory_streams() as ((read, write), server):
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(serve_session, router, *server, {})
                cancel = JSONRPCNotification(
                    jsonrpc="2.0", method="notifications/cancelled", params={"requestId": "2"}
                )
                for message in handshake(call("pool_execute", SLEEP), cancel):
                    await write.send(SessionMessage(message))
                assert (await answer(read)).id == 1
                await write.aclose()


def test_building_the_server_leaves_the_root_logger_alone(tmp_path: Path) -> None:
    """Logging belongs to the owner."""
    before = (logging.root.level, list(logging.root.handlers))
    build_server.cache_clear()
    build_server(tmp_path)
    assert (logging.root.level, list(logging.root.handlers)) == before


async def until_busy(router: Any) -> None:
    """Wait until a worker runs something."""
    with anyio.fail_after(10):
        while not any(pool.workers.busy for pool in (await pool_list(router)).pools):
            await anyio.lowlevel.checkpoint()


async def nap(router: Any) -> Task:
    """The one task of `SLEEP`, by its idempotency key."""
    return await pool_execute(router, **SLEEP, wait=False)


async def answer(read: Any) -> JSONRPCResponse:
    message = (await read.receive()).message
    assert isinstance(message, JSONRPCResponse)
    return message


def call(name: str, arguments: dict[str, Any]) -> JSONRPCRequest:
    params = {"name": name, "arguments": arguments}
    return JSONRPCRequest(jsonrpc="2.0", id=2, method="tools/call", params=params)


def handshake(*messages: JSONRPCRequest | JSONRPCNotification) -> list[JSONRPCRequest | JSONRPCNotification]:
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    return [
        JSONRPCRequest(jsonrpc="2.0", id=1, method="initialize", params=hello),
        JSONRPCNotification(jsonrpc="2.0", method="notifications/initialized"),
        *messages,
    ]
