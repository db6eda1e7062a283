"""What every store must do, against the contract (`mcp_pools.store`) alone.

`test_conformance.py` runs these over each implementation. `keep` hands a change over until
the store answers, as the router does: so they hold for stores that fail now and then, too.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from stores.implementations import Make

from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec
from mcp_pools.store import (
    Accept,
    Change,
    EventRow,
    PoolRow,
    Prune,
    PutAffinity,
    PutPool,
    RequestCancel,
    TaskRow,
    Update,
)

NOW = 1_700_000_000.0
TEXTS = ["", "plain", "žluťoučký kůň", "日本語", "🐙" * 50, "a\0b", "e\u0301\u202e", "';--\n\t\\"]
Opened = Callable[[], Any]


def a_task(task_id: str, **fields: Any) -> TaskRow:
    """A queued task, as small as it may be."""
    given = {"task_type": "echo", "caller": "local", "created_at": NOW, "payload": b"{}"} | fields
    return TaskRow(task_id=task_id, **given)


def a_full_task(task_id: str, text: str = "é", payload: bytes = b"{}") -> TaskRow:
    """A task with a value in every field."""
    return TaskRow(
        task_id=task_id,
        task_type=text,
        caller=text,
        created_at=NOW + 0.123456,
        payload=payload,
        cwd=f"/{text}",
        roots=(f"/{text}", "/b"),
        timeout=0.25,
        priority=-7,
        max_attempts=3,
        depth=1,
        strategy="affinity",
        pinned=True,
        selector={text: text},
        affinity_key=text,
        distribution_id=text,
        idempotency_key=text,
        request_hash=text,
        status="completed",
        pool=text,
        pool_type=text,
        worker=text,
        attempt=2,
        launch=5,
        seq=9,
        not_before=NOW + 1,
        started_at=NOW + 2,
        finished_at=NOW + 3,
        progress=b'{"done":1}',
        result=b"\x00\xff" + text.encode(),
        error=b"{}",
        output_tail=text,
        cancel_requested_at=NOW + 4,
    )


def an_event(kind: str = "task.queued", **fields: Any) -> EventRow:
    """An event."""
    return EventRow(at=NOW, kind=kind, **fields)


def started(row: TaskRow, **fields: Any) -> Update:
    """The change that starts a queued task: its next launch."""
    after = replace(row, status="running", attempt=row.attempt + 1, launch=row.launch + 1, **fields)
    return Update(after, row.launch, an_event("task.started", task_id=row.task_id))


def ended(row: TaskRow, status: Any = "completed", **fields: Any) -> Update:
    """The change that ends a task."""
    after = replace(row, status=status, **{"finished_at": NOW + 9, **fields})
    return Update(after, row.launch, an_event(f"task.{status}", task_id=row.task_id))


async def keep(store: Any, change: Change) -> bool:
    """Hand a change over until the store answers."""
    for _ in range(200):
        try:
            return bool(await store.commit(change))
        except TimeoutError:
            pass
    raise AssertionError("the store never answered")


@asynccontextmanager
async def opened(make: Make, home: Path) -> AsyncIterator[Any]:
    """An owner's life."""
    store = make(home)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def everything(store: Any) -> dict[str, Any]:
    """All that a store tells."""
    return {
        "unfinished": [asdict(row) for row in await store.unfinished()],
        "pools": [asdict(row) for row in await store.pools()],
        "affinities": await store.affinities(),
        "events": await store.events(),
    }


