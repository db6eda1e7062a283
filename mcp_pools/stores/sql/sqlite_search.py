"""The full-text index in SQLite: what is behind, writing it, asking it.

The index is written a moment after the tasks, in transactions of its own. Its position is
in the file, so whatever a crash leaves behind is found again. A task that was indexed
before it ended is indexed again afterwards.

A filter asks the index for candidates, too, and then each candidate's own row: so it is
exact although the index is behind, and quick although few of many tasks match.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence, Set
from typing import Any, Final, NamedTuple

from mcp_pools.models import Status
from mcp_pools.searchable import LARGEST_JSON, text_of, words
from mcp_pools.states import TERMINAL
from mcp_pools.store import Found, Search
from mcp_pools.stores.sql import sqlite_rows as sql

MOST_TASKS: Final = 256
MOST_CHARACTERS: Final = 1 << 18
"""Bounds of one transaction of the index: the commits of tasks wait for it."""


_OLDEST: Final = "SELECT min(n) FROM tasks INDEXED BY tasks_created WHERE created_at >= ?"


class Entry(NamedTuple):
    """What is to be written of one task."""

    n: int
    task_id: str
    ended: bool
    text: str
    facets: str


def newest(db: sqlite3.Connection) -> int:
    """The n of the newest task; 0 of none."""
    return int(db.execute("SELECT coalesce(max(n), 0) FROM tasks").fetchone()[0])


def behind(db: sqlite3.Connection, ended: Set[str] | None, upto: int) -> list[Entry]:
    """What the index lacks: new tasks, oldest first, then tasks that ended since they were indexed.

    Args:
        upto: the n of the newest task that is to be in the index.
        ended: ids of tasks that may have ended; `None` looks at all that had not when they were indexed.
    """
    found = list(_entries(db, "tasks.n > (SELECT upto FROM indexed) AND tasks.n <= ? ORDER BY tasks.n", upto))
    if len(found) == MOST_TASKS:
        return found
    late = "tasks.n IN (SELECT n FROM indexed_open) AND finished_at IS NOT NULL"
    if ended is None:
        return [*found, *_entries(db, late)]
    which = "tasks.task_id IN (SELECT value FROM json_each(?))"
    return [*found, *_entries(db, f"{which} AND {late}", json.dumps(list(ended)))]


def still_open(db: sqlite3.Connection, ended: Set[str]) -> set[str]:
    """Which of these tasks are in the index only as they were before they ended."""
    rows = db.execute(
        "SELECT task_id FROM tasks WHERE task_id IN (SELECT value FROM json_each(?)) "
        "AND n IN (SELECT n FROM indexed_open)",
        (json.dumps(list(ended)),),
    )
    return {task_id for (task_id,) in rows}


def _entries(db: sqlite3.Connection, where: str, *given: Any) -> Iterator[Entry]:
    payload = "coalesce(tasks.payload, payloads.payload)"
    rows = db.execute(
        "SELECT tasks.n, tasks.task_id, task_type, status, pool, finished_at IS NOT NULL, "  # noqa: S608
        f"iif(length({payload}) <= {LARGEST_JSON}, {payload}, NULL), error, "
        f"iif(length(result) <= {LARGEST_JSON}, result, NULL), output_tail "
        "FROM tasks LEFT JOIN payloads ON payloads.task_id = tasks.task_id "
        f"WHERE {where} LIMIT {MOST_TASKS}",
        given,
    )
    characters = 0
    for n, task_id, task_type, status, pool, ended, payload, error, result, output in rows:
        text = text_of(task_type, payload, error, result, output)
        yield Entry(n, task_id, bool(ended), text, facets_of(task_type, status if ended else None, pool))
        characters += len(text)
        if characters > MOST_CHARACTERS:
            return


def write(db: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Bring the index up to `entries`, within a transaction of the caller's."""
    db.executemany(
        "INSERT OR REPLACE INTO search (rowid, text, facets) "
        "SELECT n, ?, ? FROM tasks WHERE n = ? AND task_id = ?",
        [(each.text, each.facets, each.n, each.task_id) for each in entries],
    )
    db.executemany(
        "INSERT OR IGNORE INTO indexed_open SELECT n FROM tasks WHERE n = ? AND task_id = ?",
        [(each.n, each.task_id) for each in entries if not each.ended],
    )
    db.executemany("DELETE FROM indexed_open WHERE n = ?", [(each.n,) for each in entries if each.ended])
    upto = max(each.n for each in entries)
    db.execute(
        "UPDATE indexed SET upto = max(upto, min(?, (SELECT coalesce(max(n), 0) FROM tasks)))", (upto,)
    )


