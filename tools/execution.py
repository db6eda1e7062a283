"""Work: run a task, look at it, cancel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from mcp_pools.models import Cancelled, Task
from mcp_pools.tool import tool

if TYPE_CHECKING:
    from mcp_pools.router import Router


@tool(
    title="Run a task",
    effect="write",
    toolset="execution",
    open_world=True,
    flags={"task_type": "-t", "pool": "-p", "strategy": "-s", "timeout": "-T"},
    example="""mcp-pools execute -t compute --payload '{"expression": "6 * 7"}'""",
)
async def pool_execute(
    router: Router,
    task_type: Annotated[str, "What to run, for example analyze, compute, transform or command."],
    payload: Annotated[
        dict[str, Any], "The task's input; resource pools://task-types has each type's schema."
    ],
    pool: Annotated[str | None, "Run it on this pool only; none routes it."] = None,
    strategy: Annotated[
        Literal["least_loaded", "round_robin", "random", "affinity"] | None, "How to choose the pool."
    ] = None,
    selector: Annotated[dict[str, str] | None, "Labels (or region) the pool must have."] = None,
    affinity_key: Annotated[str | None, "Tasks with the same key go to the same pool."] = None,
    timeout: Annotated[float, Gt(0), "Seconds of running, for each attempt."] = 300.0,
    priority: Annotated[
        int, Ge(-100), Le(100), "Higher runs earlier; each step is worth 30 s of waiting."
    ] = 0,
    max_attempts: Annotated[int, Ge(1), Le(100), "Runs at most, when one fails."] = 1,
    idempotency_key: Annotated[
        str | None, "The same key returns the first task instead of a second one."
    ] = None,
    wait: Annotated[bool, "Wait for the result; false returns as soon as the task is safe on disk."] = True,
) -> Task:
    """Run one task on a worker and return it with its result. The task is durable: it
    survives this connection, this client and a crash.

    A long task comes back unfinished with `next`, the call that goes on waiting. A task
    that ran and failed is returned as a task whose `error` says why; only a call that
    could not be accepted is an error. Do not repeat a call because its task failed.
    """
    return await router.execute(
        task_type=task_type,
        payload=payload,
        pool=pool,
        strategy=strategy,
        selector=selector,
        affinity_key=affinity_key,
        timeout=timeout,
        priority=priority,
        max_attempts=max_attempts,
        idempotency_key=idempotency_key,
        wait=wait,
    )


@tool(
    title="Look at a task",
    effect="read",
    toolset="execution",
    positional=("task_id",),
    example="mcp-pools task t_0123 --wait-seconds 30",
)
async def pool_task(
    router: Router,
    task_id: Annotated[str, "The task's id."],
    wait_seconds: Annotated[float, Ge(0), "Wait up to this long for the task to finish."] = 0.0,
    select: Annotated[str | None, "JMESPath over the result: return only this part."] = None,
    offset: Annotated[int, Ge(0), "Skip this many items of a list, or characters of a text."] = 0,
    limit: Annotated[int | None, Ge(1), "Return at most this many items or characters."] = None,
    output: Annotated[bool, "Return what the task printed as well."] = False,
) -> Task:
    """Look at a task: its status, why it waits or failed, and its result, whole or in part."""
    return await router.task(
        task_id, wait_seconds=wait_seconds, select=select, offset=offset, limit=limit, output=output
    )


@tool(
    title="Cancel a task",
    effect="destroy",
    toolset="execution",
    idempotent=True,
    positional=("task_id",),
    example="mcp-pools cancel t_0123",
)
async def pool_cancel(
    router: Router, task_id: Annotated[str, "The id of a task or of a distribution."]
) -> Cancelled:
    """Cancel a task. What runs is stopped with everything it started, before this returns."""
    return await router.cancel(task_id)
