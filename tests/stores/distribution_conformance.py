"""What every store must do of distributions and of several updates at once, against the contract alone;
see `conformance`.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import NOW, TEXTS, a_task, an_event, ended, keep, opened, started
from stores.implementations import Make

from mcp_pools.errors import PoolsError
from mcp_pools.store import (
    FOLD,
    Accept,
    AcceptDistribution,
    Change,
    DistributionRow,
    EndDistribution,
    EventRow,
    Happened,
    Prune,
    RequestCancel,
    TaskRow,
    Update,
    Updates,
)


def a_distribution(distribution_id: str = "d_1", **fields: Any) -> DistributionRow:
    """A queued distribution, as small as it may be."""
    given = {
        "task_type": "echo",
        "caller": "local",
        "created_at": NOW,
        "strategy": "round_robin",
        "reduce": "concat",
        "on_error": "collect",
        "total": 3,
    }
    return DistributionRow(distribution_id=distribution_id, **given | fields)


def parts_of(row: DistributionRow, count: int = 3, **fields: Any) -> list[TaskRow]:
    """Its parts, which hold one item, two, three, ..."""
    name = row.distribution_id
    return [
        a_task(f"t_{name}_{at:05}", distribution_id=name, part=at, items=at + 1, **fields)
        for at in range(count)
    ]


def accept(row: DistributionRow, count: int = 3, **fields: Any) -> AcceptDistribution:
    """The change that keeps a distribution and its parts."""
    event = an_event("distribution.queued", data={"distribution_id": row.distribution_id})
    return AcceptDistribution(row, parts_of(row, count, **fields), event)


def over(row: DistributionRow, status: Any = "completed", **fields: Any) -> EndDistribution:
    """The change that ends a distribution."""
    after = replace(row, status=status, **{"finished_at": NOW + 9, **fields})
    return EndDistribution(after, an_event(f"distribution.{status}"))


async def keep_all(store: Any, updates: Sequence[Update]) -> None:
    """Hand updates over together and, when any is refused, each by itself, as the router does."""
    assert await keep(store, Updates(updates)) or all([await keep(store, update) for update in updates])


async def kinds(store: Any) -> list[str]:
    """What the events tell of, in their order."""
    return [event.kind for _, event in await store.events()]


async def whole(store: Any) -> dict[str, Any]:
    """All that a store tells of distributions and what is in them."""
    rows = await store.unfinished_distributions()
    return {
        "distributions": rows,
        "parts": [await store.parts(row.distribution_id) for row in rows],
        "unfinished": await store.unfinished(),
        "events": await store.events(),
    }


# Kept.


@pytest.mark.parametrize("text", TEXTS)
async def test_every_field_of_a_distribution_comes_back(store: Any, text: str) -> None:
    """Of any alphabet; so does its end."""
    row = a_distribution(
        task_type=text,
        caller=text,
        created_at=NOW + 0.123456,
        strategy=text,
        reduce=text,
        on_error=text,
        total=12345,
        cwd=f"/{text}",
        idempotency_key=text,
        request_hash=text,
        cancel_requested_at=NOW + 4,
    )
    assert await keep(store, AcceptDistribution(row, parts_of(row)))
    assert await store.distribution("d_1") == row == await store.distribution_by_key(text, text)
    assert await store.unfinished_distributions() == [row]
    assert await keep(store, over(row, error=text.encode(), reduced=b"\x00\xff" + text.encode()))
    kept = await store.distribution("d_1")
    assert kept == replace(
        row,
        status="completed",
        finished_at=NOW + 9,
        error=text.encode(),
        reduced=b"\x00\xff" + text.encode(),
    )


async def test_a_bare_distribution_comes_back_bare(store: Any) -> None:
    """What was not given stays `None`; what is not there is not found."""
    row = a_distribution()
    assert await keep(store, accept(row))
    assert await store.distribution("d_1") == row
    assert await store.distribution("d_2") is None and await store.parts("d_2") == []
    assert await store.distribution_by_key("local", "k") is None


async def test_parts_come_back_in_their_order_the_fold_first(store: Any) -> None:
    """Whatever their ids; without payloads, with what became of them."""
    row = a_distribution()
    places = list(range(20))
    random.Random(3).shuffle(places)
    parts = [
        a_task(f"t_{at:02}", distribution_id="d_1", part=place, items=None if place % 2 else place)
        for at, place in enumerate(places)
    ]
    assert await keep(store, AcceptDistribution(row, parts))
    fold = a_task("t_fold", distribution_id="d_1", part=FOLD, payload=b"f" * 9999)
    assert await keep(store, Accept(fold))
    done = next(part for part in parts if part.part == 7)
    assert await keep(store, ended(done, result=b"seven"))
    kept = await store.parts("d_1")
    assert [part.part for part in kept] == [FOLD, *range(20)]
    assert [part.items for part in kept] == [None, *(None if at % 2 else at for at in range(20))]
    assert {part.payload for part in kept} == {b""}
    assert kept[8].result == b"seven" and kept[8].status == "completed" and kept[0].task_id == "t_fold"


async def test_unfinished_tasks_know_which_part_they_are(store: Any) -> None:
    """And how many items they hold; those of no distribution are no part."""
    first, second = a_distribution("d_1"), a_distribution("d_2")
    await keep(store, accept(first))
    await keep(store, Accept(a_task("t_alone")))
    await keep(store, accept(second, 2))
    await keep(store, Accept(a_task("t_d_1_fold", distribution_id="d_1", part=FOLD)))
    await keep(store, ended(parts_of(first)[1]))
    told = {row.task_id: (row.part, row.items) for row in await store.unfinished()}
    assert told == {
        "t_alone": (None, None),
        "t_d_1_00000": (0, 1),
        "t_d_1_00002": (2, 3),
        "t_d_1_fold": (FOLD, None),
        "t_d_2_00000": (0, 1),
        "t_d_2_00001": (1, 2),
    }


async def test_parts_live_as_tasks_do(store: Any) -> None:
    """Started, fenced, ended, each by itself; the distribution's own row is not touched by it."""
    row = a_distribution()
    change = accept(row)
    await keep(store, change)
    part = change.parts[1]
    assert await keep(store, started(part))
    assert not await keep(store, ended(part))
    assert await keep(store, ended(replace(part, launch=1), "failed", error=b"{}"))
    assert [each.status for each in await store.parts("d_1")] == ["queued", "failed", "queued"]
    assert await store.distribution("d_1") == row


