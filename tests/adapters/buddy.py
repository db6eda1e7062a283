"""A server with the tool names, arguments and answers of Session-Buddy: `python buddy.py PORT`.

A prompt is JSON that says what its worker does: {"mark": FILE} adds a line to it, {"until": FILE}
waits for it, {"fail": WORDS} fails, {"handler": NAME, "payload": ...} runs a
handler of these tests. As there, a worker goes on when nobody waits for it any more.
"""

import asyncio
import json
import os
import sys

from far_handlers import handled
from mcp.server.mcpserver import MCPServer

server = MCPServer("session-buddy", log_level="ERROR")
pools: dict[str, asyncio.Semaphore] = {}
working: set[asyncio.Task[None]] = set()


async def work(pool_id: str, prompt: str) -> None:
    """What one of a pool's three workers does."""
    async with pools[pool_id]:
        asked = json.loads(prompt)
        if "handler" in asked:
            await handled(asked["handler"], asked["payload"])
        if "mark" in asked:
            with open(asked["mark"], "a") as file:
                file.write("ran\n")
        while "until" in asked and not os.path.exists(asked["until"]):
            await asyncio.sleep(0.005)
        if "fail" in asked:
            raise ValueError(asked["fail"])


@server.tool()
async def create_pool(pool_id: str | None = None) -> str:
    """Create a new worker pool with exactly 3 workers."""
    if pool_id in pools:
        raise ValueError(f"Pool {pool_id} already exists")
    pools[pool_id or "pool_1"] = asyncio.Semaphore(3)
    return f"✅ Created pool {pool_id} with 3 workers"


@server.tool()
async def list_pools() -> str:
    """List all worker pools."""
    lines = "\n".join(f"  - {name}: running=True, workers=3" for name in pools)
    return f"📊 Pools ({len(pools)} total):\n{lines}"


@server.tool()
async def execute_on_pool(
    pool_id: str, prompt: str, context: dict[str, object] | None = None, timeout: float | None = None
) -> str:
    """Execute a task on a specific pool."""
    task = asyncio.create_task(work(pool_id, prompt))
    working.add(task)
    try:
        await asyncio.wait_for(asyncio.shield(task), timeout)
    except Exception as error:
        return f"❌ Failed to execute task: {error}"
    return f"✅ Task executed on pool {pool_id} by worker {pool_id}-worker-0"


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