def facets_of(task_type: str, ended_as: Status | None, pool: str | None) -> str:
    """The words a task is found by when filters ask for it."""
    if ended_as is None:
        return f"open {_facet('type', task_type)}"
    return " ".join((_facet("type", task_type), _facet("status", ended_as), _facet("pool", pool or "")))


@functools.lru_cache(1024)
def _facet(kind: str, name: str) -> str:
    """A word of letters and digits alone, whatever the name."""
    return kind + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:12]


# Asking.


def search(db: sqlite3.Connection, wanted: Search) -> list[Found]:
    """The tasks that match, newest first, at most `wanted.limit`."""
    db.execute("BEGIN")  # the index and the tasks as they are at one moment
    try:
        return _search(db, wanted)
    finally:
        db.execute("COMMIT")


def _search(db: sqlite3.Connection, wanted: Search) -> list[Found]:
    asked = _match(wanted)
    if wanted.query.strip() and not words(wanted.query):
        return []  # a query without a word finds nothing
    filters, given = _filters(db, wanted)
    if asked is None:
        return _found(db, wanted, "tasks", "", filters, given, wanted.limit)
    upto = db.execute("SELECT upto FROM indexed").fetchone()[0]
    newest: list[Found] = []
    if not wanted.query.strip():  # what is not indexed yet is found by filters all the same
        newest = _found(db, wanted, "tasks", f"tasks.n > {upto} AND ", filters, given, wanted.limit)
    if len(newest) == wanted.limit:
        return newest
    source, match = "search CROSS JOIN tasks ON tasks.n = search.rowid", "search MATCH ? AND "
    bounded = filters.replace("tasks.n ", "search.rowid ")
    rest = wanted.limit - len(newest)
    return newest + _found(
        db, wanted, source, f"{match}search.rowid <= {upto} AND ", bounded, (asked, *given), rest
    )


def _found(
    db: sqlite3.Connection,
    wanted: Search,
    source: str,
    first: str,
    filters: str,
    given: tuple[Any, ...],
    limit: int,
) -> list[Found]:
    """Rows of `source`, newest first, without payloads and without results that are too large."""
    columns = ", ".join(f"tasks.{name}" for name in (*sql.FIXED, *sql.CHANGING[:-1]))
    order = "search.rowid" if source.startswith("search") else "tasks.n"
    rows = db.execute(
        f"SELECT tasks.n, length(result) > {wanted.result_bytes}, {columns}, "  # noqa: S608
        f"iif(length(result) <= {wanted.result_bytes}, result, NULL), x'' "
        f"FROM {source} WHERE {first}{filters} ORDER BY {order} DESC LIMIT {limit}",
        given,
    )
    return [Found(n, sql.task(tuple(row)), bool(shortened)) for n, shortened, *row in rows]


def _filters(db: sqlite3.Connection, wanted: Search) -> tuple[str, tuple[Any, ...]]:
    """What a task's own row must say."""
    parts: list[str] = ["tasks.n < ?"]
    given: list[Any] = [wanted.before or 1 << 62]
    if wanted.since is not None:
        oldest = db.execute(_OLDEST, (wanted.since,)).fetchone()[0]
        parts += ["tasks.n >= ?", "created_at >= ?"]
        given += [1 << 62 if oldest is None else oldest, wanted.since]
    for name in ("status", "pool", "task_type", "caller"):
        if (value := getattr(wanted, name)) is not None:
            parts.append(f"tasks.{name} = ?")
            given.append(value.encode(errors="replace").decode())
    return " AND ".join(parts), tuple(given)


def _match(wanted: Search) -> str | None:
    """The candidates, as FTS5 is asked for them; `None`: any task."""
    asked = []
    if found := [_quoted(word) + " *" * beginning for word, beginning in words(wanted.query)]:
        asked.append(f"(text : ({' AND '.join(found)}))")
    ended = []
    if wanted.status in TERMINAL:
        ended.append(_facet("status", wanted.status or ""))
    if wanted.pool is not None:
        ended.append(_facet("pool", wanted.pool))
    if wanted.status is not None and wanted.status not in TERMINAL:
        asked.append("(facets : open)")
    elif ended:
        asked.append(f"(facets : ((({' AND '.join(ended)})) OR open))")
    if wanted.task_type is not None:
        asked.append(f"(facets : {_facet('type', wanted.task_type)})")
    return " AND ".join(asked) or None


def _quoted(word: str) -> str:
    """A word as FTS5 takes it literally; its own punctuation makes it a phrase."""
    return '"' + word.replace('"', '""') + '"'
