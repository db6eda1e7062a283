"""SIGKILL in the middle of a distribution, of its owner or of a worker: each item has one honest outcome.

Each moment is reached by what has happened, not by time: how many items have run, or whether the
distribution has been accepted. `-s` shows what became of the items.
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from distributing import settings, wanted
from owners import DEADLINE, Owner, at_rest, left_behind
from stage import lines, until

from mcp_pools import Router
from mcp_pools.tools import pool_distribute, pool_get, pool_search, pool_task

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent

ITEMS = 1500


@pytest.fixture(autouse=True)
def tasks_on_the_path(monkeypatch):
    """Owners and workers find the task types."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


# The owner.


def kill_when(owner, marks, moment):
    """Kill the owner: `accepting`, `accepted`, once so many items have run, or `ended`."""
    if moment == "accepted":
        owner.read(1)
    elif moment == "ended":
        while owner.process.poll() is None and owner.said[-1:] != ["ended"]:
            owner.read(len(owner.said) + 1)
    elif moment != "accepting":
        deadline = time.monotonic() + DEADLINE
        while len(lines(marks)) < moment:
            assert owner.process.poll() is None and time.monotonic() < deadline
    owner.kill()


async def finished(home):
    """The next owner's view of the only distribution, when nothing is left to do; `None` of none."""
    async with Router.open(settings(home)) as router:
        await at_rest(router)
        tasks = (await pool_search(router)).tasks
        ids = {task.distribution_id for task in tasks}
        return await pool_task(router, *ids) if ids else None


def judge(whole, ran, reported, started):
    """Every promise about a distribution whose owner was killed; the indices that were interrupted."""
    assert [item.index for item in whole.results] == list(range(ITEMS))
    interrupted = {item.index for item in whole.results if item.status != "completed"}
    assert (whole.total, whole.succeeded, whole.failed) == (ITEMS, ITEMS - len(interrupted), len(interrupted))
    assert whole.finished_at is not None and whole.reduced == whole.succeeded
    assert sum(whole.pools.values()) == ITEMS and set(whole.pools) <= {"a", "b"}
    assert set(ran) <= set(range(ITEMS)) and max(ran.values(), default=0) <= 1, "run twice"
    for item in whole.results:
        if item.status == "completed":
            assert (item.result, ran[item.index]) == (item.index * 10, 1)
        else:
            assert (item.status, item.error.code, item.result) == ("failed", "interrupted", None)
            assert item.task_id in started, "interrupted, though the journal is sure that it had not started"
    assert not (reported & interrupted), sorted(reported & interrupted)
    return interrupted


@pytest.mark.parametrize(
    ("moment", "chunk"),
    [
        ("accepting", 1),
        ("accepted", 1),
        (1, 1),
        (500, 1),
        (1400, 1),
        ("ended", 1),
        (1, 25),
        (700, 25),
    ],
)
async def test_the_next_owner_finishes_a_distribution_whose_owner_was_killed(home, moment, chunk) -> None:
    """Each item has one outcome and ran once at most; what was reported stands; what may have run says so."""
    marks = home / "marks"
    owner = Owner("distributing.py", home / "state", marks, ITEMS, chunk)
    kill_when(owner, marks, moment)
    unfinished, started = await left_behind(home / "state")
    whole = await finished(home / "state")
    ran = Counter(map(int, lines(marks)))
    if whole is None:
        assert not owner.said and not ran, "an accepted distribution is lost"
        return
    assert owner.said[:1] in ([], [whole.distribution_id])
    reported = {int(line.removeprefix("done ")) for line in owner.said if line.startswith("done ")}
    interrupted = judge(whole, ran, reported, started)
    if moment == "ended":
        assert not unfinished and len(reported) == ITEMS
    for first in range(0, ITEMS, chunk):
        assert len(interrupted & set(range(first, first + chunk))) in (0, chunk), "a part of a chunk"
    print(
        f"\nat {moment}, chunks of {chunk}: {len(reported)} items reported; "
        f"{len(unfinished)} parts unfinished, {len(started)} of them may have started; "
        f"{len(interrupted)} items interrupted"
    )


# A worker.


async def kill_the_busy_worker(router):
    """Kill the only worker that has something to do."""

    async def busy():
        pools = [await pool_get(router, name) for name in "ab"]
        return [worker for pool in pools for worker in pool.worker_rows if worker.status == "busy"]

    while len(found := await busy()) != 1:
        await asyncio.sleep(0.002)
    os.kill(found[0].pid, signal.SIGKILL)


@pytest.mark.parametrize(("attempts", "chunk"), [(1, 10), (2, 10), (1, 1)])
async def test_a_worker_that_is_killed_costs_that_chunk_alone(home, attempts, chunk, monkeypatch) -> None:
    """With one attempt its items are lost with their worker; with two they, and no others, run again.

    What had been handed to that worker in advance goes to the idle pool by itself: nobody looks after
    the pools meanwhile.
    """
    monkeypatch.setattr("mcp_pools.router.WATCH_SECONDS", 3600.0)
    marks, count, held = home / "marks", 300, 157
    first = held - held % chunk
    begun, behind = set(range(first, held + 1)), set(range(held + 1, first + chunk))
    async with Router.open(settings(home / "state")) as router, asyncio.timeout(DEADLINE):
        asked = wanted(marks, count, chunk)
        asked["payload"] |= {"hold": held, "seconds": 0.0}
        whole = await pool_distribute(router, **asked, max_attempts=attempts, wait=False)
        await until(lambda: set(map(int, lines(marks))) == set(range(count)) - behind)
        await kill_the_busy_worker(router)
        whole = await pool_task(router, whole.distribution_id, wait_seconds=DEADLINE)
    lost = begun | behind if attempts == 1 else set()
    assert {item.index: item.result for item in whole.results} == {
        index: None if index in lost else index * 10 for index in range(count)
    }
    assert {item.index: item.error.code for item in whole.results if item.error} == dict.fromkeys(
        lost, "worker_lost"
    )
    assert whole.reduced == whole.succeeded == count - len(lost)
    expected = Counter(range(count))
    if attempts == 1:
        expected.subtract(behind)
    else:
        expected.update(begun)
    assert Counter(map(int, lines(marks))) == +expected
