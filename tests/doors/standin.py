"""An owner made of stand-in parts: everything real but the router and the tools.

`STANDIN_MCP=sdk` serves MCP connections with a bare SDK server, else with a few lines of
JSON-RPC that start faster. `STANDIN_FAILS` is what opening the router fails with.
`STANDIN_DIES_OF` is a method that kills it. `STANDIN_VERSION` is the version it claims.
"""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from mcp_pools import owner
from mcp_pools.doors import hello
from mcp_pools.doors.calls import Calls
from mcp_pools.errors import PoolsError
from mcp_pools.home import Home


class StandInRouter:
    """Counts what its calls pretend to have accepted, and notes how each was stopped."""

    def __init__(self, home):
        self.tasks = 0
        self.notes = home.path / "notes"

    def unfinished(self):
        return self.tasks

    def disowned(self):
        return False

    def leave(self):
        """Nothing is launched here that could be held back."""

    async def call(self, name, arguments, report):
        if name == "echo":
            return {"echo": arguments}
        if name == "count":
            for step in range(3):
                report(step + 1, 3, f"step {step}")
            return {"counted": 3}
        if name == "accept":
            self.tasks += 1
            return {"unfinished": self.tasks}
        if name == "refuse":
            raise PoolsError("queue_full", "The queue is full.", "Try later.")
        if name == "crash":
            raise RuntimeError("a bug")
        if name == "wait":
            return await self.wait()
        raise LookupError(name)

    async def wait(self):
        self.note("waiting")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as stopped:
            self.note(f"stopped {stopped.args}")
            raise

    def note(self, text):
        with self.notes.open("a") as file:
            file.write(text + "\n")


async def console(router, connection, hello):
    await Calls(connection, router.call).run()


async def light(router, connection, hello):
    """Just enough of MCP to see what a bridge does."""
    while line := await connection.take():
        message = json.loads(line)
        router.note(
            json.dumps({"pid": os.getpid(), "method": message.get("method"), "id": message.get("id")})
        )
        method, number = message.get("method"), message.get("id")
        if method == os.environ.get("STANDIN_DIES_OF"):
            os._exit(9)
        if method == "ask":
            say(connection, {"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {}})
        elif method in ("hang", None) or number is None:
            continue
        elif method == "big":
            size = message["params"]["size"]
            say(connection, {"jsonrpc": "2.0", "id": number, "result": {"text": "x" * size}})
        else:
            result = {"pid": os.getpid(), "method": method, "length": len(line)}
            say(connection, {"jsonrpc": "2.0", "id": number, "result": result})
        await connection.drain()


def say(connection, message):
    connection.send(json.dumps(message, separators=(",", ":")).encode() + b"\n")


async def sdk(router, connection, hello):
    from mcp.server.mcpserver import MCPServer

    from mcp_pools.doors.transport import streams

    server = MCPServer("stand-in", log_level="WARNING")

    @server.tool()
    async def echo(text: str, times: int = 1) -> dict[str, str | int]:
        return {"text": text, "times": times, "pid": os.getpid()}

    @server.tool()
    async def hang() -> str:
        router.note("hanging")
        await asyncio.get_running_loop().create_future()
        return ""

    incoming, outgoing = streams(connection)
    low = server._lowlevel_server
    await low.run(incoming, outgoing, low.create_initialization_options())


def compose(home, config):
    @asynccontextmanager
    async def open_router():
        if os.environ.get("STANDIN_FAILS"):
            raise PoolsError("conflict", os.environ["STANDIN_FAILS"], "Mend it.")
        yield StandInRouter(home)
        (home.path / "closed").write_text("yes")

    mcp = sdk if os.environ.get("STANDIN_MCP") == "sdk" else light
    idle = float(os.environ.get("STANDIN_IDLE", "30"))
    return owner.Composition(open_router, {"mcp": mcp, "console": console}, idle)


class StandInHome(Home):
    """A home whose owners are stand-ins."""

    owner_command = (sys.executable, "-P", str(Path(__file__)))


if __name__ == "__main__":
    if version := os.environ.get("STANDIN_VERSION"):
        owner.__version__ = hello.__version__ = version
    raise SystemExit(owner.main(compose=compose))
