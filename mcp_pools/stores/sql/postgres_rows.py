"""How state lies in PostgreSQL: statements, rows, what is read.

Every statement takes any number of rows as one parameter of JSON, and one array for each
column of bytes: so there is one text to prepare, whatever the size of a batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from mcp_pools.models import PoolSpec
from mcp_pools.store import DistributionRow, EventRow, PoolRow, TaskRow
from mcp_pools.stores.sql.postgres_text import escaped
from mcp_pools.tracing import is_kept

Db = Connection[TupleRow]
Row = tuple[Any, ...]
Columns = Mapping[str, str]
"""Name to type."""

FIXED: Final[Columns] = {
    **dict.fromkeys(("task_id", "task_type", "caller", "cwd", "roots"), "text"),
    **dict.fromkeys(("created_at", "timeout"), "float8"),
    **dict.fromkeys(("priority", "max_attempts", "depth"), "bigint"),
    **{"strategy": "text", "pinned": "boolean"},
    **dict.fromkeys(("selector", "affinity_key", "distribution_id", "idempotency_key"), "text"),
    **{"request_hash": "text", "cancel_requested_at": "float8"},
}
PLACE: Final[Columns] = {"trace": "text", "part": "bigint", "items": "bigint"}
CHANGING: Final[Columns] = {
    **dict.fromkeys(("status", "pool", "pool_type", "worker"), "text"),
    **dict.fromkeys(("attempt", "launch", "seq"), "bigint"),
    **dict.fromkeys(("not_before", "started_at", "finished_at"), "float8"),
    "output_tail": "text",
    **dict.fromkeys(("progress", "error", "result"), "bytea"),
}
ACCEPTED: Final[Columns] = {"epoch": "bigint", **FIXED, **PLACE, **CHANGING, "payload": "bytea"}
DISTRIBUTION: Final[Columns] = {
    **dict.fromkeys(("distribution_id", "task_type", "caller", "strategy", "reduce", "on_error"), "text"),
    **{"created_at": "float8", "total": "bigint", "cwd": "text"},
    **dict.fromkeys(("idempotency_key", "request_hash", "trace"), "text"),
    "cancel_requested_at": "float8",
}
ENDING: Final[Columns] = {"status": "text", "finished_at": "float8", "error": "bytea", "reduced": "bytea"}
POOL: Final[Columns] = {
    **dict.fromkeys(("name", "pool_id", "spec", "status"), "text"),
    **{"fixed_workers": "bigint", "configured": "boolean", "created_at": "float8"},
}
TOLD: Final[Columns] = {
    "at": "float8",
    **dict.fromkeys(("kind", "pool", "task_id", "distribution_id", "data"), "text"),
}


class Statement(NamedTuple):
    """A statement of many rows. `fenced`: it refuses a row, or knows it already, by not changing anything."""

    columns: Columns
    sql: str
    fenced: bool = False

    def parameters(self, rows: Sequence[Row]) -> tuple[Any, ...]:
        """What it is executed with."""
        plain = [(place, name) for place, (name, kind) in enumerate(self.columns.items()) if kind != "bytea"]
        blobs = [place for place, kind in enumerate(self.columns.values()) if kind == "bytea"]
        table = [{name: row[place] for place, name in plain} for row in rows]
        return (_json(table), *([row[place] for row in rows] for place in blobs))


def _json(table: list[dict[str, Any]]) -> str:
    """Rows as PostgreSQL reads them: its JSON knows neither NUL nor infinite numbers, its `float8` does."""
    text = json.dumps(table, ensure_ascii=False)
    if not any(mark in text for mark in ("\\u0000", "\\u001a", "Infinity", "NaN")):
        return text
    return json.dumps(
        [{name: _plain(value) for name, value in row.items()} for row in table], ensure_ascii=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return escaped(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def given(columns: Columns) -> str:
    """The rows of a statement, as a table `new`."""
    plain = {name: kind for name, kind in columns.items() if kind != "bytea"}
    blobs = [name for name, kind in columns.items() if kind == "bytea"]
    table = f"json_to_recordset(%s::json) AS ({', '.join(f'{name} {kind}' for name, kind in plain.items())})"
    return (
        f"ROWS FROM ({', '.join([table, *['unnest(%b::bytea[])'] * len(blobs)])}) "
        f"AS new({', '.join([*plain, *blobs])})"
    )


def insert(into: str, columns: Columns, conflict: str = "") -> str:
    """An insert of many rows."""
    names = ", ".join(columns)
    return f"INSERT INTO {into} ({names}) SELECT {names} FROM {given(columns)} {conflict}"  # noqa: S608


def _written(columns: Columns, source: str = "new") -> str:
    return ", ".join(f"{name} = {source}.{name}" for name in columns)


def _news(table: str, columns: Columns, source: str = "new") -> str:
    """What is there already is not written again: a repetition leaves no second event."""
    old, new = (", ".join(f"{each}.{name}" for name in columns) for each in (table, source))
    return f"({old}) IS DISTINCT FROM ({new})"


_UPDATED: Final[Columns] = {"task_id": "text", "fence": "bigint", "epoch": "bigint", **CHANGING}
_ENDED: Final[Columns] = {**ENDING, "distribution_id": "text"}
_ASKED: Final[Columns] = {"at": "float8", "id": "text"}
_BEFORE: Final[Columns] = {"before": "float8"}
_KEPT: Final = {name: kind for name, kind in POOL.items() if name != "name"}


def _cancel(table: str, key: str) -> str:
    return (
        f"UPDATE {table} SET cancel_requested_at = first.at "  # noqa: S608
        f"FROM (SELECT id, min(at) AS at FROM {given(_ASKED)} GROUP BY id) AS first "
        f"WHERE {key} = first.id AND cancel_requested_at IS NULL"
    )


STATEMENTS: Final[dict[str, Statement]] = {
    "distribution": Statement(
        {**DISTRIBUTION, **ENDING},
        insert("distributions", {**DISTRIBUTION, **ENDING}, "ON CONFLICT DO NOTHING"),
        fenced=True,
    ),
    "accept": Statement(ACCEPTED, insert("tasks", ACCEPTED, "ON CONFLICT DO NOTHING"), fenced=True),
    "cancel": Statement(_ASKED, _cancel("tasks", "task_id")),
    "cancel_distribution": Statement(_ASKED, _cancel("distributions", "distribution_id")),
    "update": Statement(
        _UPDATED,
        f"UPDATE tasks SET {_written(CHANGING)} FROM {given(_UPDATED)} "  # noqa: S608
        "WHERE tasks.task_id = new.task_id AND tasks.launch = new.fence AND tasks.epoch = new.epoch "
        f"AND tasks.finished_at IS NULL AND {_news('tasks', CHANGING)}",
        fenced=True,
    ),
    "end": Statement(
        _ENDED,
        f"UPDATE distributions SET {_written(ENDING)} FROM {given(_ENDED)} "  # noqa: S608
        "WHERE distributions.distribution_id = new.distribution_id AND distributions.finished_at IS NULL",
        fenced=True,
    ),
    "pool": Statement(
        POOL,
        insert("pools", POOL, "ON CONFLICT (name) DO UPDATE SET ")
        + f"{_written(_KEPT, 'excluded')} WHERE {_news('pools', _KEPT, 'excluded')}",
        fenced=True,
    ),
    "affinity": Statement(
        {"key": "text", "pool": "text"},
        insert(
            "affinities",
            {"key": "text", "pool": "text"},
            "ON CONFLICT (key) DO UPDATE SET pool = excluded.pool",
        ),
    ),
    "prune_events": Statement(
        _BEFORE,
        f"DELETE FROM events USING {given(_BEFORE)} "  # noqa: S608
        "WHERE at < new.before AND cursor < (SELECT max(cursor) FROM events)",
    ),
    "prune_distributions": Statement(
        _BEFORE,
        f"DELETE FROM distributions USING {given(_BEFORE)} WHERE finished_at < new.before",  # noqa: S608
    ),
    "prune": Statement(
        _BEFORE,
        f"DELETE FROM tasks USING {given(_BEFORE)} WHERE finished_at < new.before AND NOT EXISTS "  # noqa: S608
        "(SELECT 1 FROM distributions AS whole WHERE whole.distribution_id = tasks.distribution_id)",
    ),
}
"""By key, in the order in which one transaction applies them."""

ORDER: Final = {key: place for place, key in enumerate(STATEMENTS)}

EVENT: Final = Statement(
    TOLD,
    "WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('mcp-pools events'), "  # noqa: S608
    "current_schema()::regnamespace::oid::bigint::integer)) "
    f"INSERT INTO events ({', '.join(TOLD)}) "
    f"SELECT {', '.join(f'new.{name}' for name in TOLD)} FROM locked, {given(TOLD)}",
)
"""The last of a transaction. The lock is there before the first cursor is given out, and until the commit.

