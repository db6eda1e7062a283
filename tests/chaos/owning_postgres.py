"""A script that owns a store in PostgreSQL: `HOME URL GATE NOTES`.

It lets one task hold its only worker and some wait behind it, and prints `open`, then their ids.
Whenever it is sent a line it prints how its tasks stand, and what becomes of a new one.
"""

import asyncio
import os
import sys

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.tools import pool_execute, pool_task

WAITING = 5


def settings(home, url):
    """One worker, and a short lease."""
    return Settings(
        home=home,
        store=url,
        store_lease_seconds=1,
        task_modules=["workloads"],
        pool_default_max_workers=1,
    )


def say(*words):
    """A line."""
    os.write(1, (" ".join(words) + "\n").encode())


def standing(task):
    """How a task stands, as one word."""
    return f"{task.status}/{task.worker}/{task.finished_at.isoformat()}"


async def main(home, url, gate, notes):
    """Submit; then answer."""
    async with Router.open(settings(home, url)) as router:
        say("open")
        held = await pool_execute(router, task_type="hold", payload={"gate": gate}, wait=False)
        ids = [held.task_id]
        for _ in range(WAITING):
            payload = {"file": notes, "word": "ran"}
            waiting = await pool_execute(router, task_type="note", payload=payload, wait=False)
            ids.append(waiting.task_id)
        say(*ids)
        while await asyncio.to_thread(sys.stdin.readline):
            try:
                await pool_execute(router, task_type="echo", payload={})
                say("accepted")
            except PoolsError as refused:
                say(refused.code)
            tasks = [await pool_task(router, task_id=task_id, wait_seconds=20) for task_id in ids]
            say(*map(standing, tasks))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