@pytest.mark.parametrize("size", [0, 4096, 4097, 1 << 20])
async def test_parts_hold_payloads_and_results_of_any_size(store: Any, size: int) -> None:
    """Byte for byte; the fold of them, too."""
    row = a_distribution()
    change = accept(row, payload=b"p" * size)
    assert await keep(store, change)
    assert [part.payload for part in await store.unfinished()] == [b"p" * size] * 3
    updates = [ended(part, result=bytes([at]) * size) for at, part in enumerate(change.parts)]
    await keep_all(store, updates)
    assert [part.result for part in await store.parts("d_1")] == [bytes([at]) * size for at in range(3)]
    assert await keep(store, over(row, reduced=b"r" * (3 * size)))
    assert (await store.distribution("d_1")).reduced == b"r" * (3 * size)


async def test_a_distribution_of_many_parts_is_one_change(store: Any) -> None:
    """Of more than one statement holds; all of it in one commit."""
    store.rate = 0.0
    row, before = a_distribution(total=5000), store.commits
    assert await keep(store, accept(row, 5000))
    assert store.commits - before == 1
    kept = await store.parts("d_1")
    assert [part.part for part in kept] == list(range(5000))
    assert len(await store.unfinished()) == 5000 and await kinds(store) == ["distribution.queued"]


# All or nothing.


async def test_a_distribution_and_its_parts_are_there_together(store: Any) -> None:
    """Whoever looks while they are being kept sees none of them or all, and the event with them."""
    work = asyncio.gather(*(keep(store, accept(a_distribution(f"d_{at:03}"), 5)) for at in range(100)))
    while not work.done():
        told = {event.data["distribution_id"] for _, event in await store.events()}
        known = {row.distribution_id for row in await store.unfinished_distributions()}
        assert told <= known
        for distribution_id in sorted(known)[-2:]:
            assert len(await store.parts(distribution_id)) == 5
        tasks = [row.distribution_id for row in await store.unfinished()]
        later = {row.distribution_id for row in await store.unfinished_distributions()}
        assert all(tasks.count(each) == 5 and each in later for each in set(tasks))
    assert await work == [True] * 100


@pytest.mark.parametrize("place", [0, 300, 599])
async def test_a_distribution_one_of_whose_parts_cannot_be_kept_leaves_nothing(
    store: Any, place: int
) -> None:
    """A part whose id is taken, wherever it stands; the task that has it stays as it is."""
    taken = a_task(f"t_d_1_{place:05}", payload=b"first")
    await keep(store, Accept(taken))
    assert not await keep(store, accept(a_distribution(), 600, payload=b"p" * 5000))
    assert await store.distribution("d_1") is None and await store.parts("d_1") == []
    assert await store.unfinished() == [taken] and await store.events() == []


