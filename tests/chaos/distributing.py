"""A script that owns a home with two pools and distributes items over them: `HOME MARKS COUNT CHUNK`.

It prints the distribution's id as soon as it was given it, `done N` for each item N that it is told has
completed, and `ended` when all have.
"""

import asyncio
import os
import sys

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_distribute, pool_task

SECONDS = 0.001
"""How long an item takes: short enough to be handed out in advance."""


def settings(home):
    """Two pools of one worker each, and the appending task types."""
    pools = {name: {"type": "local", "max_workers": 1} for name in "ab"}
    return Settings(home=home, task_modules=["appending"], pools=pools)


def wanted(marks, count, chunk):
    """The distribution."""
    return {
        "task_type": "append-items",
        "payload": {"to": str(marks), "seconds": SECONDS, "items": list(range(count))},
        "strategy": "map_reduce",
        "reduce": "count",
        "chunk_size": chunk,
    }


def say(lines):
    """Some lines, each in one piece."""
    for line in lines:
        os.write(1, f"{line}\n".encode())


async def main(home, marks, count, chunk):
    """Distribute, and tell what is told of it."""
    async with Router.open(settings(home)) as router:
        say(["open"])
        whole = await pool_distribute(router, **wanted(marks, count, chunk), wait=False)
        say([whole.distribution_id])
        known = set()
        while whole.finished_at is None:
            whole = await pool_task(router, whole.distribution_id)
            done = {item.index for item in whole.results if item.status == "completed"} - known
            say(f"done {index}" for index in sorted(done))
            known |= done
            await asyncio.sleep(0.02)
        say(["ended"])
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
