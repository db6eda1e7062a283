"""An MCP server of no kind that we know: `python any_server.py [PORT] [--old]`; without a port over stdio.

`--old`: at its port it speaks 2025-11-25 alone.
"""

import os
import sys

from far_handlers import handled
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND

OLD = "--old" in sys.argv


async def only_the_older_era(ctx, call_next):
    """What a server that was written before 2026 says to what it does not know."""
    if ctx.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "Method not found")
    return await call_next(ctx)


server = MCPServer("any", log_level="ERROR", middleware=[only_the_older_era] if OLD else [])


@server.tool()
async def run(handler: str, payload: dict[str, object], context: Context) -> dict[str, object]:
    """Run a handler of these tests."""
    try:
        return await handled(handler, payload, context.report_progress)
    except ValueError as failure:
        raise ToolError(str(failure)) from failure


@server.tool()
def ask_agent(question: str, limit: float, options: dict[str, object]) -> str:
    """Answer in plain text, with what was asked."""
    return f"{question} | {limit} | {sorted(options.items())}"


@server.tool()
def add(expression: str, variables: dict[str, float]) -> dict[str, float]:
    """A tool whose arguments are a payload of `compute`."""
    return {"value": sum(variables.values())}


@server.tool(structured_output=False)
def picture() -> list[object]:
    """Words and an image, and no structured content."""
    return ["two", "words", Image(data=b"GIF89a", format="gif")]


@server.tool()
def about() -> dict[str, object]:
    """The process: its id, its variables, its directory. It says a word beside the protocol."""
    print("a word", file=sys.stderr, flush=True)
    return {"pid": os.getpid(), "environment": dict(os.environ), "cwd": os.getcwd()}


if __name__ == "__main__":
    ports = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    if ports:
        server.run("streamable-http", host="127.0.0.1", port=ports[0])
    else:
        server.run("stdio")
