"""Finding tasks again, through the tools and a router."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.reading import read_only
from mcp_pools.tools import pool_execute, pool_search, pool_stats, pool_watch

pytestmark = pytest.mark.anyio


async def echo(router: Router, count: int = 1, **payload: Any) -> list[str]:
    """Run some tasks; their ids, the newest first."""
    done = [await pool_execute(router, task_type="echo", payload=payload) for _ in range(count)]
    return [task.task_id for task in reversed(done)]


async def ids(router: Router, **asked: Any) -> list[str]:
    """The ids a search finds."""
    return [task.task_id for task in (await pool_search(router, **asked)).tasks]


async def refused(router: Router, **asked: Any) -> PoolsError:
    """How a search is refused."""
    with pytest.raises(PoolsError) as error:
        await pool_search(router, **asked)
    assert error.value.code == "invalid_payload" and error.value.next
    return error.value


async def test_an_empty_search_lists_the_newest_at_once(router: Router) -> None:
    """Page by page, each task once; the last page has no cursor."""
    done = await echo(router, 5, x=1)
    first = await pool_search(router, limit=2)
    second = await pool_search(router, limit=3, cursor=first.next_cursor)
    assert [task.task_id for task in [*first.tasks, *second.tasks]] == done
    assert first.next_cursor and second.next_cursor is None
    assert first.tasks[0].result == {"x": 1} and first.tasks[0].next is None


async def test_a_word_finds_the_task_that_holds_it(router: Router) -> None:
    """Also one that waits or runs; it shows how it stands."""
    [done] = await echo(router, fruit="quince")

    async def indexed() -> bool:
        return await ids(router, query="quince") == [done]

    await until(indexed)
    assert await ids(router, query="quinces") == []


async def test_living_tasks_are_found_as_they_stand(router: Router, gate: Any) -> None:
    """With what only their owner knows."""
    running = await pool_execute(router, **gate.task, pool="local", wait=False)
    await gate.entered()
    found = await pool_search(router, status="running", task_type="hold", pool="local")
    assert [task.task_id for task in found.tasks] == [running.task_id]
    assert found.tasks[0].next and "pool_task" in found.tasks[0].next
    assert await ids(router, status="completed") == []
    gate.open()


async def test_a_long_result_is_left_out_and_said_where_to_get(router: Router) -> None:
    """A short one is there."""
    for size in (10, 1998, 1999, 9000):
        await pool_execute(router, task_type="long-text", payload={"size": size})
    shown = (await pool_search(router)).tasks[::-1]
    assert [task.result and len(task.result) for task in shown] == [10, 1998, None, None]
    assert shown[1].next is None
    for task in shown[2:]:
        assert task.next == f'pool_task(task_id="{task.task_id}")'


async def test_since_takes_times_with_and_without_a_zone(router: Router) -> None:
    """Without one they are UTC."""
    [done] = await echo(router)
    now = datetime.now(UTC)
    assert await ids(router, since=now - timedelta(minutes=1)) == [done]
    assert await ids(router, since=(now - timedelta(minutes=1)).replace(tzinfo=None)) == [done]
    assert await ids(router, since=now + timedelta(minutes=1)) == []


async def test_a_cursor_of_other_arguments_is_refused(router: Router) -> None:
    """Every filter is a part of the question; the size of a page is not."""
    await echo(router, 3)
    cursor = (await pool_search(router, limit=1)).next_cursor
    since = datetime(2020, 1, 1, tzinfo=UTC)
    others: list[dict[str, Any]] = [
        {"query": "x"},
        {"pool": "local"},
        {"task_type": "echo"},
        {"since": since},
    ]
    for other in [*others, {"status": "completed"}]:
        assert "not of this home and these arguments" in str(await refused(router, cursor=cursor, **other))
    assert len(await ids(router, cursor=cursor, limit=9)) == 2


@pytest.mark.parametrize("cursor", ["", "x", "é", "====", "a" * 9999, "\ud800", "MTIzLjQ1"])
async def test_what_is_no_cursor_is_refused(router: Router, cursor: str) -> None:
    """In words that say what to do."""
    said = await refused(router, cursor=cursor)
    assert "without a cursor" in said.next and len(str(said)) < 300


async def test_a_cursor_of_another_home_is_refused(router: Router) -> None:
    """Its places mean nothing here."""
    await echo(router, 2)
    cursor = (await pool_search(router, limit=1)).next_cursor
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as directory:
        async with Router.open(Settings(home=Path(directory))) as other:
            await refused(other, cursor=cursor)


async def test_limits_out_of_bounds_are_refused(router: Router) -> None:
    """Calls from Python come without any check."""
    for limit in (0, 101):
        assert "1 to 100" in str(await refused(router, limit=limit))


async def test_the_store_alone_answers_when_nobody_owns_the_home(open_router: Any, home: Path) -> None:
    """With words as well; cursors go on."""
    async with open_router() as router:
        done = await echo(router, 3, x="quince")
        cursor = (await pool_search(router, query="quince", limit=1)).next_cursor
    opened = read_only(home, None)
    assert opened is not None
    async with opened as alone:
        assert await ids(alone, query="quince") == done
        if cursor:
            assert await ids(alone, query="quince", cursor=cursor) == done[1:]


# Statistics.


async def test_stats_count_what_is_kept(router: Router, gate: Any) -> None:
    """In all, for each pool and, when asked for, each type; a task that lives is counted, not judged."""
    empty = await pool_stats(router)
    assert (empty.totals.tasks, empty.totals.success_rate, empty.pools, empty.by_type) == (0, None, {}, None)
    await echo(router, 3)
    await pool_execute(router, task_type="fail-until", payload={"attempt": 9})
    await pool_execute(router, **gate.task, wait=False)
    told = await pool_stats(router, by_type=True)
    assert told.totals.statuses == {"running": 1, "completed": 3, "failed": 1}
    assert (told.totals.tasks, told.totals.success_rate) == (5, 0.75)
    assert told.pools == {"local": told.totals} and told.by_type is not None
    assert {name: each.tasks for name, each in told.by_type.items()} == {
        "echo": 3,
        "fail-until": 1,
        "hold": 1,
    }
    seconds = (told.totals.p50_seconds, told.totals.p95_seconds, told.totals.p99_seconds)
    assert None not in seconds and list(seconds) == sorted(seconds, key=lambda each: each or 0.0)
    assert told.by_type["hold"].avg_seconds is None
    gate.open()


# Watching.


async def test_without_a_cursor_watching_gives_the_latest_events(router: Router) -> None:
    """Fifty at most, oldest first, with the pools as they stand; of nothing, nothing."""
    empty = await pool_watch(router)
    assert empty.events == [] and [pool.name for pool in empty.pools] == ["local"]
    ids = (await echo(router, 40))[::-1]
    told = await pool_watch(router)
    assert len(told.events) == 50
    expected = [(kind, task_id) for task_id in ids for kind in ("task.started", "task.completed")]
    assert [(event.kind, event.task_id) for event in told.events] == expected[-50:]
    assert [event.kind for event in (await pool_watch(router, cursor=told.cursor)).events] == []
    everything = (await pool_watch(router, cursor=empty.cursor)).events
    assert [(event.kind, event.task_id) for event in everything] == expected


async def test_whoever_follows_sees_every_event_once(router: Router) -> None:
    """However they fall together with the calls, and when they come by the hundred."""
    cursor = (await pool_watch(router)).cursor
    work = asyncio.gather(*(echo(router, 10) for _ in range(50)))
    seen: list[int] = []
    kinds: list[str] = []
    while kinds.count("task.completed") < 500:
        told = await pool_watch(router, cursor=cursor, wait_seconds=20)
        assert 0 < len(told.events) <= 200
        cursor = told.cursor
        seen += [event.cursor for event in told.events]
        kinds += [event.kind for event in told.events]
    await work
    assert seen == sorted(set(seen)) and kinds.count("task.started") - kinds.count("task.returned") == 500


async def test_an_event_ends_the_wait(router: Router, gate: Any) -> None:
    """For everybody who waits."""
    await pool_execute(router, **gate.task, wait=False)
    await gate.entered()
    cursor = (await pool_watch(router)).cursor
    waiting = [asyncio.ensure_future(pool_watch(router, cursor=cursor, wait_seconds=30)) for _ in range(3)]
    first, *others = waiting
    await asyncio.sleep(0)
    first.cancel()
    gate.open()
    for told in await asyncio.wait_for(asyncio.gather(*others), 20):
        assert [event.kind for event in told.events] == ["task.completed"]


async def test_a_wait_without_an_event_ends_with_the_same_cursor(router: Router) -> None:
    """Going on from it misses nothing."""
    cursor = (await pool_watch(router)).cursor
    told = await pool_watch(router, cursor=cursor, wait_seconds=0.05)
    assert told.events == [] and told.cursor == cursor
    await echo(router)
    assert len((await pool_watch(router, cursor=cursor)).events) == 2


async def test_a_cursor_of_another_home_or_tool_is_not_watched_from(router: Router) -> None:
    """Nor is a wait out of bounds accepted."""
    await echo(router, 2)
    search = (await pool_search(router, limit=1)).next_cursor
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as directory:
        async with Router.open(Settings(home=Path(directory))) as other:
            foreign = (await pool_watch(other)).cursor
    for cursor in (search, foreign, "", "x"):
        with pytest.raises(PoolsError, match="Call pool_watch without a cursor"):
            await pool_watch(router, cursor=cursor)
    with pytest.raises(PoolsError, match="0 to 30"):
        await pool_watch(router, wait_seconds=31)


async def test_the_next_owner_goes_on_from_the_same_cursor(open_router: Any) -> None:
    """Cursors belong to the home."""
    async with open_router() as router:
        await echo(router)
        cursor = (await pool_watch(router)).cursor
    async with open_router() as router:
        [task_id] = await echo(router)
        told = await pool_watch(router, cursor=cursor)
        assert {event.task_id for event in told.events} == {task_id}
