"""A script that owns a home and starts Jobs on a cluster: `HOME URL COUNT SECONDS`.

It prints each id that it was given.
"""

import asyncio
import os
import sys

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute, pool_register


async def main(home, url, count, seconds):
    """Submit, then live on."""
    async with Router.open(Settings(home=home)) as router:
        await pool_register(router, name="cloud", type="kubernetes", endpoint=url, max_workers=50)
        os.write(1, b"open\n")
        for number in range(count):
            payload = {"seconds": seconds + number / 1000}
            task = await pool_execute(router, task_type="sleep", payload=payload, pool="cloud", wait=False)
            os.write(1, f"{task.task_id}\n".encode())
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
