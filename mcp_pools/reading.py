"""Reading while nobody owns the home: a router over the store alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from mcp_pools import plugins
from mcp_pools.registry import Registry
from mcp_pools.router import Router
from mcp_pools.settings import Settings, load
from mcp_pools.stores import needs_owner


def read_only(home: Path, config: str | None) -> AbstractAsyncContextManager[Router] | None:
    """A router over the store alone, for reading while nobody owns the home.

    `None` when the home holds unfinished tasks or needs migration: it then needs an owner.
    """
    settings = load(config_file=config, home=home)
    return None if needs_owner(settings) else _reading(settings)


@asynccontextmanager
async def _reading(settings: Settings) -> AsyncIterator[Router]:
    names: dict[str, Any] = dict.fromkeys(plugins.task_type_names(settings))  # nothing runs here
    registry = Registry(settings, names)
    async with registry.read():
        yield Router(settings, registry)
