"""The fixture server of the official conformance suite: `python tests/conformance/server.py PORT`.

It is the product as `mcp-pools serve --http` serves it, with a home of its own: its HTTP door,
its server, its middleware and its tasks extension. What the suite calls by name is added to
it; all else is the product's. With the suite installed (`npm i
@modelcontextprotocol/conformance@0.2.0-alpha.12`, Node 22):

    conformance server --url http://127.0.0.1:PORT/mcp --requirements 2026-07-28
    conformance server --url http://127.0.0.1:PORT/mcp --suite all --spec-version 2025-11-25
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import fixtures
import task_fixtures
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    CompleteRequestParams,
    EmptyResult,
    GetPromptRequestParams,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    ReadResourceRequestParams,
    Resource,
    ResourceTemplate,
    SubscribeRequestParams,
    Tool,
    UnsubscribeRequestParams,
)

from mcp_pools import Router, Settings
from mcp_pools.doors.http_address import Address, listen
from mcp_pools.doors.http_door import HttpDoor
from mcp_pools.tasks_extension import TasksExtension

METHODS = (
    *("tools/list", "tools/call", "prompts/list", "prompts/get", "completion/complete"),
    *("resources/list", "resources/templates/list", "resources/read"),
    *("resources/subscribe", "resources/unsubscribe"),
)


class Fixtures:
    """Adds the suite's tools, resources and prompts to the product's server."""

    def __init__(self, server: Server[Any], group: anyio.abc.TaskGroup) -> None:
        entries = {method: server.get_request_handler(method) for method in METHODS}
        self._product = {method: entry.handler for method, entry in entries.items() if entry is not None}
        self._keeper = task_fixtures.MemoryTasks()
        self._group = group
        self._add(server)

    def _add(self, server: Server[Any]) -> None:
        add = server.add_request_handler
        add("tools/list", PaginatedRequestParams, self.list_tools)
        add("tools/call", CallToolRequestParams, self.call_tool)
        add("resources/list", PaginatedRequestParams, self.list_resources)
        add("resources/templates/list", PaginatedRequestParams, self.list_templates)
        add("resources/read", ReadResourceRequestParams, self.read)
        add("resources/subscribe", SubscribeRequestParams, self.subscribe)
        add("resources/unsubscribe", UnsubscribeRequestParams, self.unsubscribe)
        add("prompts/list", PaginatedRequestParams, self.list_prompts)
        add("prompts/get", GetPromptRequestParams, self.get_prompt)
        add("completion/complete", CompleteRequestParams, self.complete)
        TasksExtension(self._keeper).install(server)

    async def list_tools(self, ctx: Any, params: Any) -> Any:
        listed = await self._product["tools/list"](ctx, params)
        more = [
            Tool(name=name, description=f"Fixture {name}.", input_schema=fixtures.input_schema(name))
            for name in fixtures.TOOLS
        ]
        return listed.model_copy(update={"tools": [*listed.tools, *more, *task_fixtures.listed()]})

    async def call_tool(self, ctx: Any, params: CallToolRequestParams) -> Any:
        if params.name in fixtures.TOOLS:
            return await fixtures.TOOLS[params.name](ctx, dict(params.arguments or {}))
        if params.name in task_fixtures.TOOLS:
            return await task_fixtures.call(ctx, params, self._keeper, self._group)
        return await self._product["tools/call"](ctx, params)

    async def list_resources(self, ctx: Any, params: Any) -> Any:
        listed = await self._product["resources/list"](ctx, params)
        more = [Resource(uri=uri, name=uri, description="A fixture.") for uri in fixtures.STATIC]
        return listed.model_copy(update={"resources": [*listed.resources, *more]})

    async def list_templates(self, ctx: Any, params: Any) -> Any:
        listed = await self._product["resources/templates/list"](ctx, params)
        more = ResourceTemplate(uri_template=fixtures.TEMPLATE, name="template", description="A fixture.")
        return listed.model_copy(update={"resource_templates": [*listed.resource_templates, more]})

    async def read(self, ctx: Any, params: ReadResourceRequestParams) -> Any:
        return fixtures.read(str(params.uri)) or await self._product["resources/read"](ctx, params)

    async def subscribe(self, ctx: Any, params: SubscribeRequestParams) -> Any:
        own = str(params.uri) in fixtures.STATIC
        return EmptyResult() if own else await self._product["resources/subscribe"](ctx, params)

    async def unsubscribe(self, ctx: Any, params: UnsubscribeRequestParams) -> Any:
        return await self._product["resources/unsubscribe"](ctx, params)

    async def list_prompts(self, ctx: Any, params: Any) -> Any:
        listed = await self._product["prompts/list"](ctx, params)
        more = [
            Prompt(
                name=name,
                description=f"Fixture {name}.",
                arguments=[
                    PromptArgument(name=each, description=f"The fixture's {each}.", required=True)
                    for each in fixtures.PROMPT_ARGUMENTS.get(name, ())
                ],
            )
            for name in fixtures.PROMPTS
        ]
        return listed.model_copy(update={"prompts": [*listed.prompts, *more]})

    async def get_prompt(self, ctx: Any, params: GetPromptRequestParams) -> Any:
        if params.name in fixtures.PROMPTS:
            return await fixtures.PROMPTS[params.name](ctx, dict(params.arguments or {}))
        return await self._product["prompts/get"](ctx, params)

    async def complete(self, ctx: Any, params: CompleteRequestParams) -> Any:
        if getattr(params.ref, "name", None) in fixtures.PROMPTS:
            return {"completion": {"values": [], "total": 0, "hasMore": False}, "resultType": "complete"}
        return await self._product["completion/complete"](ctx, params)


async def serve(port: int) -> None:
    """Serve until a signal; the first line on stdout says when."""
    address, over = Address("127.0.0.1", port), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    with tempfile.TemporaryDirectory(prefix="mp-") as home, listen(address) as listening:
        settings = Settings(home=Path(home))
        door = HttpDoor(listening, address, settings, {})
        async with anyio.create_task_group() as group:
            Fixtures(door.mcp.server, group)
            async with door.beside(Router.open(settings)):
                print(f"listening on {address.url}", flush=True)
                await over.wait()
            group.cancel_scope.cancel()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
