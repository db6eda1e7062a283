"""The pools themselves: list, look at, register, scale, close, and discover what could be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from mcp_pools.errors import PoolsError
from mcp_pools.models import Discovered, Pool, PoolDetail, PoolList, Rebalanced
from mcp_pools.questions import closing, registering
from mcp_pools.tool import tool

if TYPE_CHECKING:
    from mcp_pools.router import Router

Name = Annotated[str, "The pool's name."]

TRUSTED = (
    *("pod_template", "service_account", "python", "context", "result_volume", "oauth", "tools"),
    *("config", "network_from"),
)
"""Options that say as whom and how work runs elsewhere: for people and the configuration alone."""


@tool(title="List pools", effect="read", toolset="pools", example="mcp-pools list")
async def pool_list(
    router: Router,
    active_only: Annotated[bool, "Leave out pools that are failed, draining or closed."] = False,
    by_type: Annotated[str | None, "Only pools of this type, for example local."] = None,
) -> PoolList:
    """List the worker pools: status, workers, queue and what each can run.

    Start here to see where work can go; `pool_get` shows one pool with its workers.
    """
    return router.registry.list(active_only=active_only, by_type=by_type)


@tool(
    title="Show a pool", effect="read", toolset="pools", positional=("name",), example="mcp-pools get local"
)
async def pool_get(router: Router, name: Name) -> PoolDetail:
    """Show one pool: each worker, and how long its tasks took."""
    return await router.registry.detail(name, router.caller)


@tool(
    title="Register a pool",
    effect="write",
    toolset="pools",
    idempotent=True,
    open_world=True,
    flags={"name": "-n", "type": "-t", "min_workers": "-m", "max_workers": "-w", "region": "-r"},
    example="mcp-pools register --name bench --type local --max-workers 2",
    question=registering,
)
async def pool_register(
    router: Router,
    name: Annotated[str, "A new name: letters, digits, '-', '_' and '.'."],
    type: Annotated[
        str, "local (worker processes on this machine), session-buddy, kubernetes, mcp, dask, ray."
    ],
    min_workers: Annotated[int | None, Ge(0), "Workers kept even when idle."] = None,
    max_workers: Annotated[int | None, Ge(1), "Workers at most."] = None,
    worker_type: Annotated[
        str, "python, or the agent that runs prompts: terminal-claude, terminal-qwen, your own."
    ] = "python",
    endpoint: Annotated[str | None, "Where the pool is, for pools that are elsewhere."] = None,
    region: Annotated[str, "A label for routing by place."] = "default",
    namespace: Annotated[str, "Kubernetes namespace."] = "mcp-pools",
    container_image: Annotated[str, "Kubernetes image."] = "python:3.13-slim",
    labels: Annotated[dict[str, str] | None, "Labels that a selector can ask for."] = None,
    options: Annotated[dict[str, Any] | None, "More settings of the pool's type."] = None,
) -> Pool:
    """Register a pool of workers and open it for work; its workers start when they are needed.

    Registering the same definition again changes nothing; another definition under a
    name in use is a conflict.
    """
    asked = [option for option in TRUSTED if option in (options or {})]
    if asked and router.caller.kind == "mcp":
        message = f"The option {asked[0]!r} is not for MCP clients to set."
        raise PoolsError("not_allowed", message, "Define the pool under `pools` in the configuration.")
    return await router.register(
        name=name,
        type=type,
        min_workers=min_workers,
        max_workers=max_workers,
        worker_type=worker_type,
        endpoint=endpoint,
        region=region,
        namespace=namespace,
        container_image=container_image,
        labels=labels or {},
        options=options or {},
    )


@tool(
    title="Scale a pool",
    effect="write",
    toolset="pools",
    idempotent=True,
    positional=("name",),
    flags={"workers": "-w"},
    example="mcp-pools scale local --workers 4",
)
async def pool_scale(
    router: Router,
    name: Name,
    workers: Annotated[
        Annotated[int, Ge(0)] | Literal["auto"],
        "Fix the pool at this many workers; auto returns it to min-max.",
    ],
) -> Pool:
    """Fix a pool's number of workers, or let it follow its queue again.

    Busy workers above the new size finish their task first.
    """
    return await router.scale(name, None if workers == "auto" else workers)


@tool(
    title="Close a pool",
    effect="destroy",
    toolset="pools",
    positional=("name",),
    example="mcp-pools close bench --drain-timeout 5",
    question=closing,
)
async def pool_close(
    router: Router,
    name: Name,
    force: Annotated[bool, "Cancel what runs instead of waiting for it."] = False,
    drain_timeout: Annotated[
        float, Ge(0), "Seconds to wait for running tasks before they are cancelled."
    ] = 30.0,
) -> Pool:
    """Close a pool for good: running tasks finish or are cancelled, queued ones move to other pools.

    Queued tasks that no other pool may run are cancelled.
    """
    return await router.close(name, force=force, drain_timeout=drain_timeout)


@tool(
    title="Rebalance waiting tasks",
    effect="write",
    toolset="pools",
    flags={"strategy": "-s"},
    example="mcp-pools rebalance --dry-run",
)
async def pool_rebalance(
    router: Router,
    strategy: Annotated[
        Literal["least_loaded", "round_robin", "random"], "How to spread what waits."
    ] = "least_loaded",
    dry_run: Annotated[bool, "Only say what would move."] = False,
) -> Rebalanced:
    """Spread waiting tasks anew over the pools. What is pinned, bound by affinity or runs stays."""
    return await router.rebalance(strategy=strategy, dry_run=dry_run)


@tool(
    title="Find pools",
    effect="write",
    toolset="pools",
    idempotent=True,
    open_world=True,
    example="mcp-pools discover",
)
async def pool_discover(
    router: Router,
    from_ecosystem: Annotated[bool, "False: skip the ecosystem list."] = True,
    auto_register: Annotated[bool, "Register what answers."] = False,
) -> Discovered:
    """Find what could be a pool: configured, in MCP clients, Kubernetes, Dask, Ray. Starts nothing."""
    return await router.discover(from_ecosystem=from_ecosystem, auto_register=auto_register)
