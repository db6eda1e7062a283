"""The way to PostgreSQL: connections, what they are asked for, and what their failures mean."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from mcp_pools.errors import PoolsError
from mcp_pools.stores.sql.postgres_rows import Db
from mcp_pools.stores.sql.postgres_text import register

PATIENCE_SECONDS: Final = 10.0
"""How long a read, or a commit, waits for a connection."""

_DEFAULTS: Final = {
    "application_name": "mcp-pools",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""What a connection is asked for if the URL does not say."""

_SESSION: Final = {
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    # The server ends what a stopped process holds up.
    "idle_in_transaction_session_timeout": "5s",
    "default_transaction_isolation": "read committed",
    "client_encoding": "UTF8",
}


class TakenOver(PoolsError):
    """Another owner has taken the store over; nothing is written here any more."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "conflict",
            f"Another owner has taken over the store {name}, because this one's lease had run out.",
            "End this server and start it again.",
        )


def connected(url: str) -> Db:
    """A connection by itself, to be used as a context."""
    return psycopg.connect(autocommit=True, **_asked(url))


def connections(url: str, sync: str, most: int) -> ConnectionPool[Db]:
    """The pool of connections, `most` of them; it is not open yet."""
    session = {**_SESSION, "synchronous_commit": "off" if sync == "normal" else "on"}
    setting = "SELECT " + ", ".join(
        f"set_config('{key}', '{value}', false)" for key, value in session.items()
    )

    def configure(db: Db) -> None:
        db.execute(setting.encode())
        register(db)

    return ConnectionPool(
        kwargs={"autocommit": True, **_asked(url)},
        min_size=1,
        max_size=most,
        configure=configure,
        timeout=PATIENCE_SECONDS,
        num_workers=1,
        name="store",
        open=False,
    )


def _asked(url: str) -> dict[str, Any]:
    return {**_DEFAULTS, **_parsed(url)}


def _parsed(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text may quote the password
        raise PoolsError(
            "invalid_payload",
            "The URL in `store` is not one that PostgreSQL's library understands.",
            "Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        ) from None


def named(url: str) -> str:
    """What the database is called in messages: no user, no password."""
    known = _parsed(url)
    host = known.get("host") or known.get("hostaddr") or "localhost"
    port = f":{known['port']}" if "port" in known else ""
    return f"postgresql://{host}{port}/{known.get('dbname', '')}"


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn the database's errors into refusals that say what to do."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise refusal(error, name) from error


def refusal(error: Exception, name: str) -> PoolsError:
    """What a failure to read or write means to the user."""
    if isinstance(error, ValueError | OverflowError | psycopg.DataError):
        hint = "Use valid text and numbers of at most 64 bits."
        return PoolsError("invalid_payload", f"The store cannot hold this value: {error}.", hint)
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        step = "Let the user create tables in its schema, or name another schema or database."
    elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        step = "Name the primary server in `store`, not a standby."
    else:
        step = "See that the server runs and the URL in `store` is right; work that was accepted is safe."
    return PoolsError("conflict", f"The store {name} cannot be used: {text}.", step, retryable=True)
