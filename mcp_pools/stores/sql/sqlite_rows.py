"""How state lies in SQLite: connecting, migrating, statements, rows.

`sqlite/` beside this file holds the numbered migrations; they only ever go forward.
"""

import functools
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from mcp_pools.errors import PoolsError
from mcp_pools.store import DistributionRow, EventRow, TaskRow
from mcp_pools.tracing import is_kept

APPLICATION_ID: Final = 0x6D637070
"""Says in the file's header that it is ours (`mcpp`)."""

MOST_VALUES: Final = 16384
"""Values bound by one statement; SQLite's own limit is 32,766 since 3.32."""

FIXED: Final = (
    *("task_id", "task_type", "caller", "created_at", "cwd", "roots", "timeout", "priority", "max_attempts"),
    *("depth", "strategy", "pinned", "selector", "affinity_key", "distribution_id", "idempotency_key"),
    *("request_hash", "cancel_requested_at"),
)
CHANGING: Final = (
    *("status", "pool", "pool_type", "worker", "attempt", "launch", "seq", "not_before"),
    *("started_at", "finished_at", "progress", "error", "output_tail", "result"),
)
DISTRIBUTION: Final = (
    *("distribution_id", "task_type", "caller", "created_at", "strategy", "reduce", "on_error", "total"),
    *("cwd", "idempotency_key", "request_hash", "cancel_requested_at"),
)
ENDING: Final = ("status", "finished_at", "error", "reduced")
POOL: Final = ("name", "pool_id", "spec", "status", "fixed_workers", "configured", "created_at")

Row = tuple[Any, ...]
Statement = Callable[[int], str]
"""Makes the SQL for that many rows."""


def insert(into: str, columns: tuple[str, ...], conflict: str = "") -> Statement:
    """An insert of many rows."""
    one = f"({', '.join('?' * len(columns))})"

    @functools.cache
    def statement(rows: int) -> str:
        values = ", ".join([one] * rows)
        return f"INSERT INTO {into} ({', '.join(columns)}) VALUES {values} {conflict}"  # noqa: S608

    return statement


@functools.cache
def update(rows: int) -> str:
    """Write many tasks' changing columns, each fenced by the launch it speaks for.

    What a task says already is not written again: a repetition leaves no second event.
    """
    columns = ("epoch", *CHANGING)
    one = f"({', '.join('?' * (len(columns) + 2))})"
    places = {name: f"new.column{number}" for number, name in enumerate(columns, 3)}
    written = ", ".join(f"{name} = {place}" for name, place in places.items())
    news = " OR ".join(f"tasks.{name} IS NOT {places[name]}" for name in (*CHANGING, "epoch"))
    return (
        f"UPDATE tasks SET {written} FROM (VALUES {', '.join([one] * rows)}) AS new "  # noqa: S608
        "WHERE tasks.task_id = new.column1 AND tasks.launch = new.column2 AND tasks.finished_at IS NULL "
        f"AND ({news})"
    )


def one_at_a_time(sql: str) -> Statement:
    """A statement that has no form for many rows; `Rows` runs it once for each."""

    def statement(rows: int) -> str:
        assert rows == 1
        return sql

    statement.single = True  # type: ignore[attr-defined]
    return statement


