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


def sqlite_landing(home: Path) -> Unlucky:
    """SQLite whose commits land, while the caller often sees a timeout."""
    return Unlucky(sqlite(home), lands=True)


def sqlite_losing(home: Path) -> Unlucky:
    """SQLite whose commits often fail before they land."""
    return Unlucky(sqlite(home), lands=False)


IMPLEMENTATIONS: dict[str, Make] = {
    "sqlite": sqlite,
    "sqlite, landed but timed out": sqlite_landing,
    "sqlite, failed before it landed": sqlite_losing,
}
