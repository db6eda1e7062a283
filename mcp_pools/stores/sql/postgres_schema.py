"""The schema in PostgreSQL, and who owns what is in it: migrating, taking over, keeping the lease.

`postgres/` beside this file holds the numbered migrations. They only ever go forward, and
replicas of an older version go on working meanwhile: a migration adds what they need not
know of, with defaults. One that must break with them says so, in `OLDEST`.
"""

from __future__ import annotations

import functools
import os
import socket
from importlib import resources
from typing import Final

from mcp_pools.errors import PoolsError
from mcp_pools.stores.sql.postgres_rows import Db

OLDEST: Final[dict[int, int]] = {1: 1}
"""Schema version to the oldest version whose code may still work with it."""

_LOCK: Final = (
    "SELECT pg_advisory_xact_lock(hashtext('mcp-pools schema'), "
    "current_schema()::regnamespace::oid::bigint::integer)"
)
ELSEWHERE: Final = (
    "Name another schema or database in `store` (`?options=-csearch_path%3DNAME` names a schema)."
)


@functools.cache
def migrations() -> list[str]:
    """The migrations' SQL, in order; their count is the version of the schema."""
    files = resources.files("mcp_pools.stores.sql").joinpath("postgres").iterdir()
    return [file.read_text() for file in sorted(files, key=lambda file: file.name)]


def version(db: Db) -> int | None:
    """The schema's version; `None` when there is no schema of ours."""
    if db.execute("SELECT to_regclass('mcp_pools_schema') IS NULL").fetchone() == (True,):
        return None
    found = db.execute("SELECT version FROM mcp_pools_schema").fetchone()
    return found[0] if found else 0


def migrate(db: Db, name: str) -> None:
    """Bring the schema up to date; raises `PoolsError` when it is too new for this code, or not ours.

    Who starts at the same moment waits for the lock, and then finds the work done.
    """
    with db.transaction():
        db.execute("SET LOCAL statement_timeout = 0")
        db.execute("SET LOCAL lock_timeout = 0")
        _require_ours(db, name)
        db.execute(_LOCK)
        before = version(db) or 0
        if before > len(migrations()):
            _require_compatible(db, name, before)
        for number, script in enumerate(migrations()[before:], before + 1):
            db.execute(script.encode())
            db.execute("UPDATE mcp_pools_schema SET version = %s, oldest = %s", (number, OLDEST[number]))


def _require_ours(db: Db, name: str) -> None:
    if db.execute("SELECT current_schema() IS NULL").fetchone() == (True,):
        raise PoolsError("conflict", f"The search path of {name} names no schema that exists.", ELSEWHERE)
    if db.execute("SHOW server_encoding").fetchone() != ("UTF8",):
        hint = "Create a database with ENCODING 'UTF8'."
        raise PoolsError("conflict", f"The database {name} does not hold every text: it is not UTF8.", hint)
    taken = db.execute("SELECT to_regclass('tasks') IS NOT NULL").fetchone() == (True,)
    if taken and version(db) is None:
        raise PoolsError("conflict", f"{name} holds the tables of another program.", ELSEWHERE)


def _require_compatible(db: Db, name: str, found: int) -> None:
    row = db.execute("SELECT oldest FROM mcp_pools_schema").fetchone()
    if row is not None and row[0] > len(migrations()):
        raise PoolsError(
            "conflict",
            f"{name} is of a newer mcp-pools (schema {found}; this one knows {len(migrations())}).",
            "Upgrade mcp-pools.",
        )


def take_over(db: Db, name: str, home: str, lease: float) -> int:
    """Own the store, and all work that has not ended; the number of this ownership (epoch).

    An earlier owner of the same home is dead, for this one holds the home's lock; one of another
    home is taken for dead when its lease has run out. Removing its row waits for a transaction of
    its that is under way, and lets no later one begin.

    Args:
        home: what tells this home from every other.
        lease: seconds.

    Raises:
        PoolsError: `conflict`: somebody else owns it.
    """
    with db.transaction():
        db.execute(_LOCK)
        other = db.execute(
            "SELECT host, pid, extract(epoch FROM until - now())::float8 FROM owners "
            "WHERE home <> %s AND until > now()",
            (home,),
        ).fetchone()
        if other is not None:
            raise _owned(name, *other)
        db.execute("DELETE FROM owners")
        row = db.execute(
            "INSERT INTO owners (home, host, pid, until) VALUES (%s, %s, %s, now() + %s * interval '1 s') "
            "RETURNING epoch",
            (home, socket.gethostname(), os.getpid(), lease),
        ).fetchone()
        assert row is not None
        db.execute("UPDATE tasks SET epoch = %s WHERE finished_at IS NULL", row)
        return int(row[0])


def _owned(name: str, host: str, pid: int, left: float) -> PoolsError:
    return PoolsError(
        "conflict",
        f"Process {pid} on {host} owns the store {name}.",
        f"Use that one's server (--server URL), or end it; if it is dead, try again in {left:.0f} s.",
        retryable=True,
    )


def owned_elsewhere(db: Db, home: str) -> bool:
    """Whether another home's owner lives."""
    return db.execute("SELECT 1 FROM owners WHERE home <> %s AND until > now()", (home,)).rowcount > 0


def renew(db: Db, epoch: int, lease: float) -> bool:
    """Extend a lease by `lease` seconds from now; `False`: another owner has taken over."""
    return (
        db.execute(
            "UPDATE owners SET until = now() + %s * interval '1 s' WHERE epoch = %s", (lease, epoch)
        ).rowcount
        > 0
    )


def leave(db: Db, epoch: int) -> None:
    """Own the store no more."""
    db.execute("DELETE FROM owners WHERE epoch = %s", (epoch,))


STILL_MINE: Final = "SELECT 1 FROM owners WHERE epoch = %s FOR KEY SHARE"
"""At the head of every transaction that writes: it holds a takeover up until it is committed, and writes
nothing after one. Renewing the lease goes on beside it.
"""