STATEMENTS: Final[dict[str, Statement]] = {
    "distribution": insert("distributions", (*DISTRIBUTION, *ENDING), "ON CONFLICT DO NOTHING"),
    "accept": insert("tasks", ("epoch", *FIXED, *CHANGING, "payload"), "ON CONFLICT DO NOTHING"),
    "payload": insert("payloads", ("task_id", "payload"), "ON CONFLICT DO NOTHING"),
    "trace": insert("traces", ("id", "trace"), "ON CONFLICT DO NOTHING"),
    "part": insert("parts", ("distribution_id", "part", "task_id", "items"), "ON CONFLICT DO NOTHING"),
    "cancel": one_at_a_time(
        "UPDATE tasks SET cancel_requested_at = coalesce(cancel_requested_at, ?) WHERE task_id = ?"
    ),
    "cancel_distribution": one_at_a_time(
        "UPDATE distributions SET cancel_requested_at = coalesce(cancel_requested_at, ?) "
        "WHERE distribution_id = ?"
    ),
    "update": update,
    "end": one_at_a_time(
        f"UPDATE distributions SET {', '.join(f'{name} = ?' for name in ENDING)} "  # noqa: S608
        "WHERE distribution_id = ? AND finished_at IS NULL"
    ),
    "pool": one_at_a_time(
        f"INSERT INTO pools ({', '.join(POOL)}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE "  # noqa: S608
        f"SET {', '.join(f'{name} = excluded.{name}' for name in POOL[1:])} "
        f"WHERE {' OR '.join(f'pools.{name} IS NOT excluded.{name}' for name in POOL[1:])}"
    ),
    "affinity": one_at_a_time("INSERT OR REPLACE INTO affinities VALUES (?, ?)"),
    "prune_distributions": one_at_a_time("DELETE FROM distributions WHERE finished_at < ?"),
    "prune": one_at_a_time(
        "DELETE FROM tasks WHERE finished_at < ? AND (distribution_id IS NULL OR NOT EXISTS "
        "(SELECT 1 FROM distributions AS whole WHERE whole.distribution_id = tasks.distribution_id))"
    ),
    "prune_events": one_at_a_time(
        "DELETE FROM events WHERE at < ? AND cursor < (SELECT max(cursor) FROM events)"
    ),
}
"""By key, in the order in which one transaction applies them."""

ORDER: Final = {key: place for place, key in enumerate(STATEMENTS)}

FENCED: Final = frozenset({"distribution", "accept", "update", "end", "pool"})
"""Statements that refuse a row, or know it already, by not changing anything."""

EVENT: Final = insert("events", ("at", "kind", "pool", "task_id", "data"))


def connect(path: Path, sync: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection that any one thread may use at a time."""
    mode = "ro" if read_only else "rwc"
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
        timeout=10,
    )
    if not read_only:
        db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'NORMAL' if sync == 'normal' else 'FULL'}")
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA journal_size_limit = 67108864")
    return db


@functools.cache
def migrations() -> list[str]:
    """The migrations' SQL, in order; their count is the version of the schema."""
    files = resources.files("mcp_pools.stores.sql").joinpath("sqlite").iterdir()
    return [file.read_text() for file in sorted(files, key=lambda file: file.name)]


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date; raises `PoolsError` when it is newer than this code, or not ours."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if not _ours(db):
        raise PoolsError(
            "conflict", f"{path} belongs to another program.", "Set MCP_POOLS_HOME to another directory."
        )
    if version > len(migrations()):
        raise PoolsError(
            "conflict",
            f"{path} is of a newer mcp-pools (schema {version}; this one knows {len(migrations())}).",
            "Upgrade mcp-pools, or set MCP_POOLS_HOME to another directory.",
        )
    for number, script in enumerate(migrations()[version:], version + 1):
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}"
        db.executescript(f"BEGIN IMMEDIATE; {script}; {marks}; COMMIT;")


def _ours(db: sqlite3.Connection) -> bool:
    """Whether a file says that it is ours, or holds nothing yet."""
    said = db.execute("PRAGMA application_id").fetchone()[0]
    if said == 0:
        return db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    return bool(said == APPLICATION_ID)


def changing(row: TaskRow) -> Row:
    """The values of `CHANGING`."""
    return (
        row.status,
        row.pool,
        row.pool_type,
        row.worker,
        row.attempt,
        row.launch,
        row.seq,
        row.not_before,
        row.started_at,
        row.finished_at,
        row.progress,
        row.error,
        row.output_tail,
        row.result,
    )


