"""What every store must do of searching, against the contract alone; see `conformance`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from stores.conformance import NOW, a_task, an_event, ended, keep, opened, started
from stores.implementations import Make
from waiting import until

from mcp_pools.store import Accept, Prune, Search

QUERIES = ['"', "'", "a AND", "NOT", "(", "*", "^a", "a:b", "text:a", "-", "a\0b", "\ud800", "🐙", "{a"]
QUERIES += [
    "NEAR(a b",
    "facets : open",
    "a" * 100_000,
    "a " * 5000,
    '"' * 999,
    "žluťoučký",
    "日本",
    "--",
    "%_",
]
QUERIES += [";drop table"]


async def found(store: Any, query: str = "", **wanted: Any) -> list[str]:
    """The ids that are found, in their order."""
    return [each.row.task_id for each in await store.search(Search(query=query, **wanted))]


async def finds(store: Any, query: str, *ids: str, **wanted: Any) -> None:
    """Returns once a query finds just these, in this order."""

    async def holds() -> bool:
        return await found(store, query, **wanted) == list(ids)

    await until(holds, f"{query!r} finds {ids}")


def payload(**fields: Any) -> bytes:
    """A payload."""
    return json.dumps(fields).encode()


async def test_a_task_is_found_by_the_words_of_all_its_texts(store: Any) -> None:
    """All words of the query must be there; of the last one the beginning is enough; case is no matter."""
    await keep(
        store, Accept(row := a_task("t_1", task_type="analyze", payload=payload(deep=[{"x": "Quince"}])))
    )
    await keep(store, Accept(a_task("t_2", payload=payload(x="quince-jam"))))
    await finds(store, "quince", "t_2", "t_1")
    texts = {
        "result": b'{"a":["pear",4711]}',
        "output_tail": "printed plum",
        "error": b'{"message":"no medlar"}',
    }
    await keep(store, ended(row, "failed", **texts))
    for query in (
        "pear",
        "4711",
        "plum",
        "medlar",
        "analyze",
        "QUINCE pear",
        "quince medl",
        "no medlar plum",
    ):
        await finds(store, query, "t_1")
    assert await found(store, "quince-jam") == ["t_2"] == await found(store, "jam quince")
    assert await found(store, "pear nowhere") == [] == await found(store, "pea quince")


async def test_a_task_is_found_by_its_text_before_it_has_ended(store: Any) -> None:
    """Queued, running, and however it ends; each time it is found once."""
    await keep(store, Accept(row := a_task("t_1", payload=payload(x="quince"))))
    await finds(store, "quince", "t_1", status="queued")
    await keep(store, started(row))
    assert await found(store, "quince", status="running") == ["t_1"]
    assert await found(store, "quince", status="queued") == []
    [kept] = await store.unfinished()
    await keep(store, ended(kept, result=b'"pear"'))
    await finds(store, "pear", "t_1")
    assert await found(store, "quince", status="completed") == ["t_1"]
    assert await found(store, "quince pear") == ["t_1"]


async def test_filters_see_what_was_kept_this_moment(store: Any) -> None:
    """Whatever the index has got to; each alone and all together."""
    for number in range(60):
        row = a_task(
            f"t_{number:02}", pool="ab"[number % 2], task_type="xyz"[number % 3], created_at=NOW + number
        )
        await keep(store, Accept(row))
        assert await found(store, status="queued", limit=1) == [row.task_id]
        if number % 4 == 0:
            await keep(store, ended(row, "failed" if number % 8 else "completed"))
            assert await found(store, status="failed" if number % 8 else "completed", limit=1) == [
                row.task_id
            ]
            assert row.task_id not in await found(store, status="queued", limit=99)
    expected = [f"t_{number:02}" for number in range(59, -1, -1)]
    assert await found(store, limit=99) == expected
    assert await found(store, pool="a", limit=99) == expected[1::2]
    assert await found(store, task_type="x", limit=99) == [f"t_{number:02}" for number in range(57, -1, -3)]
    assert await found(store, since=NOW + 50, limit=99) == expected[:10]
    assert await found(store, pool="a", task_type="x", status="completed", since=NOW + 1) == ["t_48", "t_24"]
    assert await found(store, pool="nowhere") == [] == await found(store, since=NOW + 60)


async def test_filters_hold_for_words_too(store: Any) -> None:
    """Also when the task has moved or ended since it was indexed."""
    rows = [a_task(f"t_{number}", pool="a", payload=payload(x="quince")) for number in range(4)]
    for row in rows:
        await keep(store, Accept(row))
    await finds(store, "quince", "t_3", "t_2", "t_1", "t_0", pool="a")
    await keep(store, started(rows[1], pool="b"))
    await keep(store, ended(rows[2], "cancelled"))
    assert await found(store, "quince", pool="b") == ["t_1"]
    assert await found(store, "quince", pool="a") == ["t_3", "t_2", "t_0"]
    assert await found(store, "quince", status="cancelled", pool="a", since=NOW) == ["t_2"]


async def test_what_is_private_is_never_found(store: Any) -> None:
    """At any depth, in payload, result and error."""
    keys = ["headers", "env", "stdin", "Headers", "password", "api_key", "$secret"]
    for number, key in enumerate(keys):
        private = {"x": [{key: {"deep": ["hush"], "also": "hush"}}], key: "hush", "open": "quince"}
        row = a_task(f"t_{number}", payload=payload(**private))
        await keep(store, Accept(row))
        error = payload(message="m", details=private)
        await keep(store, ended(row, "failed", result=payload(**private), error=error))
    await finds(store, "quince", *(f"t_{number}" for number in reversed(range(len(keys)))))
    assert await found(store, "hush") == []


async def test_any_text_is_a_query(store: Any) -> None:
    """None is an error; filters may hold anything, too."""
    await keep(store, Accept(a_task("t_1", payload=payload(x="quince"))))
    await finds(store, "quince", "t_1")
    for query in QUERIES:
        assert await found(store, query) == [], query
        assert await found(store, "quince", pool=query) == [] == await found(store, task_type=query)


async def test_a_task_is_found_by_the_text_it_holds_whatever_it_is(store: Any) -> None:
    """Any alphabet; accents may be left out."""
    for number, text in enumerate(["žluťoučký kůň", "日本語", "a.b/c_d", "e\u0301te\u0301"]):
        await keep(store, Accept(a_task(f"t_{number}", payload=payload(x=text))))
    for query, task_id in [("kun zlu", "t_0"), ("日本語", "t_1"), ("a.b/c_d", "t_2"), ("ete", "t_3")]:
        await finds(store, query, task_id)


async def test_pages_hold_still_while_new_tasks_arrive(store: Any) -> None:
    """Every task is on one page, newest first; the place of the last one begins the next page."""
    for number in range(30):
        await keep(store, Accept(a_task(f"t_{number:02}", payload=payload(x="quince"))))
    await finds(store, "quince", "t_29", limit=1)
    for query in ("", "quince"):
        seen: list[str] = []
        before = None
        while page := await store.search(Search(query=query, before=before, limit=7)):
            assert len(page) <= 7
            seen += [each.row.task_id for each in page]
            before = page[-1].place
            await keep(store, Accept(a_task(f"u_{len(seen)}{query}", payload=payload(x="quince"))))
        assert [task_id for task_id in seen if task_id.startswith("t")] == [
            f"t_{n:02}" for n in range(29, -1, -1)
        ]
        assert len(set(seen)) == len(seen)


async def test_found_rows_are_whole_but_for_payload_and_large_results(store: Any) -> None:
    """A result that was left out is told of."""
    rows = [a_task(f"t_{n}", payload=payload(x="p"), pool="a", idempotency_key=f"k{n}") for n in range(2)]
    for row, size in zip(rows, (10, 5000), strict=True):
        await keep(store, Accept(row))
        await keep(store, ended(row, result=b'"' + b"r" * size + b'"', output_tail="o"))
    large, small = await store.search(Search(result_bytes=1000))
    assert (large.row.result, large.shortened) == (None, True)
    assert (small.row.result, small.shortened) == (b'"' + b"r" * 10 + b'"', False)
    kept = await store.task("t_0")
    kept.payload = small.row.payload
    assert small.row == kept and small.row.payload == b""


async def test_what_is_forgotten_is_not_found(store: Any) -> None:
    """Nor are new tasks lost for it."""
    for number in range(3):
        row = a_task(f"t_{number}", payload=payload(x="quince"))
        await keep(store, Accept(row))
        await keep(store, ended(row))
    await finds(store, "quince", "t_2", "t_1", "t_0")
    await keep(store, Prune(NOW + 99))
    assert await found(store, "quince") == [] == await found(store)
    await keep(store, Accept(a_task("u", payload=payload(x="quince"))))
    await finds(store, "quince", "u")
    await keep(store, Accept(a_task("v", payload=payload(x="quince"))))
    await finds(store, "quince", "v", "u")


async def test_closing_leaves_nothing_to_be_indexed(make: Make, home: Path) -> None:
    """The next owner finds everything at once, and so it goes on."""
    async with opened(make, home) as store:
        identity = await store.identity()
        rows = [a_task(f"t_{number:03}", payload=payload(x="quince")) for number in range(600)]
        await asyncio.gather(*(keep(store, Accept(row)) for row in rows))
        await keep(store, ended(rows[0], result=b'"pear"'))
    async with opened(make, home) as store:
        assert await store.identity() == identity
        assert len(await found(store, "quince", limit=999)) == 600
        assert await found(store, "pear") == ["t_000"]
        await keep(store, ended(rows[1], result=b'"pear"'))
        await finds(store, "pear", "t_001", "t_000")


async def test_a_tally_counts_every_task_and_times_those_that_ran(store: Any) -> None:
    """By pool, type and status."""
    rows = [a_task(f"t_{number}", pool="ab"[number % 2], started_at=NOW) for number in range(5)]
    for row in rows:
        await keep(store, Accept(row))
    for row in rows[1:]:
        await keep(store, ended(row, "failed" if row is rows[4] else "completed", finished_at=NOW + 2))
    tally = await store.tally()
    assert sorted(tally.counts) == [
        ("a", "echo", "completed", 1),
        ("a", "echo", "failed", 1),
        ("a", "echo", "queued", 1),
        ("b", "echo", "completed", 2),
    ]
    assert sorted(tally.durations) == [("a", "echo", 2.0)] * 2 + [("b", "echo", 2.0)] * 2


async def test_the_latest_events_come_oldest_first(store: Any) -> None:
    """The same as the last of all events; of none, none."""
    assert await store.latest_events(3) == []
    for number in range(5):
        await keep(store, Accept(a_task(f"t_{number}"), an_event(f"k{number}")))
    assert await store.latest_events(3) == (await store.events())[-3:]
    assert await store.latest_events(99) == await store.events()


async def test_a_commit_wakes_everybody_who_waits_for_the_next_one(store: Any) -> None:
    """Its change is there then."""
    waits = [store.next_commit() for _ in range(3)]
    work = asyncio.ensure_future(keep(store, Accept(a_task("t_1"))))
    await asyncio.wait(waits)
    await work
    assert await store.task("t_1") is not None
    assert not store.next_commit().done()