So cursors become visible in their order, and whoever follows them misses none. Cursors from a
bare sequence do not: the higher may be committed first. Hiding what is younger than the oldest
transaction would do as well, but any long transaction of the server, in any database, would
hold all events back. What the lock costs is one commit at a time; each holds a whole batch.
"""


def changing(row: TaskRow) -> Row:
    """The values of `CHANGING`."""
    return tuple(getattr(row, name) for name in CHANGING)


def accepted(row: TaskRow, epoch: int) -> Row:
    """The values of `ACCEPTED`."""
    own = {
        "roots": json.dumps(row.roots),
        "selector": json.dumps(row.selector) if row.selector else None,
        "trace": row.trace if is_kept(row.trace) else None,
    }
    fixed = (own[name] if name in own else getattr(row, name) for name in (*FIXED, *PLACE))
    return (epoch, *fixed, *changing(row), row.payload)


def distribution(row: DistributionRow) -> Row:
    """The values of `DISTRIBUTION` and `ENDING`."""
    fixed = (getattr(row, name) for name in DISTRIBUTION if name not in ("trace", "cancel_requested_at"))
    return (*fixed, row.trace if is_kept(row.trace) else None, row.cancel_requested_at, *ending(row))


def ending(row: DistributionRow) -> Row:
    """The values of `ENDING`."""
    return tuple(getattr(row, name) for name in ENDING)


def event_values(event: EventRow) -> Row:
    """The values of `TOLD`."""
    whole = event.data.get("distribution_id")
    data = json.dumps(event.data, separators=(",", ":"))
    told = whole if isinstance(whole, str) and whole.isascii() else None
    return (event.at, event.kind, event.pool, event.task_id, told, data)


# Reading.


def tasks(db: Db, where: str, *values: Any, place: bool = False) -> list[TaskRow]:
    """The tasks that match, whole; with `place` also their trace, and which part of what they are."""
    columns = (*FIXED, *CHANGING, *(PLACE if place else ()), "payload")
    found = db.execute(f"SELECT {', '.join(columns)} FROM tasks WHERE {where}", values)  # noqa: S608
    return [task(columns, row) for row in found]


def parts(db: Db, distribution_id: str) -> list[TaskRow]:
    """The parts of a distribution in their order, without payloads."""
    columns = (*FIXED, *CHANGING, "part", "items")
    found = db.execute(
        f"SELECT {', '.join(columns)}, ''::bytea FROM tasks WHERE distribution_id = %s "  # noqa: S608
        "AND part IS NOT NULL AND EXISTS (SELECT 1 FROM distributions AS whole "
        "WHERE whole.distribution_id = tasks.distribution_id) ORDER BY part",
        (distribution_id,),
    )
    return [task((*columns, "payload"), row) for row in found]


def task(columns: Sequence[str], values: Sequence[Any]) -> TaskRow:
    """One task from its row."""
    named = dict(zip(columns, values, strict=True))
    named["roots"] = tuple(json.loads(named["roots"]))
    named["selector"] = json.loads(named["selector"]) if named["selector"] else None
    return TaskRow(**named)


def distributions(db: Db, where: str, *values: Any) -> list[DistributionRow]:
    """The distributions that match."""
    columns = (*DISTRIBUTION, *ENDING)
    found = db.execute(f"SELECT {', '.join(columns)} FROM distributions WHERE {where}", values)  # noqa: S608
    return [DistributionRow(**dict(zip(columns, row, strict=True))) for row in found]


def pools(db: Db) -> list[PoolRow]:
    """Every pool that is not closed, by name."""
    found = db.execute(
        f"SELECT {', '.join(_KEPT)} FROM pools WHERE status <> 'closed' "  # noqa: S608
        'ORDER BY name COLLATE "C"'
    )
    rows = [dict(zip(_KEPT, row, strict=True)) for row in found]
    return [PoolRow(**row | {"spec": PoolSpec(**json.loads(row["spec"]))}) for row in rows]


def history(db: Db, pool: str) -> tuple[int, int, list[float]]:
    """Completed and failed tasks of a pool, and the latest durations, ascending."""
    counts: dict[str, int] = dict(
        db.execute(
            "SELECT status, count(*) FROM tasks WHERE pool = %s AND finished_at IS NOT NULL GROUP BY status",
            (pool,),
        ).fetchall()
    )
    durations = db.execute(
        "SELECT finished_at - started_at FROM tasks WHERE pool = %s AND finished_at IS NOT NULL "
        "AND started_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1000",
        (pool,),
    )
    failed = counts.get("failed", 0) + counts.get("timed_out", 0)
    return counts.get("completed", 0), failed, sorted(seconds for (seconds,) in durations)


def tally(db: Db) -> tuple[list[Row], list[Row]]:
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
    " AND (EXISTS (SELECT 1 FROM tasks WHERE tasks.task_id = events.task_id AND caller = %s)"
    " OR events.task_id IS NULL AND (distribution_id IS NULL OR EXISTS (SELECT 1 FROM distributions AS whole"
    " WHERE whole.distribution_id = events.distribution_id AND caller = %s)))"
)


def events(
    db: Db, after: int, limit: int, caller: str | None, *, newest_first: bool = False
) -> list[tuple[int, EventRow]]:
    """Events behind a cursor, each with its own; `caller`'s and those of pools, or all."""
    theirs, asked = ("", []) if caller is None else (_CALLERS, [caller, caller])
    found = db.execute(
        "SELECT cursor, at, kind, pool, task_id, data FROM events "  # noqa: S608
        f"WHERE cursor > %s{theirs} ORDER BY cursor {'DESC' if newest_first else 'ASC'} LIMIT %s",
        (after, *asked, limit),
    )
    return [
        (cursor, EventRow(at=at, kind=kind, pool=pool, task_id=task_id, data=json.loads(data)))
        for cursor, at, kind, pool, task_id, data in found
    ]


def landed(db: Db, kind: str, values: Row) -> bool:
    """Whether a refused change is refused because it is already there."""
    if kind == "accept":
        place = list(ACCEPTED).index("task_id")
        return db.execute("SELECT 1 FROM tasks WHERE task_id = %s", (values[place],)).rowcount > 0
    if kind == "pool":
        return True
    if kind == "distribution":
        return bool(distributions(db, "distribution_id = %s", values[0]))
    if kind == "end":
        return any(
            ending(row) == values[:-1] for row in distributions(db, "distribution_id = %s", values[-1])
        )
    columns = ", ".join(("epoch", *CHANGING))
    found = db.execute(f"SELECT {columns} FROM tasks WHERE task_id = %s", (values[0],)).fetchone()  # noqa: S608
    return found is not None and found == values[2:]
