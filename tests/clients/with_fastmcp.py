"""A visit to a server with FastMCP's client: `python with_fastmcp.py VERSION CALLS URL | COMMAND...`.

Prints {"version", "tools", "answers"} as one line of JSON. Run by an interpreter that has FastMCP.
"""

import asyncio
import json
import os
import sys
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport


def transport(first: str, *arguments: str) -> Any:
    """A URL, or what starts a server."""
    if first.startswith("http"):
        return first
    return StdioTransport(first, list(arguments), env=dict(os.environ), keep_alive=False)


async def visit(version: str, calls: str, *target: str) -> None:
    """List the tools, make the calls, print it."""
    mode = "legacy" if version == "2025-11-25" else version
    async with Client(transport(*target), mode=mode) as client:
        listed = await client.list_tools()
        tools = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]
        answers = []
        for name, arguments in json.loads(calls):
            answer = await client.call_tool(name, arguments, raise_on_error=False)
            said = [block.model_dump(mode="json", by_alias=True) for block in answer.content]
            kept = {"content": said, "structuredContent": answer.structured_content}
            answers.append(kept | {"isError": answer.is_error})
        print(json.dumps({"version": client.protocol_version, "tools": tools, "answers": answers}))


asyncio.run(visit(*sys.argv[1:]))
