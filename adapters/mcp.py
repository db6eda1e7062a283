"""Pool type `mcp`: another MCP server, known by the tools that it offers.

Another mcp-pools, Session-Buddy, a server that spawns workers, or any server whose tools the option
`tools` maps task types to. What becomes of a task there depends on which it is: see the modules of
`mcp_pools.profiles`.
"""

from __future__ import annotations

from mcp_pools.far_pool import FarPool
from mcp_pools.profiles import KNOWN
from mcp_pools.profiles.mapping import Mapping


class McpPool(FarPool):
    """A pool on another MCP server (`mcp_pools.adapter.Adapter`)."""

    profiles = (Mapping, *KNOWN)