@pytest.mark.parametrize("place", [0, 2])
async def test_a_distribution_with_a_value_no_store_can_hold_leaves_nothing(store: Any, place: int) -> None:
    """It is refused by name; what was handed over beside it is kept."""
    change = accept(a_distribution())
    change.parts[place].cwd = "/\udcff"
    beside = store.commit(accept(a_distribution("d_2")))
    with pytest.raises(PoolsError) as refused:
        await keep(store, change)
    assert refused.value.code == "invalid_payload"
    await asyncio.gather(beside, return_exceptions=True)
    assert await keep(store, accept(a_distribution("d_2")))
    assert [row.distribution_id for row in await store.unfinished_distributions()] == ["d_2"]
    assert len(await store.unfinished()) == 3 and await store.distribution("d_1") is None


async def test_a_key_stands_for_one_distribution_of_a_caller(store: Any) -> None:
    """Another under it is refused and leaves nothing; another caller's key is another key."""
    assert await keep(store, accept(a_distribution("d_1", idempotency_key="k")))
    assert not await keep(store, accept(a_distribution("d_2", idempotency_key="k"), payload=b"p" * 9999))
    assert await keep(store, accept(a_distribution("d_3", idempotency_key="k", caller="other")))
    assert await keep(store, accept(a_distribution("d_4", idempotency_key="K")))
    assert (await store.distribution_by_key("local", "k")).distribution_id == "d_1"
    assert (await store.distribution_by_key("other", "k")).distribution_id == "d_3"
    assert await store.distribution("d_2") is None and await store.parts("d_2") == []
    assert {row.distribution_id for row in await store.unfinished()} == {"d_1", "d_3", "d_4"}
    assert len(await store.events()) == 3


async def test_of_distributions_under_one_key_handed_over_together_one_is_kept(store: Any) -> None:
    """The others learn that it was not them."""
    changes = [accept(a_distribution(f"d_{at}", idempotency_key="k")) for at in range(10)]
    outcomes = await asyncio.gather(*(keep(store, change) for change in changes))
    assert sum(outcomes) == 1
    [kept] = await store.unfinished_distributions()
    assert kept.distribution_id == f"d_{outcomes.index(True)}"
    assert {row.distribution_id for row in await store.unfinished()} == {kept.distribution_id}


# Repeating.


async def test_repeating_a_change_of_a_distribution_changes_nothing(store: Any) -> None:
    """A caller that saw an error may hand it over again, at once or later: one event, whatever happens."""
    row = a_distribution(idempotency_key="k")
    first = accept(row, 20, payload=b"p" * 5000)
    updates = [ended(part, result=b"r") for part in first.parts]
    changes: list[Change] = [first, RequestCancel("d_1", NOW + 5), *updates, over(row), Prune(NOW - 1)]
    for change in changes:
        assert await keep(store, change)
        before = await whole(store), await store.distribution("d_1")
        for again in await asyncio.gather(keep(store, change), keep(store, change)):
            assert again
        assert (await whole(store), await store.distribution("d_1")) == before
    assert await kinds(store) == ["distribution.queued", *["task.completed"] * 20, "distribution.completed"]


async def test_a_distribution_handed_over_again_is_as_it_has_become(store: Any) -> None:
    """A repetition that comes late takes nothing back: its parts have gone on."""
    change = accept(a_distribution())
    await keep(store, change)
    before = replace(change.parts[0])
    await keep(store, ended(before, result=b"r"))
    assert await keep(store, change)
    assert [part.status for part in await store.parts("d_1")] == ["completed", "queued", "queued"]
    assert await kinds(store) == ["distribution.queued", "task.completed"]


# Several updates.


@pytest.mark.parametrize("count", [1, 2, 9, 3000])
async def test_several_updates_land_together(store: Any, count: int) -> None:
    """However many: every row, every event, one commit."""
    store.rate = 0.0
    rows = [a_task(f"t_{at:04}") for at in range(count)]
    await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
    before = store.commits
    updates = [ended(row, result=str(at).encode()) for at, row in enumerate(rows)]
    assert await keep(store, Updates(updates))
    assert store.commits - before == 1 and await store.unfinished() == []
    told = [event.task_id for _, event in await store.events(limit=9999)]
    assert told == [row.task_id for row in rows]
    assert (await store.task(rows[-1].task_id)).result == str(count - 1).encode()


