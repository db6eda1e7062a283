"""The stores that must all behave alike, by name: each is made for a home, and opened by the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stores.faults import Unlucky

from mcp_pools.stores.sqlite import SqliteStore

Make = Callable[[Path], Any]


def sqlite(home: Path) -> SqliteStore:
    """SQLite, with full sync."""
    return SqliteStore(home / "pools.db")


def postgres(home: Path) -> Any:
    """PostgreSQL, on the server that the tests have started; empty for each new home."""
    from stores.postgres_server import shared_schema

    from mcp_pools.stores.postgres import PostgresStore

    return PostgresStore(shared_schema(home), home)


def implementations(name: str, make: Make) -> dict[str, Make]:
    """A store, and twice the same with bad luck."""
    return {
        name: make,
        f"{name}, landed but timed out": lambda home: Unlucky(make(home), lands=True),
        f"{name}, failed before it landed": lambda home: Unlucky(make(home), lands=False),
    }


SQLITE = implementations("sqlite", sqlite)
POSTGRES = implementations("postgres", postgres)
IMPLEMENTATIONS = SQLITE | POSTGRES
