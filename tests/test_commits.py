"""What is handed over together, and what follows when the store refuses, fails, or does not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores.faults import Unlucky
from waiting import until

from mcp_pools import telemetry
from mcp_pools.commits import Commits
from mcp_pools.errors import PoolsError
from mcp_pools.store import Accept, EventRow, TaskRow, Update, Updates
from mcp_pools.stores.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


class Told:
    """Commits over a store, and what they say: ids of what has landed and of what was overruled."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.meters = telemetry.Meters()
        self.commits = Commits(store, self._overruled, self.meters)
        self.landed: list[str] = []
        self.overruled: list[str] = []

    async def _overruled(self, task_id: str) -> None:
        self.overruled.append(task_id)

    def start(self, row: TaskRow) -> None:
        """Hand over a task's start."""
        after = replace(row, status="running", launch=row.launch + 1, attempt=row.attempt + 1)
        event = EventRow(at=0.0, kind="task.started", task_id=row.task_id)
        self.commits.after(Update(after, row.launch, event), lambda: self.landed.append(row.task_id))

    async def all_told(self, count: int) -> None:
        """Returns once so many have an answer."""
        await until(lambda: len(self.landed) + len(self.overruled) >= count, f"{count} answers")

    async def started(self) -> list[str]:
        """The tasks whose start is on disk, and one event of it."""
        running = {row.task_id for row in await self.store.unfinished() if row.status == "running"}
        told = [event.task_id for _, event in await self.store.events() if event.kind == "task.started"]
        assert sorted(told) == sorted(running)
        return sorted(running)


@pytest.fixture
async def store(home: Path) -> AsyncIterator[SqliteStore]:
    """A store, open."""
    store = SqliteStore(home / "pools.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def told(store: SqliteStore) -> AsyncIterator[Told]:
    """Commits over it."""
    told = Told(store)
    yield told
    await told.commits.end()


async def rows(store: Any, count: int) -> list[TaskRow]:
    """So many queued tasks, on disk."""
    made = [
        TaskRow(task_id=f"t_{at:03}", task_type="echo", caller="local", created_at=0.0, payload=b"{}")
        for at in range(count)
    ]
    for row in made:
        assert await store.commit(Accept(row))
    return made


async def end(store: Any, row: TaskRow) -> None:
    """Somebody else ends a task."""
    assert await store.commit(Update(replace(row, status="cancelled", finished_at=1.0), row.launch))


async def test_what_is_handed_over_in_one_turn_is_one_commit(told: Told) -> None:
    """However much it is; each follows in the order in which it was handed over."""
    kept = await rows(told.store, 200)
    before = told.store.commits
    for row in kept:
        told.start(row)
    assert told.landed == []
    await told.all_told(200)
    assert told.store.commits == before + 1
    assert told.landed == [row.task_id for row in kept] == await told.started()
    assert told.overruled == [] and told.meters.total(telemetry.FENCED) == 0


async def test_what_follows_comes_after_the_disk(told: Told) -> None:
    """Never before, and never from within the call."""
    [row] = await rows(told.store, 1)
    seen: list[Any] = []

    def then() -> None:
        seen.append(told.store.commits)

    before = told.store.commits
    told.commits.after(Update(replace(row, status="running"), 0), then)
    assert seen == []
    await until(lambda: seen)
    assert seen == [before + 1]


async def test_what_follows_may_hand_over_more(told: Told) -> None:
    """The next turn's commit takes it."""
    first, second = await rows(told.store, 2)
    change = Update(replace(first, status="running", launch=1), 0)
    told.commits.after(change, lambda: told.start(second))
    await until(lambda: told.landed == ["t_001"])
    assert {row.status for row in await told.store.unfinished()} == {"running"}


async def test_turns_are_commits_of_their_own(told: Told) -> None:
    """What is handed over later waits for no one."""
    first, second = await rows(told.store, 2)
    told.start(first)
    await until(lambda: told.landed)
    told.start(second)
    await told.all_told(2)
    assert told.landed == ["t_000", "t_001"] == await told.started()


@pytest.mark.parametrize("count", [1, 2, 50])
async def test_the_refused_is_overruled_and_the_others_follow(told: Told, count: int) -> None:
    """Each with its event; the refused changes nothing."""
    kept = await rows(told.store, count)
    refused = kept[count // 2]
    await end(told.store, refused)
    for row in kept:
        told.start(row)
    await told.all_told(count)
    assert told.overruled == [refused.task_id] and told.meters.total(telemetry.FENCED) == 1
    others = sorted(row.task_id for row in kept if row is not refused)
    assert sorted(told.landed) == others == await told.started()
    assert (await told.store.task(refused.task_id)).status == "cancelled"


async def test_when_all_are_refused_all_are_overruled(told: Told) -> None:
    """Nothing follows."""
    kept = await rows(told.store, 5)
    for row in kept:
        await end(told.store, row)
        told.start(row)
    await told.all_told(5)
    assert sorted(told.overruled) == [row.task_id for row in kept] and told.landed == []
    assert told.meters.total(telemetry.FENCED) == 5 and await told.started() == []


@pytest.mark.parametrize("lands", [True, False], ids=["landed but timed out", "failed before it landed"])
@pytest.mark.parametrize("count", [1, 20])
async def test_a_store_that_does_not_answer_is_asked_until_it_does(
    store: SqliteStore, lands: bool, count: int
) -> None:
    """Each follows once and has one event, whether the first time had landed or not."""
    kept = await rows(store, count)
    unlucky = Unlucky(store, lands=lands)
    refused = kept[-1] if count > 1 else None
    if refused is not None:
        await end(store, refused)
    # All of the first round fails, and some of what is tried again.
    unlucky.rate, unlucky.only = 1.0, lambda change: isinstance(change, Updates) or unlucky.failures < count
    told = Told(unlucky)
    for row in kept:
        told.start(row)
    await told.all_told(count)
    assert unlucky.failures >= count
    assert sorted(told.landed) == [row.task_id for row in kept if row is not refused] == await told.started()
    assert told.overruled == ([] if refused is None else [refused.task_id])
    await told.commits.end()


async def test_patience_ends_with_the_last_error(store: SqliteStore) -> None:
    """A caller who waits is told; what cannot be held is told at once."""
    unlucky = Unlucky(store, lands=False, rate=1.0)
    told = Told(unlucky)
    [row] = [TaskRow(task_id="t_1", task_type="echo", caller="local", created_at=0.0, payload=b"{}")]
    with pytest.raises(TimeoutError):
        await told.commits.landed(Accept(row), patience=0.2)
    assert unlucky.failures > 1 and await store.unfinished() == []
    with pytest.raises(PoolsError) as refused:
        await Told(store).commits.landed(Accept(replace(row, cwd="\udcff")), patience=60)
    assert refused.value.code == "invalid_payload"


async def test_ending_ends_what_was_spawned(told: Told) -> None:
    """Also what would go on for ever."""
    forever = told.commits.spawn(asyncio.sleep(3600))
    await told.commits.end()
    assert forever.cancelled()
