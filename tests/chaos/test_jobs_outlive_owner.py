"""SIGKILL of an owner whose tasks run as Jobs: they go on, and the next owner collects each result once."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from kubernetes_api import cluster
from owners import Owner, at_rest
from waiting import until

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_cancel, pool_execute, pool_register, pool_task

pytestmark = pytest.mark.anyio

JOBS = int(os.environ.get("MCP_POOLS_JOBS", "8"))
"""How many run when their owner dies; 50 take half a minute."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.mark.parametrize("running", [0.25, 1.0])
async def test_jobs_of_a_killed_owner_end_once_each(world, tmp_path, running) -> None:
    """As many results as tasks, as many Jobs as tasks, wherever in their lives the owner died."""
    before = len(world.created_jobs)
    owner = Owner("running_jobs.py", tmp_path / "home", world.url, JOBS, 1.0)
    owner.read(JOBS)
    await until(lambda: len(world.created_jobs) - before >= JOBS * running)
    owner.kill()
    async with Router.open(Settings(home=tmp_path / "home")) as router:
        await at_rest(router)
        tasks = [await pool_task(router, task_id) for task_id in owner.said]
    assert {task.status for task in tasks} == {"completed"}
    assert sorted(task.result["slept"] for task in tasks) == [1.0 + n / 1000 for n in range(JOBS)]
    created = world.created_jobs[before:]
    assert len(created) == len(set(created)) == JOBS


@pytest.mark.parametrize("wanted", ["now", "before the owner left"])
async def test_a_job_of_an_earlier_owner_can_be_cancelled(world, tmp_path, wanted) -> None:
    """Its pod is gone when the task says cancelled; what one owner was asked for, the next one does."""
    async with Router.open(Settings(home=tmp_path / "home")) as router:
        await pool_register(router, name="cloud", type="kubernetes", endpoint=world.url)
        task = await pool_execute(
            router, task_type="sleep", payload={"seconds": 60}, pool="cloud", wait=False
        )
        await until(lambda: _running(world, task.task_id))
        if wanted != "now":
            world.trouble.down = True
            cancelling = asyncio.create_task(pool_cancel(router, task.task_id))
            await until(lambda: router.dispatcher.tasks[task.task_id].cancelling)
            await asyncio.sleep(0)
            cancelling.cancel()
    world.trouble.down = False
    async with Router.open(Settings(home=tmp_path / "home")) as router:
        assert (await pool_task(router, task.task_id)).status == "running"
        if wanted == "now":
            await pool_cancel(router, task.task_id)
        ended = await pool_task(router, task.task_id, wait_seconds=20)
        assert ended.status == "cancelled" and not _running(world, task.task_id)
        assert (await pool_task(router, task.task_id)).error.details == {}


async def test_a_task_that_cannot_run_says_why_it_waits(world, tmp_path) -> None:
    """In the task, as it would on any other pool."""
    world.images = {"nobody/has:this": "missing"}
    async with Router.open(Settings(home=tmp_path / "home")) as router:
        await pool_register(
            router, name="cloud", type="kubernetes", endpoint=world.url, container_image="nobody/has:this"
        )
        task = await pool_execute(router, task_type="echo", payload={}, pool="cloud", wait=False)

        async def reason():
            waiting = (await pool_task(router, task.task_id)).waiting
            return waiting and waiting.code

        assert await until(reason) == "image_pull"
        await pool_cancel(router, task.task_id)
        assert (await pool_task(router, task.task_id, wait_seconds=20)).status == "cancelled"


def _running(world, task_id):
    pods = [pod for pod in world.all("pods") if pod["metadata"]["labels"]["mcp-pools/task-id"] == task_id]
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]