@pytest.mark.parametrize("place", [0, 1, 19])
async def test_of_several_updates_one_may_be_refused(store: Any, place: int) -> None:
    """Then each is handed over by itself: the others land with their events, the refused leaves nothing."""
    rows = [a_task(f"t_{at:02}") for at in range(20)]
    await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
    await keep(store, ended(rows[place], "cancelled"))
    updates = [started(row) for row in rows]
    assert not await keep(store, Updates(updates))
    answers = [await keep(store, update) for update in updates]
    assert answers == [at != place for at in range(20)]
    assert [row.status for row in await store.unfinished()] == ["running"] * 19
    events = [(event.kind, event.task_id) for _, event in await store.events()]
    assert events[0] == ("task.cancelled", rows[place].task_id)
    left = [row.task_id for at, row in enumerate(rows) if at != place]
    assert sorted(events[1:]) == [("task.started", task_id) for task_id in left]


async def test_several_updates_of_which_one_is_refused_cost_those_beside_them_nothing(store: Any) -> None:
    """Other changes in the same commit are kept, once."""
    rows = [a_task(f"t_{at:02}") for at in range(10)]
    await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
    some = Updates([started(rows[0]), started(a_task("t_unknown"))])
    answers = await asyncio.gather(*(keep(store, change) for change in (some, *map(started, rows[1:]))))
    assert answers == [False] + [True] * 9
    assert await keep(store, started(rows[0]))
    assert await kinds(store) == ["task.started"] * 10


async def test_several_updates_handed_over_again_leave_one_event_each(store: Any) -> None:
    """Whether the repetition is told `True` or is to be handed over one by one."""
    rows = [a_task(f"t_{at}") for at in range(5)]
    await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
    updates = [started(row) for row in rows]
    for _ in range(4):
        await keep_all(store, updates)
    assert await kinds(store) == ["task.started"] * 5


# Ended, cancelled.


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out"])
async def test_a_distribution_ends_once(store: Any, status: Any) -> None:
    """Whatever comes later leaves neither a change nor an event."""
    row = a_distribution()
    await keep(store, accept(row))
    assert await keep(store, over(row, status, reduced=b"[1]"))
    kept = await store.distribution("d_1")
    assert (kept.status, kept.reduced) == (status, b"[1]")
    for other in ("completed", "failed", "cancelled"):
        assert not await keep(store, over(row, other, reduced=b"[2]"))
    assert await store.distribution("d_1") == kept and await store.unfinished_distributions() == []
    assert await kinds(store) == ["distribution.queued", f"distribution.{status}"]


async def test_an_end_of_an_unknown_distribution_is_refused(store: Any) -> None:
    """It creates nothing."""
    assert not await keep(store, over(a_distribution()))
    assert await store.distribution("d_1") is None and await store.events() == []


async def test_the_intent_to_cancel_a_distribution_is_kept(store: Any) -> None:
    """The first one counts; it is the whole's, not its parts'; the end leaves it."""
    row = a_distribution()
    await keep(store, accept(row))
    await keep(store, RequestCancel("d_1", NOW + 1))
    await keep(store, RequestCancel("d_1", NOW + 2))
    [kept] = await store.unfinished_distributions()
    assert kept.cancel_requested_at == NOW + 1
    assert {part.cancel_requested_at for part in await store.parts("d_1")} == {None}
    assert await keep(store, over(row, "cancelled"))
    assert (await store.distribution("d_1")).cancel_requested_at == NOW + 1
    await keep(store, RequestCancel("d_2", NOW))
    assert await store.distribution("d_2") is None


async def test_unfinished_distributions_come_oldest_first(store: Any) -> None:
    """Whatever the order in which they were kept; those that have ended are left out."""
    numbers = list(range(20))
    random.Random(2).shuffle(numbers)
    rows = {at: a_distribution(f"d_{at:02}", created_at=NOW + at) for at in numbers}
    await asyncio.gather(*(keep(store, accept(row, 1)) for row in rows.values()))
    await asyncio.gather(*(keep(store, over(rows[at])) for at in range(0, 20, 2)))
    left = [row.distribution_id for row in await store.unfinished_distributions()]
    assert left == [f"d_{at:02}" for at in range(1, 20, 2)]


# Events of their own.


async def test_an_event_of_its_own_is_kept(store: Any) -> None:
    """As often as it happened: two alike are two."""
    event = EventRow(at=NOW, kind="pool.degraded", pool="ž", data={"why": ["🐙", None]})
    store.rate = 0.0
    assert await keep(store, Happened(event))
    assert await keep(store, Happened(event))
    assert [each for _, each in await store.events()] == [event, event]


