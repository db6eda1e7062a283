"""The memories that are configured: which servers they are, and how to reach them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcp_pools.memories.akosha import Akosha
from mcp_pools.memories.session_buddy import SessionBuddy
from mcp_pools.memory import Memory
from mcp_pools.secret import read_secret

if TYPE_CHECKING:
    from mcp_pools.line import Line
    from mcp_pools.settings import Settings

_KEYS: Final[dict[str, tuple[str, str, Callable[[], Memory]]]] = {
    "session-buddy": ("session_buddy_pool_url", "session_buddy_token_secret", SessionBuddy),
    "akosha": ("akosha_url", "akosha_token_secret", Akosha),
}
"""Of each memory, by name: the keys of its address and of its token's secret, and its kind."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A memory's server. `token` reads its bearer token, and raises `PoolsError`; `None`: it wants none."""

    name: str
    url: str
    memory: Memory
    token: Callable[[], str] | None

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[Line]:
        """A line to the server for as long as the block lasts; calls on it say why when there is none."""
        line = await asyncio.to_thread(self._line)
        async with line.kept():
            await line.tried()
            yield line

    def _line(self) -> Line:
        """A line that is not open yet. What it imports takes half a second."""
        from mcp_pools.bearer import NoBearer, SecretBearer
        from mcp_pools.line import Line
        from mcp_pools.ways.over_http import OverHttp

        bearer = NoBearer() if self.token is None else SecretBearer(self.token)
        return Line(OverHttp(self.url, bearer))


def configured(settings: Settings) -> list[Destination]:
    """The memories whose address somebody gave; none when `memory_aggregation_enabled` is false."""
    if not settings.memory_aggregation_enabled:
        return []
    given = settings.model_fields_set
    return [
        Destination(name, getattr(settings, address), kind(), _token(settings, getattr(settings, secret)))
        for name, (address, secret, kind) in _KEYS.items()
        if address in given
    ]


def _token(settings: Settings, name: str | None) -> Callable[[], str] | None:
    if name is None:
        return None
    sources = settings.secrets.items()
    known = {key: each.model_dump(exclude_none=True, mode="json") for key, each in sources}
    return lambda: read_secret(name, known)
