"""A server with the worker tools, arguments and answers of Mahavishnu: `python workers_server.py PORT`.

A worker takes one prompt at a time. As there, it goes on when nobody waits for it any more, and ends when
it is closed.
"""

import asyncio
import itertools
import sys

from far_handlers import asked
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("mahavishnu", log_level="ERROR")
numbers = itertools.count(1)
workers: dict[str, list[asyncio.Task[object]]] = {}


@server.tool()
async def worker_spawn(worker_type: str = "terminal-claude", count: int = 1) -> dict[str, list[str]]:
    """Spawn worker instances for task execution."""
    if worker_type != "terminal-claude":
        raise ToolError(f"Error calling tool 'worker_spawn': Unknown worker type: {worker_type}")
    fresh = [f"{worker_type}-{next(numbers)}" for _ in range(count)]
    workers.update({worker: [] for worker in fresh})
    return {"worker_ids": fresh}


@server.tool()
async def worker_list(state: str | None = None, worker_id: str | None = None) -> list[dict[str, object]]:
    """List workers."""
    return [
        {"worker_id": worker, "busy": any(not each.done() for each in workers[worker])} for worker in workers
    ]


@server.tool()
async def worker_close(worker_id: str, force: bool = False) -> dict[str, object]:
    """Close a worker."""
    if worker_id not in workers:
        return {"success": False, "worker_id": worker_id, "error": f"Worker not found: {worker_id}"}
    for each in workers.pop(worker_id):
        each.cancel()
    return {"success": True, "worker_id": worker_id}


@server.tool()
async def worker_execute(worker_id: str, prompt: str, timeout: int = 300) -> dict[str, object]:
    """Execute task on specific worker."""
    if timeout < 30 or timeout > 3600:
        raise ToolError("Error calling tool 'worker_execute': timeout must be between 30 and 3600")
    if worker_id not in workers:
        raise ToolError(f"Error calling tool 'worker_execute': Worker not found: {worker_id}")
    work = asyncio.create_task(asked(prompt))
    workers[worker_id].append(work)
    said: dict[str, object] = {"worker_id": worker_id, "output": None, "error": None, "exit_code": None}
    said |= {"duration_seconds": 0.1, "metadata": {}}
    try:
        output = await asyncio.wait_for(asyncio.shield(work), timeout)
    except TimeoutError:
        return said | {"status": "timeout", "error": "Task timed out"}
    except ValueError as failure:
        return said | {"status": "failed", "error": str(failure)}
    return said | {"status": "completed", "output": str(output), "exit_code": 0}


if __name__ == "__main__":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
