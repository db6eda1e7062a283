"""SIGKILL of the process that owns a home, at any point: nothing acknowledged is lost or run twice.

Each point is reached by what has happened, not by time: a number of ids given out, or of tasks
run. `-s` shows what became of the tasks.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from stage import carrying, lines
from submitting import settings

from mcp_pools import Router
from mcp_pools.states import TERMINAL
from mcp_pools.stores.sqlite import SqliteStore
from mcp_pools.worker_process import Journal

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent

POINTS = 20
TASKS = 2000
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def tasks_on_the_path(monkeypatch):
    """Owners and workers find the task type."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


class Owner:
    """The submitting script, until it is killed; `ids` are those it was given."""

    def __init__(self, home, marks, count):
        command = [sys.executable, str(HERE / "submitting.py"), str(home), str(marks), str(count)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.said = []
        assert self.process.stdout.readline() == b"open\n"

    @property
    def ids(self):
        return [word for word in self.said if word != "done"]

    def read(self, count):
        """Read on until so many ids were given out."""
        while len(self.said) < count and (line := self.process.stdout.readline()):
            self.said.append(line.decode().strip())

    def kill(self):
        """SIGKILL; what it had already said still counts."""
        self.process.send_signal(signal.SIGKILL)
        rest = self.process.stdout.read().decode()
        self.said += rest[: rest.rfind("\n") + 1].split()
        self.process.stdout.close()
        assert self.process.wait() == -signal.SIGKILL


def kill_at(owner, marks, share):
    """Kill the owner once this share of its life has passed: submitting is the first half."""
    if share < 0.5:
        owner.read(int(TASKS * share * 2))
    else:
        deadline = time.monotonic() + DEADLINE
        while owner.process.poll() is None and len(lines(marks)) < TASKS * (share * 2 - 1):
            assert time.monotonic() < deadline
            owner.read(min(len(owner.said) + 100, TASKS))
    owner.kill()


async def left_behind(home):
    """What the owner's death left on disk: the unfinished rows, and those of them that may have started."""
    workers = [entry.name for entry in (home / "run").glob("*/*")]
    deadline = time.monotonic() + DEADLINE
    while workers and carrying(*workers):
        assert time.monotonic() < deadline, "workers outlive their owner"
        await asyncio.sleep(0.002)
    store = SqliteStore(home / "pools.db")
    await store.open(read_only=True)
    rows = await store.unfinished()
    await store.close()
    started = set()
    for row in rows:
        if row.status == "running" and Journal(home / "run" / row.pool / row.worker).started(row.seq):
            started.add(row.task_id)
    return {row.task_id for row in rows}, started


async def recovered(home):
    """A new owner's work, until nothing is unfinished."""
    async with Router.open(settings(home)) as router:
        deadline = time.monotonic() + DEADLINE
        while router.unfinished():
            assert time.monotonic() < deadline, f"{router.unfinished()} unfinished"
            await asyncio.sleep(0.002)
        yield router


def judge(tasks, ids, ran, unfinished, started):
    """Every promise about the tasks of a killed owner; how many were interrupted."""
    assert set(ids) <= set(tasks)
    assert all(task.status in TERMINAL for task in tasks.values())
    assert max(ran.values(), default=0) <= 1, "run twice"
    assert set(ran) <= set(tasks)
    interrupted = set()
    for task in tasks.values():
        if task.status == "completed":
            assert ran[task.task_id] == 1 and task.result == task.task_id
        else:
            assert (task.status, task.error.code) == ("failed", "interrupted")
            interrupted.add(task.task_id)
    assert interrupted <= started, "interrupted, though the journal is sure that it had not started"
    assert unfinished - started <= {each.task_id for each in tasks.values() if each.status == "completed"}
    return len(interrupted)


@pytest.mark.parametrize("point", range(POINTS))
async def test_killing_the_owner_loses_nothing_and_repeats_nothing(home, point) -> None:
    """Every id given out is there and over, each completed task ran once, no task ran twice."""
    marks = home / "marks"
    owner = Owner(home / "state", marks, TASKS)
    share = (point + random.Random(point).random()) / POINTS
    kill_at(owner, marks, share)
    unfinished, started = await left_behind(home / "state")
    async for router in recovered(home / "state"):
        ids = set(owner.ids) | unfinished
        tasks = {task_id: await router.task(task_id) for task_id in ids | set(lines(marks))}
    interrupted = judge(tasks, ids, Counter(lines(marks)), unfinished, started)
    print(
        f"\nat {share:.0%}: {len(owner.ids)} ids, {len(unfinished)} unfinished, "
        f"{len(started)} may have started, {interrupted} interrupted"
    )
