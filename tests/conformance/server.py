"""The fixture server of the official conformance suite: `python tests/conformance/server.py PORT`.

It serves the tools that the suite's `tasks-*` scenarios call, over streamable HTTP at
`http://127.0.0.1:PORT/mcp`, with the product's tasks extension. With the suite installed
(`npm i @modelcontextprotocol/conformance@0.2.0-alpha.12`, Node 22):

    conformance server --url http://127.0.0.1:PORT/mcp --scenario tasks-lifecycle
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import task_fixtures
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import CallToolRequestParams, ListToolsResult, PaginatedRequestParams

from mcp_pools.tasks_extension import TasksExtension

keeper = task_fixtures.MemoryTasks()


@asynccontextmanager
async def lifespan(server: Server[Any]) -> AsyncIterator[anyio.abc.TaskGroup]:
    """What the tasks run in: they outlive the calls that started them."""
    async with anyio.create_task_group() as group:
        yield group
        group.cancel_scope.cancel()


async def list_tools(
    ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None
) -> ListToolsResult:
    return ListToolsResult(tools=task_fixtures.listed())


async def call_tool(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> dict[str, Any]:
    return await task_fixtures.call(ctx, params, keeper, ctx.lifespan_context)


def build() -> Server[Any]:
    """The server with its fixtures."""
    server: Server[Any] = Server(
        "mcp-pools-conformance", version="1", lifespan=lifespan, on_list_tools=list_tools
    )
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)
    TasksExtension(keeper).install(server)
    return server


def main(port: int) -> None:
    """Serve until interrupted; the first line on stdout says when."""
    app = build().streamable_http_app()
    with socket.create_server(("127.0.0.1", port)) as door:
        print(f"listening on http://127.0.0.1:{port}/mcp", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[door])


if __name__ == "__main__":
    main(int(sys.argv[1]))
