"""A script that owns a home and submits from 64 callers at once: `HOME MARKS COUNT`.

It prints each id that it was given, as soon as it was, and `done` when nothing is left to do.
"""

import asyncio
import os
import sys

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute

CALLERS = 64


def settings(home):
    """Two workers, and the appending task type."""
    return Settings(home=home, task_modules=["appending"], pool_default_max_workers=2)


async def main(home, marks, count):
    """Submit, then wait for the end of it all."""
    numbers = iter(range(count))

    async def caller(wait):
        for number in numbers:
            payload = {"to": marks, "seconds": 0.003 if number % 97 == 0 else 0.0}
            task = await pool_execute(router, task_type="append", payload=payload, wait=wait)
            os.write(1, f"{task.task_id}\n".encode())

    async with Router.open(settings(home)) as router:
        os.write(1, b"open\n")
        await asyncio.gather(*(caller(wait=number % 4 == 0) for number in range(CALLERS)))
        while router.unfinished():
            await asyncio.sleep(0.001)
        os.write(1, b"done\n")
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
