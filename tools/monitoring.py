"""How the pools are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from mcp_pools.models import HealthReport, Stats, Watched
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


@tool(
    title="Watch what happens",
    effect="read",
    toolset="monitoring",
    example="mcp-pools watch --wait-seconds 30",
)
async def pool_watch(
    router: Router,
    cursor: Annotated[str | None, "The last answer's cursor; none gives the latest 50 events."] = None,
    wait_seconds: Annotated[float, Ge(0), Le(30), "Wait up to this long for an event."] = 0.0,
) -> Watched:
    """Follow what happens to tasks and pools: the events behind a cursor, each once, oldest first, at
    most 200, and the pools as they stand now.
    """
    return await router.watch(cursor, wait_seconds)
