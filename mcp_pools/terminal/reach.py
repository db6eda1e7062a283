"""Who answers a console command: a server that was named, the owner, or the store alone."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from math import inf
from typing import Any, Final

from mcp_pools.client import Client, HttpTransport, OnProgress, SocketTransport, Unreachable, refusal
from mcp_pools.errors import PoolsError
from mcp_pools.home import Hello, Home, NoOwner, connect
from mcp_pools.tool import TOOLS, Tool

Answer = tuple[dict[str, Any], bool]
"""The structured content, and whether it is a refusal."""
_MOMENT: Final = 1.0
"""Seconds that somebody waits for who only wants to complete a word."""


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
        return _refusal(refused), True


def _refusal(refused: PoolsError) -> dict[str, Any]:
    said = refusal(refused.code, refused.message, refused.next)
    said["error"]["details"] = refused.details
    return said


class Refused(Exception):
    """A call was refused; `data` is the refusal's structured content."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(str(data.get("error", {}).get("message", "refused")))
        self.data = data

    @property
    def code(self) -> str:
        """The refusal's code."""
        return str(self.data.get("error", {}).get("code", ""))


class Held:
    """A connection for many calls: made with the first, and made again after it was lost.

    An owner is started where there is none, also when the one that answered before is gone.
    """

    def __init__(self, server: str | None = None, config: str | None = None) -> None:
        self._server = server
        self._config = config
        self._client: Client | None = None

    def call(self, tool_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool: the structured content.

        Raises:
            mcp_pools.client.Unreachable: nobody answers; the next call tries anew.
            Refused: the call, or the connection itself, was refused.
        """
        try:
            self._client = self._client or self._made()
            data, refused = self._client.call(tool_name, arguments)
        except Unreachable:
            self.close()
            raise
        except PoolsError as failure:
            raise Refused(_refusal(failure)) from failure
        if refused:
            raise Refused(data)
        return data

    def close(self) -> None:
        """Let the connection go."""
        if self._client:
            self._client.close()
            self._client = None

    def _made(self) -> Client:
        if self._server:
            return _client_of(self._server)
        home, hello = Home.default(self._config), Hello.here("console", self._config)
        return Client(SocketTransport(_door(home, hello, start=True)))


def peek(tool_name: str, arguments: dict[str, Any], config: str | None = None) -> dict[str, Any] | None:
    """A reading tool's answer, if there is one within a second and without starting an owner."""
    home, hello = Home.default(config), Hello.here("console", config)
    try:
        connection = connect(home, hello, start=False, timeout=_MOMENT)
    except NoOwner:
        answer = _from_store(home, hello, TOOLS[tool_name], arguments)
        return None if answer is None else answer[0]
    connection.settimeout(_MOMENT)
    with closing(Client(SocketTransport(connection))) as client:
        data, refused = client.call(tool_name, arguments)
        return None if refused else data


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
    from mcp_pools.reading import read_only

    async def answer() -> Answer | None:
        opened = read_only(home.path, hello.config)
        if opened is None:
            return None
        async with opened as router:
            caller = Caller(name="local", kind="console", cwd=hello.cwd)
            return await tool.invoke(router.bound(caller), arguments), False

    return asyncio.run(answer())


def _by_server(url: str, tool: Tool, arguments: dict[str, Any], on_progress: OnProgress | None) -> Answer:
    with closing(_client_of(url)) as client:
        asked = time.monotonic()
        answer = client.call(tool.name, arguments, on_progress)
        patience = _patience(tool, arguments)
        return _wait_on(client, answer, asked + patience, patience == inf, on_progress)


def _client_of(url: str) -> Client:
    return Client(HttpTransport(url, os.environ.get("MCP_POOLS_TOKEN")))


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
        while not refused and (id := _unfinished(data)) and (left := until - time.monotonic()) > 0:
            again = {"task_id": id, "wait_seconds": min(left, 30.0)}
            data, refused = client.call("pool_task", again, on_progress)
    except KeyboardInterrupt:
        if cancels:
            client.call("pool_cancel", {"task_id": _unfinished(data)})
        raise
    return data, refused


def _unfinished(data: dict[str, Any]) -> str | None:
    """The id of a task or a distribution that has not ended."""
    waits = "pool_task" in TOOLS and data.get("status") in ("queued", "running")
    return data.get("task_id") or data.get("distribution_id") if waits else None
