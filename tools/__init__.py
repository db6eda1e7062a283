"""The tools, and nothing else: each is one function, for MCP, the console and Python."""

from mcp_pools.tools.execution import pool_cancel, pool_distribute, pool_execute, pool_task
from mcp_pools.tools.history import pool_search
from mcp_pools.tools.monitoring import pool_health, pool_stats, pool_watch
from mcp_pools.tools.pools import (
    pool_close,
    pool_discover,
    pool_get,
    pool_list,
    pool_rebalance,
    pool_register,
    pool_scale,
)

__all__ = [
    "pool_cancel",
    "pool_close",
    "pool_discover",
    "pool_distribute",
    "pool_execute",
    "pool_get",
    "pool_health",
    "pool_list",
    "pool_rebalance",
    "pool_register",
    "pool_scale",
    "pool_search",
    "pool_stats",
    "pool_task",
    "pool_watch",
]
