"""What leaves a home by itself, if somebody asked for it: spans to a collector, events to a URL,
finished tasks to memories.

None is imported before it is wanted.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from mcp_pools import tracing

if TYPE_CHECKING:
    from mcp_pools.settings import Settings
    from mcp_pools.store import Store


@asynccontextmanager
async def spans_exported() -> AsyncIterator[None]:
    """Export the spans of this block if OpenTelemetry's variables ask for it; flushed at its end."""
    if not tracing.wanted():
        yield
        return
    otlp = await asyncio.to_thread(importlib.import_module, "mcp_pools.otlp")
    async with otlp.exporting():
        yield


@asynccontextmanager
async def news_sent(settings: Settings, store: Store) -> AsyncIterator[None]:
    """Send what happens in this block, and what is left from before, to whoever is configured."""
    async with _events_sent(settings, store), _memories_kept(settings, store):
        yield


def _memories_kept(settings: Settings, store: Store) -> AbstractAsyncContextManager[None]:
    """Sync what ends in this block to the configured memories, if there is one."""
    if not {"session_buddy_pool_url", "akosha_url"} & settings.model_fields_set:
        return nullcontext()
    from mcp_pools.memories import configured
    from mcp_pools.remembering import remembering

    return remembering(configured(settings), store, settings.home, settings.memory_sync_interval)


def _events_sent(settings: Settings, store: Store) -> AbstractAsyncContextManager[None]:
    """Send the events of this block, and those left from before, to `events_url`, if there is one."""
    if settings.events_url is None:
        return nullcontext()
    from mcp_pools.cloud_events import sending

    return sending(settings.events_url, store, settings.home)
