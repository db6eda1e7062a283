"""A cancel that arrives while a task's secrets are still being read."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from stage import until

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_cancel, pool_execute, pool_task

pytestmark = pytest.mark.anyio

SOURCE = """
import os, sys, time
open(sys.argv[1], "w").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.002)
print("secret")
"""


async def test_a_task_cancelled_before_its_secrets_are_known_never_runs(home) -> None:
    """It is cancelled, not completed."""
    asked, go = home / "asked", home / "go"
    source = {"command": [sys.executable, "-c", SOURCE, str(asked), str(go)]}
    async with Router.open(Settings(home=home / "state", secrets={"S": source})) as router:
        task = await pool_execute(router, task_type="echo", payload={"x": {"$secret": "S"}}, wait=False)
        await until(asked.exists)
        cancelling = asyncio.create_task(pool_cancel(router, task.task_id))
        await until(lambda: router.dispatcher.tasks[task.task_id].cancelling)
        go.touch()
        assert (await asyncio.wait_for(cancelling, 30)).cancelled
        assert (await pool_task(router, task.task_id)).status == "cancelled"
