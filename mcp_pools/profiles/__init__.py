"""The kinds of MCP servers that a pool may stand for (`mcp_pools.profile`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mcp_pools.profile import Profile
from mcp_pools.profiles.federation import Federation
from mcp_pools.profiles.session_buddy import SessionBuddy
from mcp_pools.profiles.workers import Workers

KNOWN: Final[tuple[type[Profile[Any]], ...]] = (Federation, SessionBuddy, Workers)
"""Those that are known by their tools, in the order in which they are tried."""


def known_by(offered: Iterable[str]) -> type[Profile[Any]] | None:
    """The profile of a server that offers these tools; `None`: only a mapping could use it."""
    names = frozenset(offered)
    return next((kind for kind in KNOWN if kind.tools <= names), None)
