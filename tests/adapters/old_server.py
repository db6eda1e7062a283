"""An MCP server over stdio as they were before 2026, written by hand: it knows 2025-11-25 alone.

Its tools are `run` and `about` of `any_server.py`.
"""

import asyncio
import json
import os
import sys

from far_handlers import handled

running = {}


def send(**message):
    """A line on standard output."""
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


async def call(id, name, arguments):
    """Answer `tools/call`; nobody waits for the answer of a call that was cancelled."""
    if name == "about":
        print("a word", file=sys.stderr, flush=True)
        said = {"pid": os.getpid(), "environment": dict(os.environ), "cwd": os.getcwd()}
    else:
        said = await handled(arguments["handler"], arguments["payload"])
    send(id=id, result={"content": [], "structuredContent": said})


async def answer(message):
    """What there is to say to a message."""
    method, params, id = message["method"], message.get("params", {}), message.get("id")
    if method == "initialize":
        told = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
        send(id=id, result={**told, "serverInfo": {"name": "old", "version": "1"}})
    elif method == "tools/list":
        first = "cursor" not in params  # a page for each tool
        tool = {"name": "run" if first else "about", "inputSchema": {"type": "object"}}
        send(id=id, result={"tools": [tool], **({"nextCursor": "2"} if first else {})})
    elif method == "tools/call":
        running[id] = asyncio.current_task()
        await call(id, params["name"], params.get("arguments", {}))
    elif method == "notifications/cancelled":
        running.pop(params["requestId"]).cancel()
    elif id is not None:
        send(id=id, error={"code": -32601, "message": "Method not found"})


async def main():
    """Serve until the end of the input."""
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    answering = set()
    while line := await reader.readline():
        task = asyncio.create_task(answer(json.loads(line)))
        answering.add(task)
        task.add_done_callback(answering.discard)


asyncio.run(main())
