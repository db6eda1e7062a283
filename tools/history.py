"""What has been: find tasks again."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from mcp_pools.models import RecallPage, Status, TaskPage
from mcp_pools.tool import tool

if TYPE_CHECKING:
    from mcp_pools.router import Router


@tool(
    title="Search tasks",
    effect="read",
    toolset="execution",
    positional=("query",),
    flags={"pool": "-p", "task_type": "-t"},
    example="mcp-pools search timeout --status failed",
)
async def pool_search(
    router: Router,
    query: Annotated[str, "Words that a task holds; none lists the newest."] = "",
    pool: Annotated[str | None, "Only this pool's."] = None,
    task_type: Annotated[str | None, "Only this type."] = None,
    status: Annotated[Status | None, "Only with this status."] = None,
    since: Annotated[datetime | None, "Only those created then or later (RFC 3339)."] = None,
    limit: Annotated[int, Ge(1), Le(100), "Tasks at most."] = 20,
    cursor: Annotated[str | None, "The last answer's next_cursor; all else the same."] = None,
) -> TaskPage | RecallPage:
    """Find tasks, newest first, by words in their type, payload, output, error and result; all
    words must be there, the last may be a beginning. Values under headers, env and stdin are not
    searched. Longer results are left out: pool_task has them.
    """
    return await router.history.search(
        query=query,
        pool=pool,
        task_type=task_type,
        status=status,
        since=since,
        limit=limit,
        cursor=cursor,
        caller=router.caller.narrowed,
    )
