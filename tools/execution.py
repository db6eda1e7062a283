"""Work: run a task, look at it, cancel it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from mcp_pools.distribution import OnError, Strategy
from mcp_pools.models import Cancelled, Distribution, Task
from mcp_pools.questions import cancelling
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
    title="Distribute work",
    effect="write",
    toolset="execution",
    open_world=True,
    flags={"task_type": "-t", "strategy": "-s", "timeout": "-T"},
    example="""mcp-pools distribute -t compute --payload '{"expression": "x ** 2", "items": [1, 2, 3]}' """
    "-s map_reduce",
)
async def pool_distribute(
    router: Router,
    task_type: Annotated[str, "What to run on each item."],
    payload: Annotated[
        dict[str, Any],
        "As for pool_execute, with the work list under items; {item} and {item.key} stand for it.",
    ],
    strategy: Annotated[
        Strategy, "Where the items go; map_reduce folds, broadcast runs once on each pool."
    ] = ("round_robin"),
    pools: Annotated[list[str] | None, "Only these pools."] = None,
    pool_filter: Annotated[str | None, "Only pools of this type."] = None,
    selector: Annotated[dict[str, str] | None, "Labels (or region) the pools must have."] = None,
    reduce: Annotated[
        str, "How results become reduced: concat, sum, count, min, max, merge, or a task type."
    ] = "concat",
    chunk_size: Annotated[int | None, Ge(1), "Items of one task, for types that take items."] = None,
    on_error: Annotated[OnError, "collect keeps what succeeds; fail_fast cancels the rest."] = "collect",
    timeout: Annotated[float, Gt(0), "Seconds of running, for each attempt of a task."] = 300.0,
    priority: Annotated[int, Ge(-100), Le(100), "Higher runs earlier."] = 0,
    max_attempts: Annotated[int, Ge(1), Le(100), "Runs at most, when an item fails."] = 1,
    idempotency_key: Annotated[str | None, "The same key returns the first distribution."] = None,
    wait: Annotated[bool, "Wait for the results."] = True,
) -> Distribution:
    """Run one task type over many items on several pools, and return each item's outcome in order.

    What fails does not stop the rest: results has each failure in its place, so do not repeat the
    whole. A long one comes back unfinished with `next`, the call that goes on waiting.
    """
    return await router.distribute(
        task_type=task_type,
        payload=payload,
        strategy=strategy,
        pools=pools,
        pool_filter=pool_filter,
        selector=selector,
        reduce=reduce,
        chunk_size=chunk_size,
        on_error=on_error,
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
    task_id: Annotated[str, "The id of a task or of a distribution."],
    wait_seconds: Annotated[float, Ge(0), "Wait up to this long for the task to finish."] = 0.0,
    select: Annotated[str | None, "JMESPath over the result: return only this part."] = None,
    offset: Annotated[int, Ge(0), "Skip this many items of a list, or characters of a text."] = 0,
    limit: Annotated[int | None, Ge(1), "Return at most this many items or characters."] = None,
    output: Annotated[bool, "Return what the task printed as well."] = False,
) -> Task | Distribution:
    """Look at a task or a distribution: its status, why it waits or failed, its result, whole or in part."""
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
    question=cancelling,
)
async def pool_cancel(
    router: Router, task_id: Annotated[str, "The id of a task or of a distribution."]
) -> Cancelled:
    """Cancel a task or a distribution: what runs is stopped with all it started before this returns."""
    return await router.cancel(task_id)
