"""The contract of a way to an MCP server: how a connection to it is opened, and how far a call came.

Implementations: `mcp_pools/ways/`. A call is bounded and judged by `mcp_pools.line`, which knows
nothing of addresses or programs; what happens to it on its way is written into `CALL`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from mcp import Client

MOST_ANSWER_BYTES: Final = 136 << 20
"""A result of 64 MiB, escaped as text in JSON."""
DEPTH_HEADER: Final = "X-MCP-Pools-Depth"
"""Says over HTTP how many tasks deep a request is."""
DEPTH_META: Final = "mcp-pools/depth"
"""Says the same in the `_meta` of a request that comes over a pipe."""


@dataclass(slots=True)
class Call:
    """One request on its way: how deep it is, and how far it came."""

    depth: int = 0
    sent: bool = False
    """The peer may have got it."""
    status: int = 0
    """Of the HTTP response; over a pipe 200 as soon as it is written."""
    why: str = "it does not answer"

    def turned_away(self) -> str:
        """Why there is no answer, in our words."""
        if self.status in (401, 403):
            return f"it asks for credentials (HTTP {self.status})"
        return f"{self.why} (HTTP {self.status})" if self.status >= 300 else self.why


CALL: ContextVar[Call | None] = ContextVar("mcp_pools_call", default=None)
"""The call that whatever is sent now belongs to."""


class Way(Protocol):
    """A way to one server."""

    where: str
    """The server in messages of ours: its URL, or its program."""
    opening_seconds: float
    """How long opening a connection may take."""

    def opened(self, ended: Callable[[], None]) -> AbstractAsyncContextManager[Client]:
        """A connection, for as long as the block lasts; `ended` is called when it ends before that.

        Raises what it likes; `CALL` then says how far it came.
        """
