"""What serves a connection, by the kind its hello names."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import mcp_pools.tools  # noqa: F401 - fills TOOLS
from mcp_pools.calls import WITHDRAWN, Calls, Report
from mcp_pools.connection import Connection
from mcp_pools.hello import Hello
from mcp_pools.models import Caller
from mcp_pools.tool import TOOLS

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


def admit(hello: Hello) -> None:
    """Raises `PoolsError` for a hello that no session can serve: its flags name what there is not."""
    from mcp_pools.selection import select_tools

    select_tools(hello.flags._asdict())


async def mcp(router: Router, connection: Connection, hello: Hello) -> None:
    """One MCP session of the SDK."""
    # The SDK takes half a second to import: not before somebody speaks MCP, and not on the loop.
    server = await asyncio.to_thread(importlib.import_module, "mcp_pools.server")
    from mcp_pools.transport import streams

    incoming, outgoing = streams(connection)
    await server.serve_session(router.bound(caller(hello)), incoming, outgoing, hello.flags._asdict())


async def console(router: Router, connection: Connection, hello: Hello) -> None:
    """Tool calls without an SDK session."""

    async def call(name: str, arguments: dict[str, Any], report: Report | None) -> dict[str, Any]:
        view = router.bound(caller(hello), report)
        try:
            return await TOOLS[name].invoke(view, arguments)
        except asyncio.CancelledError as cancelled:
            if WITHDRAWN in cancelled.args:
                view.withdraw()
            raise

    await Calls(connection, call).run()