def fixed(row: TaskRow) -> Row:
    """The values of `FIXED`."""
    return (
        row.task_id,
        row.task_type,
        row.caller,
        row.created_at,
        row.cwd,
        json.dumps(row.roots) if row.roots else "[]",
        row.timeout,
        row.priority,
        row.max_attempts,
        row.depth,
        row.strategy,
        row.pinned,
        json.dumps(row.selector) if row.selector else None,
        row.affinity_key,
        row.distribution_id,
        row.idempotency_key,
        row.request_hash,
        row.cancel_requested_at,
    )


def distribution(row: DistributionRow) -> Row:
    """The values of `DISTRIBUTION` and `ENDING`."""
    return (*(getattr(row, name) for name in DISTRIBUTION), *ending(row))


def ending(row: DistributionRow) -> Row:
    """The values of `ENDING`."""
    return tuple(getattr(row, name) for name in ENDING)


def traced(traces: Sequence[tuple[str, str | None]]) -> list[Row]:
    """Rows of `traces`, of those that must be kept."""
    return [(id, trace) for id, trace in traces if is_kept(trace)]


def part(row: TaskRow) -> Row:
    """Which part of which distribution a task is."""
    return (row.distribution_id, row.part, row.task_id, row.items)


def traces(db: sqlite3.Connection, table: str, key: str) -> dict[str, str]:
    """The traces of what has not ended in a table, by id."""
    return dict(
        db.execute(f"SELECT id, trace FROM {table} JOIN traces ON id = {key} WHERE finished_at IS NULL")  # noqa: S608
    )


def distributions(db: sqlite3.Connection, where: str, *values: Any) -> list[DistributionRow]:
    """The distributions that match."""
    columns = (*DISTRIBUTION, *ENDING)
    found = db.execute(f"SELECT {', '.join(columns)} FROM distributions WHERE {where}", values)  # noqa: S608
    return [DistributionRow(**dict(zip(columns, row, strict=True))) for row in found]


def parts(db: sqlite3.Connection, distribution_id: str) -> list[TaskRow]:
    """The parts of a distribution in their order, without payloads."""
    columns = ", ".join(f"tasks.{name}" for name in (*FIXED, *CHANGING))
    found = db.execute(
        f"SELECT part, items, {columns}, x'' FROM parts JOIN tasks ON tasks.task_id = parts.task_id "  # noqa: S608
        "WHERE parts.distribution_id = ? ORDER BY part",
        (distribution_id,),
    )
    return [replace(task(row), part=place, items=items) for place, items, *row in found]


def unfinished(db: sqlite3.Connection) -> list[TaskRow]:
    """Every task that has not ended, oldest first, with its place in its distribution."""
    rows = tasks(db, "finished_at IS NULL ORDER BY tasks.task_id")
    known = {row.task_id: row for row in rows if row.distribution_id is not None}
    which = "SELECT task_id, part, items FROM parts WHERE distribution_id = ?"
    for distribution_id in {row.distribution_id for row in known.values()}:
        for task_id, place, items in db.execute(which, (distribution_id,)):
            if (row := known.get(task_id)) is not None:
                row.part, row.items = place, items
    kept = traces(db, "tasks", "task_id")
    for row in rows if kept else ():
        row.trace = kept.get(row.task_id)
    return rows


def unfinished_distributions(db: sqlite3.Connection) -> list[DistributionRow]:
    """Every distribution that has not ended, oldest first."""
    rows = distributions(db, "finished_at IS NULL ORDER BY distribution_id")
    kept = traces(db, "distributions", "distribution_id")
    return [replace(row, trace=kept.get(row.distribution_id)) for row in rows]


def tasks(db: sqlite3.Connection, where: str, *values: Any) -> list[TaskRow]:
    """The tasks that match, whole."""
    columns = ", ".join(f"tasks.{name}" for name in (*FIXED, *CHANGING))
    found = db.execute(
        f"SELECT {columns}, coalesce(tasks.payload, payloads.payload) FROM tasks "  # noqa: S608
        f"LEFT JOIN payloads ON payloads.task_id = tasks.task_id WHERE {where}",
        values,
    )
    return [task(row) for row in found]


