"""Pool type `session-buddy`: a pool of three workers of a Session-Buddy server, which takes prompts.

See `mcp_pools.profiles.session_buddy`.
"""

from __future__ import annotations

from mcp_pools.far_pool import FarPool
from mcp_pools.profiles.session_buddy import SessionBuddy


class SessionBuddyPool(FarPool):
    """A pool of Session-Buddy (`mcp_pools.adapter.Adapter`)."""

    profiles = (SessionBuddy,)
