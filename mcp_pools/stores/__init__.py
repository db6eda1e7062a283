"""Where durable state is kept: one module a database, and which one a home's is.

A database's module is imported when it is the one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from mcp_pools.settings import Settings
    from mcp_pools.store import Store


def store_of(settings: Settings) -> Store:
    """The store that the settings name, not open yet; raises `PoolsError` when it lacks its library."""
    if settings.store is None:
        from mcp_pools.stores.sqlite import SqliteStore

        return SqliteStore(settings.home / "pools.db", sync=settings.durable_sync)
    require_psycopg()
    from mcp_pools.stores.postgres import PostgresStore

    lease = settings.store_lease_seconds
    return PostgresStore(settings.store, settings.home, sync=settings.durable_sync, lease=lease)


def needs_owner(settings: Settings) -> bool:
    """Whether a store holds work that has not ended, or must be migrated before it can be read.

    Raises `PoolsError` when it cannot be looked at.
    """
    if settings.store is None:
        from mcp_pools.stores import sqlite

        return sqlite.needs_owner(settings.home / "pools.db")
    require_psycopg()
    from mcp_pools.stores import postgres

    return postgres.needs_owner(settings.store, settings.home)


def contents(url: str) -> str:
    """What a database holds, in a few words; raises `PoolsError` when it cannot be read."""
    require_psycopg()
    from mcp_pools.stores import postgres

    return postgres.contents(url)


def require_psycopg() -> None:
    """Raises `PoolsError` `unsupported` without the libraries that PostgreSQL needs."""
    try:
        import psycopg  # noqa: F401
        import psycopg_pool  # noqa: F401
    except ImportError as missing:  # also of a psycopg that finds no libpq
        raise PoolsError(
            "unsupported",
            f"A store in PostgreSQL needs psycopg, which cannot be imported: {missing.name or 'no libpq'}.",
            "Run: pip install 'mcp-pools[postgres]'",
        ) from None
