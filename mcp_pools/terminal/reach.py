"""Who answers a console command: a server that was named, the owner, or the store alone."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from math import inf
from typing import Any

from mcp_pools.client import Client, HttpTransport, OnProgress, SocketTransport, Unreachable, refusal
from mcp_pools.errors import PoolsError
from mcp_pools.home import Hello, Home, NoOwner, connect
from mcp_pools.tool import TOOLS, Tool

Answer = tuple[dict[str, Any], bool]
"""The structured content, and whether it is a refusal."""


def ask(
    tool: Tool,
    arguments: dict[str, Any],
    *,
    server: str | None = None,
    config: str | None = None,
    on_progress: OnProgress | None = None,
) -> Answer:
    """Call a tool wherever it can be answered.

    Raises:
        mcp_pools.client.Unreachable: nobody answers.
    """
    try:
        if server:
            return _by_server(server, tool, arguments, on_progress)
        return _by_owner(tool, arguments, config, on_progress)
    except PoolsError as refused:
        said = refusal(refused.code, refused.message, refused.next)
        said["error"]["details"] = refused.details
        return said, True


def _by_owner(
    tool: Tool, arguments: dict[str, Any], config: str | None, on_progress: OnProgress | None
) -> Answer:
    """Ask the owner; where there is none, a reading command asks the store instead of starting one."""
    home, hello = Home.default(config), Hello.here("console", config)
    alone = tool.effect == "read" and tool.name != "pool_watch"
    try:
        connection = _door(home, hello, start=not alone)
    except NoOwner:
        if (answer := _from_store(home, hello, tool, arguments)) is not None:
            return answer
        connection = _door(home, hello, start=True)
    with closing(Client(SocketTransport(connection))) as client:
        return client.call(tool.name, arguments, on_progress)


def _door(home: Home, hello: Hello, start: bool) -> socket.socket:
    try:
        return connect(home, hello, start=start)
    except NoOwner:
        raise
    except PoolsError as refused:
        if refused.code == "pool_unreachable":
            raise Unreachable(str(refused)) from refused
        raise


def _from_store(home: Home, hello: Hello, tool: Tool, arguments: dict[str, Any]) -> Answer | None:
    """The store's answer; `None` when it holds work that needs an owner."""
    import asyncio

    from mcp_pools.models import Caller
    from mcp_pools.router import read_only

    async def answer() -> Answer | None:
        opened = read_only(home.path, hello.config)
        if opened is None:
            return None
        async with opened as router:
            caller = Caller(name="local", kind="console", cwd=hello.cwd)
            return await tool.invoke(router.bound(caller), arguments), False

    return asyncio.run(answer())


def _by_server(url: str, tool: Tool, arguments: dict[str, Any], on_progress: OnProgress | None) -> Answer:
    with closing(Client(HttpTransport(url, os.environ.get("MCP_POOLS_TOKEN")))) as client:
        asked = time.monotonic()
        answer = client.call(tool.name, arguments, on_progress)
        patience = _patience(tool, arguments)
        return _wait_on(client, answer, asked + patience, patience == inf, on_progress)


def _patience(tool: Tool, arguments: dict[str, Any]) -> float:
    """How long the caller wants to wait for a task, in seconds."""
    if any(each.name == "wait" for each in tool.parameters):
        return inf if arguments.get("wait", True) else 0.0
    return float(arguments.get("wait_seconds", 0.0))


def _wait_on(
    client: Client, answer: Answer, until: float, cancels: bool, on_progress: OnProgress | None
) -> Answer:
    """Go on waiting for a task: a server ends waits early, a console waits as long as it was told to."""
    data, refused = answer
    try:
        while not refused and _is_unfinished(data) and (left := until - time.monotonic()) > 0:
            again = {"task_id": data["task_id"], "wait_seconds": min(left, 30.0)}
            data, refused = client.call("pool_task", again, on_progress)
    except KeyboardInterrupt:
        if cancels:
            client.call("pool_cancel", {"task_id": data["task_id"]})
        raise
    return data, refused


def _is_unfinished(data: dict[str, Any]) -> bool:
    return "pool_task" in TOOLS and "task_id" in data and data.get("status") in ("queued", "running")
