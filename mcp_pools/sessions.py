"""What serves a connection, by the kind its hello names."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mcp_pools import jsonrpc
from mcp_pools.calls import WITHDRAWN, Calls, Report
from mcp_pools.connection import Connection
from mcp_pools.errors import PoolsError
from mcp_pools.hello import Hello
from mcp_pools.models import Caller

if TYPE_CHECKING:
    from mcp_pools.router import Router

Session = Callable[[Any, Connection, Hello], Awaitable[None]]
"""`session(router, connection, hello)`: serves one accepted connection until its client ends."""

PATIENCE: Final = 45.0
"""Seconds after which a wait over MCP ends with the task as it stands."""


def product_sessions() -> Mapping[str, Session]:
    """The sessions there are: `mcp` and `console`."""
    return {"mcp": mcp, "console": console}


def caller(hello: Hello) -> Caller:
    """On whose behalf a connection's calls run: its directory, its depth, its patience."""
    if hello.kind == "mcp":
        return Caller(kind="mcp", cwd=hello.cwd, patience=PATIENCE, depth=hello.depth)
    return Caller(kind="console", cwd=hello.cwd, patience=None, depth=hello.depth)


async def mcp(router: Router, connection: Connection, hello: Hello) -> None:
    """One MCP session of the SDK."""
    # The SDK takes half a second to import: not before somebody speaks MCP, and not on the loop.
    server = await asyncio.to_thread(importlib.import_module, "mcp_pools.server")
    await asyncio.to_thread(importlib.import_module, "mcp_pools.tools")
    from mcp_pools.transport import streams

    # A session takes an empty choice for "none of them"; a flag that was not given is left out.
    flags = {name: value for name, value in hello.flags._asdict().items() if value}
    incoming, outgoing = streams(connection)
    try:
        await server.serve_session(router.bound(caller(hello)), incoming, outgoing, flags)
    except PoolsError as refused:
        await turn_away(connection, refused)


async def turn_away(connection: Connection, refused: PoolsError) -> None:
    """Answer each request with the reason why there is no session, until the client ends."""
    while line := await connection.take():
        with suppress(ValueError, TypeError):
            if (about := jsonrpc.envelope(line)).is_request:
                data = {"code": refused.code, "next": refused.next}
                connection.send(jsonrpc.error_line(about.id, jsonrpc.INVALID_PARAMS, str(refused), data))


async def console(router: Router, connection: Connection, hello: Hello) -> None:
    """Tool calls without an SDK session. A call that is withdrawn takes what it accepted with it."""
    await asyncio.to_thread(importlib.import_module, "mcp_pools.tools")
    from mcp_pools.tool import TOOLS

    who = caller(hello)

    async def call(name: str, arguments: dict[str, Any], report: Report | None) -> dict[str, Any]:
        view = router.bound(who, report)
        try:
            content: dict[str, Any] = await TOOLS[name].invoke(view, arguments)
        except asyncio.CancelledError as stopped:
            if stopped.args == (WITHDRAWN,):
                await view.cancel_accepted()
            raise
        return content

    await Calls(connection, call).run()