def task(values: Sequence[Any]) -> TaskRow:
    """One task from its row."""
    named = dict(zip((*FIXED, *CHANGING, "payload"), values, strict=True))
    named["roots"] = tuple(json.loads(named["roots"]))
    named["pinned"] = bool(named["pinned"])
    named["selector"] = json.loads(named["selector"]) if named["selector"] else None
    return TaskRow(**named)


def history(db: sqlite3.Connection, pool: str) -> Row:
    """Completed and failed tasks of a pool, and the latest durations, ascending."""
    counts = dict(
        db.execute(
            "SELECT status, count(*) FROM tasks WHERE pool = ? AND finished_at IS NOT NULL GROUP BY status",
            (pool,),
        ).fetchall()
    )
    durations = db.execute(
        "SELECT finished_at - started_at FROM tasks WHERE pool = ? AND finished_at IS NOT NULL "
        "AND started_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1000",
        (pool,),
    ).fetchall()
    failed = counts.get("failed", 0) + counts.get("timed_out", 0)
    return counts.get("completed", 0), failed, sorted(row[0] for row in durations)


def tally(db: sqlite3.Connection) -> tuple[list[Row], list[Row]]:
    """Tasks by pool, type and status; seconds of the latest that ran."""
    counts = db.execute(
        "SELECT coalesce(pool, ''), task_type, status, count(*) FROM tasks GROUP BY 1, 2, 3"
    ).fetchall()
    durations = db.execute(
        "SELECT coalesce(pool, ''), task_type, finished_at - started_at FROM tasks "
        "WHERE finished_at IS NOT NULL AND started_at IS NOT NULL ORDER BY n DESC LIMIT 10000"
    ).fetchall()
    return counts, durations


_CALLERS: Final = (
    " AND (EXISTS (SELECT 1 FROM tasks WHERE tasks.task_id = events.task_id AND caller = ?)"
    " OR events.task_id IS NULL AND (json_extract(data, '$.distribution_id') IS NULL"
    " OR EXISTS (SELECT 1 FROM distributions"
    " WHERE distribution_id = json_extract(data, '$.distribution_id') AND caller = ?)))"
)


def events(
    db: sqlite3.Connection, after: int, limit: int, caller: str | None, *, newest_first: bool = False
) -> list[tuple[int, EventRow]]:
    """Events behind a cursor, each with its own; `caller`'s and those of pools, or all."""
    theirs, given = ("", []) if caller is None else (_CALLERS, [caller, caller])
    rows = db.execute(
        "SELECT cursor, at, kind, pool, task_id, data FROM events "  # noqa: S608
        f"WHERE cursor > ?{theirs} ORDER BY cursor {'DESC' if newest_first else 'ASC'} LIMIT ?",
        (after, *given, limit),
    )
    return [
        (cursor, EventRow(at=at, kind=kind, pool=pool, task_id=task_id, data=json.loads(data)))
        for cursor, at, kind, pool, task_id, data in rows
    ]


def landed(db: sqlite3.Connection, kind: str, values: Row) -> bool:
    """Whether a refused change is refused because it is already there."""
    if kind == "accept":
        found = db.execute("SELECT 1 FROM tasks WHERE task_id = ?", (values[1],)).fetchone()
        return found is not None
    if kind == "pool":
        return True
    if kind == "distribution":
        return bool(distributions(db, "distribution_id = ?", values[0]))
    if kind == "end":
        return any(ending(row) == values[:-1] for row in distributions(db, "distribution_id = ?", values[-1]))
    columns = ", ".join(("epoch", *CHANGING))
    found = db.execute(f"SELECT {columns} FROM tasks WHERE task_id = ?", (values[0],)).fetchone()  # noqa: S608
    return found is not None and tuple(found) == values[2:]
