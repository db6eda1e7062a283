"""Events as log messages, for clients of the 2025 era that ask for them with `logging/setLevel`.

| level | events |
|---|---|
| error | a pool is unhealthy |
| warning | a pool is degraded; a task or distribution failed, timed out or was interrupted |
| info | everything else that changes a pool, ends a task or distribution, or begins one |
| debug | what happens in between |

Only what the caller may see is told. The 2026 era has no such request: it watches resources.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from mcp.server.context import ServerRequestContext
from mcp_types import (
    EmptyResult,
    LoggingLevel,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SetLevelRequestParams,
)
from pydantic import TypeAdapter

from mcp_pools.models import Event
from mcp_pools.present import event_view
from mcp_pools.subscriptions import last_event, of_connection

if TYPE_CHECKING:
    from mcp_pools.server import Session
    from mcp_pools.store import EventRow

log = logging.getLogger(__name__)

LEVELS: Final[tuple[LoggingLevel, ...]] = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)
_LEVEL_OF: Final[dict[str, LoggingLevel]] = {
    "unhealthy": "error",
    "degraded": "warning",
    "failed": "warning",
    "timed_out": "warning",
    "interrupted": "warning",
    "started": "debug",
    "progress": "debug",
    "moved": "debug",
}
_ROWS: Final = 200
_EVENT: Final = TypeAdapter(Event)


def level_of(event: EventRow) -> LoggingLevel:
    """How much an event matters, by the last word of its kind."""
    return _LEVEL_OF.get(event.kind.rpartition(".")[2], "info")


class _Messages:
    """What one connection is told."""

    def __init__(self) -> None:
        self.level: LoggingLevel = "info"
        self._task: asyncio.Task[None] | None = None

    def start(self, ctx: ServerRequestContext[Session], after: int) -> None:
        """Tell the client from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._tell(ctx, after))

    async def _tell(self, ctx: ServerRequestContext[Session], after: int) -> None:
        router = ctx.lifespan_context.router
        store = router.registry.store
        try:
            while True:
                woken = store.next_commit()  # before looking: what comes in between is not missed
                while rows := await store.events(after, _ROWS, router.caller.narrowed):
                    after = rows[-1][0]
                    for cursor, row in rows:
                        await self._send(ctx, cursor, row)
                await asyncio.wait({woken})
        except Exception:
            log.exception("a client is not told of events any more")

    async def _send(self, ctx: ServerRequestContext[Session], cursor: int, row: EventRow) -> None:
        level = level_of(row)
        if LEVELS.index(level) < LEVELS.index(self.level):
            return
        data = _EVENT.dump_python(event_view(cursor, row), mode="json")
        params = LoggingMessageNotificationParams(level=level, logger="mcp-pools", data=data)
        await ctx.session.send_notification(LoggingMessageNotification(params=params))

    async def end(self) -> None:
        """The connection is over."""
        if self._task is not None:
            self._task.cancel()


async def set_level(ctx: ServerRequestContext[Session], params: SetLevelRequestParams) -> EmptyResult:
    """Tell this connection of events at this level and above."""
    messages = of_connection(ctx, "mcp_pools.event_messages", _Messages)
    messages.level = params.level
    messages.start(ctx, await last_event(ctx.lifespan_context.router))
    return EmptyResult()
