"""How the pools are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp_pools.models import HealthReport, Stats
from mcp_pools.tool import tool

if TYPE_CHECKING:
    from mcp_pools.router import Router


@tool(
    title="Check health",
    effect="read",
    toolset="monitoring",
    flags={"pool": "-p"},
    example="mcp-pools health",
)
async def pool_health(
    router: Router,
    pool: Annotated[str | None, "Check only this pool; none checks all of them at once."] = None,
) -> HealthReport:
    """Check whether the pools are well, all at the same time; each answer says why when one is not."""
    return await router.registry.health(pool)


@tool(title="Show statistics", effect="read", toolset="monitoring", example="mcp-pools stats --by-type")
async def pool_stats(router: Router, by_type: Annotated[bool, "Also for each task type."] = False) -> Stats:
    """Count the tasks that are kept, in all and for each pool: statuses, success rate, seconds of running."""
    return await router.history.stats(by_type)