# Forgetting.


async def test_a_distribution_is_forgotten_whole(store: Any) -> None:
    """Once it has ended long ago: with its parts, their payloads, and its fold; its key is free again."""
    row = a_distribution(idempotency_key="k")
    change = accept(row, payload=b"p" * 9999)
    await keep(store, change)
    fold = a_task("t_fold", distribution_id="d_1", part=FOLD)
    await keep(store, Accept(fold))
    for part in (*change.parts, fold):
        await keep(store, ended(part, finished_at=NOW - 20))
    await keep(store, over(row, finished_at=NOW - 10))
    assert await keep(store, Prune(NOW - 15))
    assert [part.part for part in await store.parts("d_1")] == [FOLD, 0, 1, 2]
    assert await keep(store, Prune(NOW))
    assert await store.distribution("d_1") is None and await store.parts("d_1") == []
    assert [await store.task(part.task_id) for part in change.parts] == [None] * 3
    assert await store.distribution_by_key("local", "k") is None
    assert await keep(store, accept(a_distribution("d_2", idempotency_key="k")))


async def test_a_distribution_that_goes_on_keeps_the_parts_that_ended_long_ago(store: Any) -> None:
    """Their results are to be folded; tasks beside it are forgotten."""
    row = a_distribution()
    change = accept(row)
    await keep(store, change)
    for part in change.parts[:2]:
        await keep(store, ended(part, finished_at=NOW - 99, result=b"r"))
    await keep(store, Accept(a_task("t_alone", status="completed", finished_at=NOW - 99)))
    assert await keep(store, Prune(NOW))
    assert [part.result for part in await store.parts("d_1")] == [b"r", b"r", None]
    assert await store.task("t_alone") is None and await store.distribution("d_1") == row


async def test_forgetting_leaves_a_distribution_that_is_being_accepted(store: Any) -> None:
    """However the two fall together."""
    rows = [a_distribution(f"d_{at:02}") for at in range(30)]
    changes: list[Change] = []
    for row in rows:
        changes += [accept(row, payload=b"p" * 5000), Prune(NOW)]
    await asyncio.gather(*(keep(store, change) for change in changes))
    for row in rows:
        assert [part.part for part in await store.parts(row.distribution_id)] == [0, 1, 2]
    assert [part.payload for part in await store.unfinished()] == [b"p" * 5000] * 90


# Owners.


async def test_the_next_owner_finds_distributions_as_they_were(make: Make, home: Path) -> None:
    """With what each part was and had become."""
    async with opened(make, home) as store:
        row = a_distribution()
        change = accept(row, payload=b"p" * 5000)
        await keep(store, change)
        await keep(store, started(change.parts[0]))
        await keep(store, ended(change.parts[1], "failed", error=b"{}"))
        await keep(store, RequestCancel("d_1", NOW + 1))
        before = await whole(store)
    async with opened(make, home) as store:
        assert await whole(store) == before
        assert await keep(store, Update(*_finish(change.parts[0])))
        assert await keep(store, over(row))
        assert await store.unfinished_distributions() == []


def _finish(part: TaskRow) -> tuple[TaskRow, int]:
    return replace(part, status="completed", finished_at=NOW, launch=1, attempt=1), 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_kill_loses_no_distribution_that_was_reported_and_leaves_no_half_of_one(
    make: Make, implementation: str, home: Path, seed: int
) -> None:
    """Whenever it comes: what is there has all its parts, with their payloads."""
    script = str(Path(__file__).with_name("committer.py"))
    child = await asyncio.create_subprocess_exec(
        sys.executable, script, implementation, str(home), "distributions", stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    told = [await child.stdout.readline() for _ in range(random.Random(seed).randint(1, 60))]
    child.send_signal(signal.SIGKILL)
    told += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    async with opened(make, home) as store:
        kept = {row.distribution_id: row.total for row in await store.unfinished_distributions()}
        parts = {name: await store.parts(name) for name in kept}
        tasks = await store.unfinished()
    for line in told:
        if line.endswith(b"\n"):
            distribution_id, count = line.split()
            assert kept[distribution_id.decode()] == int(count)
    assert all([part.part for part in parts[name]] == list(range(total)) for name, total in kept.items())
    assert len(tasks) == sum(kept.values()) and all(task.distribution_id in kept for task in tasks)
    assert {(task.part, len(task.payload)) for task in tasks} <= {(at, 100 * at) for at in range(60)}