# Tasks.


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 1 << 20, 10 << 20])
async def test_a_payload_of_any_size_comes_back(store: Any, size: int) -> None:
    """Byte for byte, also after the task has changed."""
    row = a_task("t_1", payload=bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    assert await keep(store, Accept(row))
    assert (await store.task("t_1")).payload == row.payload
    assert await keep(store, started(row))
    [kept] = await store.unfinished()
    assert kept.payload == row.payload and len(kept.payload) == size


@pytest.mark.parametrize("text", TEXTS)
async def test_every_field_comes_back(store: Any, text: str) -> None:
    """Of any alphabet, with NUL and quotes, and after a reopening."""
    row = a_full_task("t_1", text)
    assert await keep(store, Accept(row))
    assert await store.task("t_1") == row
    assert await store.by_key(text, text) == row


async def test_a_bare_task_comes_back_bare(store: Any) -> None:
    """What was not given stays `None`."""
    assert await keep(store, Accept(a_task("t_1")))
    assert await store.task("t_1") == a_task("t_1")
    assert await store.task("t_2") is None


async def test_every_changing_field_is_written_by_an_update(store: Any) -> None:
    """And none of those that are written once."""
    assert await keep(store, Accept(a_task("t_1")))
    full = a_full_task("t_1")
    assert await keep(store, Update(full, 0))
    kept = await store.task("t_1")
    once = {name: getattr(kept, name) for name in ("caller", "priority", "payload", "cwd", "selector")}
    assert once == {name: getattr(a_task("t_1"), name) for name in once}
    for name in ("status", "pool", "pool_type", "worker", "attempt", "launch", "seq", "not_before"):
        assert getattr(kept, name) == getattr(full, name), name
    for name in ("started_at", "finished_at", "progress", "result", "error", "output_tail"):
        assert getattr(kept, name) == getattr(full, name), name


@pytest.mark.parametrize("size", [0, 10 << 20])
async def test_a_result_of_any_size_comes_back(store: Any, size: int) -> None:
    """Results are bytes."""
    row = a_task("t_1")
    await keep(store, Accept(row))
    assert await keep(store, ended(row, result=b"r" * size))
    assert (await store.task("t_1")).result == b"r" * size


@pytest.mark.parametrize(
    "wrong",
    [{"idempotency_key": "\ud800"}, {"affinity_key": "\ud800"}, {"cwd": "/\udcff"}, {"priority": 1 << 64}],
)
async def test_a_value_no_store_can_hold_costs_only_its_change(store: Any, wrong: dict[str, Any]) -> None:
    """It is refused by name; those handed over beside it are kept, and so are the next."""
    good = store.commit(Accept(a_task("t_1")))
    with pytest.raises(PoolsError) as refused:
        await keep(store, Accept(a_task("t_2", **wrong)))
    assert refused.value.code == "invalid_payload" and not refused.value.retryable
    await asyncio.gather(good, return_exceptions=True)
    assert await keep(store, Accept(a_task("t_1")))
    assert await keep(store, Accept(a_task("t_3")))
    assert [row.task_id for row in await store.unfinished()] == ["t_1", "t_3"]


async def test_unfinished_tasks_come_oldest_first(store: Any) -> None:
    """Whatever the order in which they were kept; those that have ended are left out."""
    numbers = list(range(50))
    random.Random(1).shuffle(numbers)
    rows = {number: a_task(f"t_{number:03}", created_at=NOW + number) for number in numbers}
    await asyncio.gather(*(keep(store, Accept(row)) for row in rows.values()))
    await asyncio.gather(*(keep(store, ended(rows[number])) for number in range(0, 50, 2)))
    left = [row.task_id for row in await store.unfinished()]
    assert left == [f"t_{number:03}" for number in range(1, 50, 2)]


# Repeating and refusing.


async def test_a_sampled_trace_is_known_as_long_as_its_task_is_unfinished(make: Make, home: Path) -> None:
    """The next owner goes on with it; one that nobody samples is not worth a row."""
    sampled, unsampled = f"00-{'1' * 32}-{'2' * 16}-01", f"00-{'1' * 32}-{'2' * 16}-00"
    async with opened(make, home) as store:
        for task_id, trace in (("t_1", sampled), ("t_2", unsampled), ("t_3", None)):
            await keep(store, Accept(a_task(task_id, trace=trace)))
    async with opened(make, home) as store:
        assert [row.trace for row in await store.unfinished()] == [sampled, None, None]


async def test_repeating_any_change_changes_nothing(store: Any) -> None:
    """A caller that saw an error may hand the same change over again, at once or later."""
    row, big = a_task("t_1"), a_task("t_2", payload=b"p" * 100_000)
    spec = PoolSpec(name="a", type="local")
    changes = [
        Accept(row, an_event(task_id="t_1")),
        Accept(big, an_event(task_id="t_2")),
        started(row),
        RequestCancel("t_1", NOW + 5),
        ended(replace(row, attempt=1, launch=1)),
        PutPool(PoolRow(pool_id="p_1", spec=spec), an_event("pool.registered", pool="a")),
        PutAffinity("k", "a"),
        Prune(NOW - 1),
    ]
    for change in changes:
        assert await keep(store, change)
        before = await everything(store)
        for again in await asyncio.gather(keep(store, change), keep(store, change)):
            assert again
        assert await everything(store) == before
    assert len(await store.events()) == 5


async def test_a_change_handed_over_twice_at_once_applies_once(store: Any) -> None:
    """Also when both fall into one commit."""
    row = a_task("t_1")
    change = Accept(row, an_event(task_id="t_1"))
    assert await asyncio.gather(*(keep(store, change) for _ in range(5))) == [True] * 5
    change = started(row)
    assert await asyncio.gather(*(keep(store, change) for _ in range(5))) == [True] * 5
    assert [event.kind for _, event in await store.events()] == ["task.queued", "task.started"]


@pytest.mark.parametrize("fence", [0, 1, 3, 99])
async def test_an_update_for_another_launch_is_refused(store: Any, fence: int) -> None:
    """And leaves neither a change nor an event."""
    await keep(store, Accept(a_task("t_1", status="running", launch=2, attempt=2)))
    kept = await store.task("t_1")
    late = replace(kept, status="completed", finished_at=NOW, result=b"1", launch=fence)
    assert not await keep(store, Update(late, fence, an_event("task.completed")))
    assert await store.task("t_1") == kept
    assert await store.events() == []


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timed_out"])
async def test_a_task_that_has_ended_never_changes(store: Any, status: Any) -> None:
    """Whatever comes later, under whatever launch."""
    row = a_task("t_1")
    await keep(store, Accept(row))
    assert await keep(store, ended(row, status, result=b"first"))
    kept = await store.task("t_1")
    for other in ("completed", "failed", "queued", "running"):
        assert not await keep(store, ended(row, other, result=b"second"))
        assert not await keep(store, Update(replace(row, status=other, launch=1), 0))
    assert await store.task("t_1") == kept


async def test_an_update_of_an_unknown_task_is_refused(store: Any) -> None:
    """It creates nothing."""
    assert not await keep(store, started(a_task("t_1")))
    assert await store.task("t_1") is None


async def test_of_rival_launches_one_wins(store: Any) -> None:
    """Ten start the same queued task in the same moment."""
    row = a_task("t_1")
    await keep(store, Accept(row))
    rivals = [started(row, worker=f"w{number}") for number in range(10)]
    outcomes = await asyncio.gather(*(keep(store, rival) for rival in rivals))
    assert sum(outcomes) == 1
    assert (await store.task("t_1")).worker == f"w{outcomes.index(True)}"


async def test_a_refused_change_costs_those_beside_it_nothing(store: Any) -> None:
    """A hundred good ones in the same commit are kept."""
    rows = [a_task(f"t_{number:03}") for number in range(100)]
    await keep(store, Accept(rows[50]))
    await keep(store, ended(rows[50]))
    changes = [Accept(row) if number != 50 else started(row) for number, row in enumerate(rows)]
    outcomes = await asyncio.gather(*(keep(store, change) for change in changes))
    assert outcomes == [number != 50 for number in range(100)]
    assert len(await store.unfinished()) == 99


# Cancelling, keys.


async def test_the_intent_to_cancel_is_kept_until_the_end(store: Any) -> None:
    """The first one counts; updates leave it; of an unknown task it is harmless."""
    row = a_task("t_1")
    await keep(store, Accept(row))
    await keep(store, RequestCancel("t_1", NOW + 1))
    await keep(store, RequestCancel("t_1", NOW + 2))
    assert await keep(store, started(row))
    [kept] = await store.unfinished()
    assert kept.cancel_requested_at == NOW + 1 and kept.status == "running"
    await keep(store, RequestCancel("t_0", NOW))
    assert await store.task("t_0") is None


async def test_a_key_is_taken_once_per_caller(store: Any) -> None:
    """Another task under it is refused and leaves nothing; another caller's key is another key."""
    await keep(store, Accept(a_task("t_1", idempotency_key="k")))
    taken = a_task("t_2", idempotency_key="k", payload=b"p" * 100_000)
    assert not await keep(store, Accept(taken, an_event(task_id="t_2")))
    assert await keep(store, Accept(a_task("t_3", idempotency_key="k", caller="other")))
    assert await keep(store, Accept(a_task("t_4", idempotency_key="K")))
    assert (await store.by_key("local", "k")).task_id == "t_1"
    assert (await store.by_key("other", "k")).task_id == "t_3"
    assert await store.by_key("local", "nobody's") is None
    assert await store.task("t_2") is None and await store.events() == []


async def test_of_tasks_under_one_key_handed_over_together_one_is_kept(store: Any) -> None:
    """The others learn that it was not them."""
    rows = [a_task(f"t_{number}", idempotency_key="k") for number in range(20)]
    outcomes = await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
    assert sum(outcomes) == 1
    [kept] = await store.unfinished()
    assert kept.task_id == f"t_{outcomes.index(True)}"


# Pools, affinities, numbers.


async def test_pools_come_back_by_name_until_they_are_closed(store: Any) -> None:
    """Whole; the latest definition of a name counts."""
    spec = PoolSpec(
        name="b",
        type="local",
        min_workers=0,
        max_workers=3,
        endpoint="http://e",
        labels={"ž": "🐙"},
        options={"deep": [1, None, {"x": True}]},
    )
    b = PoolRow(pool_id="p_b", spec=spec, status="draining", fixed_workers=2, created_at=NOW)
    a = PoolRow(pool_id="p_a", spec=replace(spec, name="a"), configured=True)
    for row in (b, a):
        assert await keep(store, PutPool(row, an_event("pool.registered", pool=row.spec.name)))
    assert await store.pools() == [a, b]
    again = replace(b, spec=replace(spec, max_workers=9), fixed_workers=None, status="running")
    assert await keep(store, PutPool(again))
    assert await store.pools() == [a, again]
    assert await keep(store, PutPool(replace(a, status="closed")))
    assert await store.pools() == [again]


async def test_an_affinity_key_has_the_pool_it_was_given_last(store: Any) -> None:
    """Keys are any text."""
    for key, pool in [("k", "a"), ("ž\0", "a"), ("k", "b")]:
        assert await keep(store, PutAffinity(key, pool))
    assert await store.affinities() == {"k": "b", "ž\0": "a"}


async def test_history_counts_what_finished_on_a_pool(store: Any) -> None:
    """Timeouts count as failures; durations are of the latest 1,000 that ran, ascending."""
    statuses = ["completed"] * 5 + ["failed"] * 3 + ["timed_out"] * 2 + ["cancelled"]
    for number, status in enumerate(statuses):
        ran = {"started_at": NOW - number, "finished_at": NOW, "pool": "a", "status": status}
        await keep(store, Accept(a_task(f"t_{number:02}", **ran)))
    await keep(store, Accept(a_task("t_98", pool="a")))
    await keep(store, Accept(a_task("t_99", pool="b", status="completed", started_at=0.0, finished_at=NOW)))
    history = await store.history("a")
    assert (history.completed, history.failed) == (5, 5)
    assert list(history.durations) == [float(number) for number in range(11)]
    nothing = await store.history("nowhere")
    assert (nothing.completed, nothing.failed, list(nothing.durations)) == (0, 0, [])


async def test_history_measures_the_latest_thousand(store: Any) -> None:
    """Older ones are counted, not measured."""
    rows = [
        a_task(
            f"t_{number:04}",
            pool="a",
            status="completed",
            started_at=NOW,
            finished_at=NOW + number,
        )
        for number in range(1100)
    ]
    await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
    history = await store.history("a")
    assert history.completed == 1100
    assert list(history.durations) == [float(number) for number in range(100, 1100)]


# Events.


async def test_events_have_growing_cursors_and_come_in_pages(store: Any) -> None:
    """Each page begins behind the last cursor; every field comes back."""
    events = [
        EventRow(at=NOW + n, kind=f"k{n}", pool="ž", task_id=f"t_{n}", data={"n": [n]}) for n in range(25)
    ]
    for number, event in enumerate(events):
        assert await keep(store, Accept(a_task(f"t_{number}"), event))
    found: list[tuple[int, EventRow]] = []
    while page := await store.events(found[-1][0] if found else 0, 10):
        assert len(page) <= 10
        found += page
    cursors = [cursor for cursor, _ in found]
    assert [event for _, event in found] == events
    assert all(low < high for low, high in itertools.pairwise(cursors))


async def test_an_event_is_there_as_soon_as_its_change_is(store: Any) -> None:
    """Both are of one commit: a reader never sees one without the other."""
    rows = [a_task(f"t_{number}") for number in range(200)]
    work = asyncio.gather(
        *(keep(store, Accept(row, an_event(task_id=row.task_id, data={"n": 1}))) for row in rows)
    )
    while not work.done():
        told = {event.task_id for _, event in await store.events()}
        kept = {row.task_id for row in await store.unfinished()}
        assert told <= kept
        later = {event.task_id for _, event in await store.events()}
        assert kept <= later
    assert all(await work)


# Forgetting.


async def test_what_ended_long_ago_is_forgotten_and_nothing_else(store: Any) -> None:
    """With its payload, however large; its key is free again. Old events go, too."""
    old = a_task("t_1", status="completed", finished_at=NOW - 10, idempotency_key="k", payload=b"p" * 9999)
    await keep(store, Accept(old, EventRow(at=NOW - 10, kind="old")))
    await keep(store, Accept(a_task("t_2", status="failed", finished_at=NOW + 10), an_event("young")))
    await keep(store, Accept(a_task("t_3", created_at=NOW - 99, payload=b"q" * 9999)))
    assert await keep(store, Prune(NOW))
    assert await store.task("t_1") is None and await store.by_key("local", "k") is None
    assert await store.task("t_2") is not None
    assert (await store.task("t_3")).payload == b"q" * 9999
    assert [event.kind for _, event in await store.events()] == ["young"]
    assert await keep(store, Accept(a_task("t_4", idempotency_key="k")))


async def test_cursors_grow_though_everything_before_is_forgotten(make: Make, home: Path) -> None:
    """Whoever follows the events from a cursor misses none, also across owners."""
    async with opened(make, home) as store:
        for number in range(5):
            await keep(store, Accept(a_task(f"t_{number}"), an_event("old")))
        last = (await store.events())[-1][0]
        assert await keep(store, Prune(NOW + 1))
        assert len(await store.events()) <= 1
    async with opened(make, home) as store:
        await keep(store, Accept(a_task("t_5"), an_event("new")))
        assert [event.kind for _, event in await store.events(after=last)] == ["new"]


async def test_forgetting_never_takes_the_payload_of_a_task_that_is_being_accepted(store: Any) -> None:
    """However the two fall together."""
    rows = [a_task(f"t_{number:03}", payload=b"p" * 5000) for number in range(60)]
    changes: list[Change] = []
    for row in rows:
        changes += [Accept(row), Prune(NOW)]
    await asyncio.gather(*(keep(store, change) for change in changes))
    assert [row.payload for row in await store.unfinished()] == [b"p" * 5000] * 60


# Owners.


async def test_the_next_owner_finds_everything(make: Make, home: Path) -> None:
    """And goes on under the same fences; cursors go on growing."""
    async with opened(make, home) as store:
        row = a_task("t_1", payload=b"p" * 5000)
        await keep(store, Accept(row, an_event("one")))
        await keep(store, started(row))
        await keep(store, PutPool(PoolRow(pool_id="p", spec=PoolSpec(name="a", type="local"))))
        await keep(store, PutAffinity("k", "a"))
        before = await everything(store)
    async with opened(make, home) as store:
        assert await everything(store) == before
        [kept] = await store.unfinished()
        assert not await keep(store, ended(row))
        assert await keep(store, ended(kept))
        cursors = [cursor for cursor, _ in await store.events()]
        assert cursors == sorted(set(cursors)) and len(cursors) == 3


async def test_closing_commits_what_was_handed_over(make: Make, home: Path) -> None:
    """Nobody had to wait for it; large payloads too."""
    async with opened(make, home) as store:
        store.rate = 0.0
        rows = [a_task(f"t_{number:03}", payload=b"p" * (number * 100)) for number in range(100)]
        answers = [store.commit(Accept(row)) for row in rows]
    assert await asyncio.wait_for(asyncio.gather(*answers), 20) == [True] * 100
    async with opened(make, home) as store:
        assert [row.payload for row in await store.unfinished()] == [row.payload for row in rows]


async def test_concurrent_commits_share_their_transactions(store: Any) -> None:
    """A thousand changes take far fewer syncs."""
    store.rate = 0.0
    before = store.commits
    rows = [a_task(f"t_{number:04}") for number in range(1000)]
    await asyncio.gather(*(keep(store, Accept(row, an_event())) for row in rows))
    await asyncio.gather(*(keep(store, started(row)) for row in rows))
    await asyncio.gather(*(keep(store, ended(replace(row, launch=1))) for row in rows))
    assert store.commits - before < 300
    assert await store.unfinished() == [] and len(await store.events(limit=9999)) == 3000


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_what_was_reported_survives_a_kill(
    make: Make, implementation: str, home: Path, seed: int
) -> None:
    """A process commits and tells; whenever it is killed, every task it told of is there, whole."""
    script = str(Path(__file__).with_name("committer.py"))
    child = await asyncio.create_subprocess_exec(
        sys.executable, script, implementation, str(home), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    told = [await child.stdout.readline() for _ in range(random.Random(seed).randint(1, 800))]
    child.send_signal(signal.SIGKILL)
    told += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    async with opened(make, home) as store:
        kept = {row.task_id: len(row.payload) for row in await store.unfinished()}
    for line in told:
        if line.endswith(b"\n"):
            task_id, size = line.split()
            assert kept[task_id.decode()] == int(size)
