"""A program and all it starts end with its task: cancelled, timed out, or orphaned by its owner."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from stage import alive, carrying, lines, until

from mcp_pools import Router, Settings
from mcp_pools.models import Allow
from mcp_pools.tools import pool_cancel, pool_execute, pool_task

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent

FLEEING = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def say():
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{os.getpid()}\\n".encode())
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            say()
            subprocess.Popen(["env", "-i", sys.executable, "-c", "import time; time.sleep(600)"])
            time.sleep(600)
        os._exit(0)
say()
time.sleep(600)
"""
"""Two daemons, each with a child that carries nothing of its environment, and the program itself."""


def settings(home):
    """Commands are allowed."""
    return Settings(home=home, allow=Allow(commands=("*",)), pool_default_max_workers=2)


def payload(pids):
    """The fleeing program, which notes who it is."""
    return {"argv": [sys.executable, "-c", FLEEING, str(pids)]}


async def fled(pids):
    """All processes of the program, once they are there: three that said so, two below them."""

    def holds():
        said = [int(pid) for pid in lines(pids)]
        below = [int(child) for pid in said for child in _children(pid) if alive(int(child))]
        return len(said) == 3 and len(set(said + below)) == 5 and set(said + below)

    return await until(holds)


def _children(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


async def test_a_cancelled_program_leaves_nobody(home) -> None:
    """When the cancel returns, all are gone; the pool serves the next."""
    async with Router.open(settings(home)) as router:
        task = await pool_execute(router, task_type="command", payload=payload(home / "pids"), wait=False)
        pids = await fled(home / "pids")
        assert (await pool_cancel(router, task.task_id)).cancelled
        assert not [pid for pid in pids if alive(pid)]
        assert (await pool_task(router, task.task_id)).status == "cancelled"
        assert (await pool_execute(router, task_type="echo", payload={"x": 1})).status == "completed"


async def test_a_program_that_times_out_leaves_nobody(home) -> None:
    """When the task has ended, all are gone."""
    async with Router.open(settings(home)) as router:
        task = await pool_execute(
            router, task_type="command", payload=payload(home / "pids"), timeout=1.0, wait=False
        )
        pids = await fled(home / "pids")
        ended = await pool_task(router, task.task_id, wait_seconds=30)
        assert (ended.status, ended.error.code) == ("timed_out", "timeout")
        assert not [pid for pid in pids if alive(pid)]


async def test_a_program_left_when_the_router_closes_is_interrupted(home) -> None:
    """It ends with the router, and its task says so."""
    async with Router.open(settings(home)) as router:
        task = await pool_execute(router, task_type="command", payload=payload(home / "pids"), wait=False)
        pids = await fled(home / "pids")
    assert not [pid for pid in pids if alive(pid)]
    async with Router.open(settings(home)) as router:
        kept = await pool_task(router, task.task_id)
        assert (kept.status, kept.error.code) == ("failed", "interrupted")


OWNER = """
import asyncio, os, sys
from test_command_ends import payload, settings
from mcp_pools import Router
from mcp_pools.tools import pool_cancel, pool_execute

async def main(home, pids, cancel):
    async with Router.open(settings(home)) as router:
        task = await pool_execute(router, task_type="command", payload=payload(pids), wait=False)
        os.write(1, f"{task.task_id}\\n".encode())
        await asyncio.to_thread(sys.stdin.readline)
        if cancel == "cancel":
            router.registry.pools["local"].adapter.cancel = lambda attempt: asyncio.sleep(0)
            cancelling = asyncio.create_task(pool_cancel(router, task.task_id))
            while (await router.registry.store.task(task.task_id)).cancel_requested_at is None:
                await asyncio.sleep(0)
            os.write(1, b"asked\\n")
        await asyncio.get_running_loop().create_future()

asyncio.run(main(*sys.argv[1:]))
"""
"""Owns a home and runs the program; on a line of input asks for its end, without ending it."""


@pytest.mark.parametrize(("asked", "status"), [("no", "failed"), ("cancel", "cancelled")])
async def test_the_program_of_a_killed_owner_dies_and_its_task_is_judged(home, asked, status) -> None:
    """Interrupted; but a cancel that was asked for before is honoured by the next owner."""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "adapters")])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home / "state"), str(home / "pids"), asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    with owner:
        task_id = owner.stdout.readline().decode().strip()
        pids = await fled(home / "pids")
        if asked == "cancel":
            owner.stdin.write(b"\n")
            owner.stdin.flush()
            assert owner.stdout.readline() == b"asked\n"
        owner.send_signal(signal.SIGKILL)
    await until(lambda: not [pid for pid in pids if alive(pid)] and not carrying(f"{task_id}."))
    async with Router.open(settings(home / "state")) as router:
        await asyncio.wait_for(router.task(task_id, wait_seconds=30), 30)
        task = await pool_task(router, task_id)
        assert (task.status, task.error.code) == (status, "interrupted")


async def test_the_next_owner_ends_what_a_killed_owner_and_its_killed_workers_left(home) -> None:
    """Even with nobody there to clean up, what carries the attempt dies before work goes on."""
    path = os.pathsep.join([str(HERE), str(HERE.parent / "adapters")])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home / "state"), str(home / "pids"), "no"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    with owner:
        task_id = owner.stdout.readline().decode().strip()
        pids = await fled(home / "pids")
        workers = carrying(*[entry.name for entry in (home / "state/run/local").iterdir()])
        os.kill(owner.pid, signal.SIGSTOP)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        owner.send_signal(signal.SIGKILL)
    async with Router.open(settings(home / "state")) as router:
        assert not [pid for pid in pids if alive(pid)]
        assert (await pool_task(router, task_id, wait_seconds=30)).error.code == "interrupted"
