"""What serves a connection, by the kind its hello names."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import mcp_pools.tools  # noqa: F401 - fills TOOLS
from mcp_pools.doors.calls import WITHDRAWN, Calls, Report
from mcp_pools.doors.connection import Connection
from mcp_pools.doors.hello import Hello
from mcp_pools.models import Caller
from mcp_pools.tool import TOOLS

if TYPE_CHECKING:
    from mcp_pools.router import Router

Session = Callable[[Any, Connection, Hello], Awaitable[None]]
"""`session(router, connection, hello)`: serves one accepted connection until its client ends."""


def product_sessions() -> Mapping[str, Session]:
    """The sessions there are: `mcp` and `console`."""
    return {"mcp": mcp, "console": console}


def bound(router: Router, hello: Hello) -> Router:
    """The router on behalf of a connection: its directory, its depth, its patience."""
    if hello.kind == "mcp":
        seconds = router.settings.mcp_wait_seconds
        return router.bound(Caller(kind="mcp", cwd=hello.cwd, patience=seconds, depth=hello.depth))
    return router.bound(Caller(kind="console", cwd=hello.cwd, patience=None, depth=hello.depth))


def admit(hello: Hello) -> None:
    """Raises `PoolsError` for a hello that no session can serve: its flags name what there is not."""
    from mcp_pools.selection import select_tools

    select_tools(given(hello))


def given(hello: Hello) -> dict[str, Any]:
    """The flags that were given; one that was not is no choice of nothing."""
    return {name: value for name, value in hello.flags._asdict().items() if value}


async def mcp(router: Router, connection: Connection, hello: Hello) -> None:
    """One MCP session of the SDK."""
    # The SDK takes half a second to import: not before somebody speaks MCP, and not on the loop.
    server = await asyncio.to_thread(importlib.import_module, "mcp_pools.server")
    from mcp_pools.doors.transport import streams

    incoming, outgoing = streams(connection)
    await server.serve_session(bound(router, hello), incoming, outgoing, given(hello))


async def console(router: Router, connection: Connection, hello: Hello) -> None:
    """Tool calls without an SDK session."""
    mine = bound(router, hello)

    async def call(name: str, arguments: dict[str, Any], report: Report | None) -> dict[str, Any]:
        view = mine.bound(progress=report)
        try:
            return await TOOLS[name].invoke(view, arguments)
        except asyncio.CancelledError as cancelled:
            if WITHDRAWN in cancelled.args:
                view.withdraw()
            raise

    await Calls(connection, call).run()
