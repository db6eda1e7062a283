"""SIGKILL of the process that owns a home, at any point: nothing acknowledged is lost or run twice.

Each point is reached by what has happened, not by time: a number of ids given out, or of tasks
run. `-s` shows what became of the tasks.
"""

import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from owners import DEADLINE, Owner, at_rest, left_behind
from stage import lines
from submitting import settings

from mcp_pools import Router
from mcp_pools.states import TERMINAL

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent

POINTS = 12
TASKS = 2000


@pytest.fixture(autouse=True)
def tasks_on_the_path(monkeypatch):
    """Owners and workers find the task type."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def ids_of(owner):
    """The ids that it was given."""
    return {word for word in owner.said if word != "done"}


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


async def recovered(home):
    """A new owner's work, until nothing is unfinished."""
    async with Router.open(settings(home)) as router:
        await at_rest(router)
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
    owner = Owner("submitting.py", home / "state", marks, TASKS)
    share = (point + random.Random(point).random()) / POINTS
    kill_at(owner, marks, share)
    unfinished, started = await left_behind(home / "state")
    async for router in recovered(home / "state"):
        ids = ids_of(owner) | unfinished
        tasks = {task_id: await router.task(task_id) for task_id in ids | set(lines(marks))}
    interrupted = judge(tasks, ids, Counter(lines(marks)), unfinished, started)
    print(
        f"\nat {share:.0%}: {len(ids_of(owner))} ids, {len(unfinished)} unfinished, "
        f"{len(started)} may have started, {interrupted} interrupted"
    )
