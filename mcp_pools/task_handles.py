"""Our own tasks and distributions as tasks of the MCP extension.

The id is the same everywhere: `pool_task`, `tasks/get`, another connection, the next owner.
Looking goes through `pool_task` and cancelling through `pool_cancel`, so whatever they check,
shorten or refuse holds here, too. What is looked for is in the store before its handle is given
out.

| a task or distribution is | the extension says | with |
|---|---|---|
| queued, running | working | what it waits for, or how far it is, as `statusMessage` |
| completed | completed | the call's result: the Task or Distribution |
| failed, timed_out | completed | the same: what was accepted is no error, also when it failed |
| cancelled | cancelled | nothing, says the protocol; `pool_task` has the rest |

`failed` would mean that the call was refused, and a refusal never makes a task; nothing asks
for input once it runs, so `input_required` does not occur and `tasks/update` has nothing to take.
`ttlMs` is null until the end, for what has not ended is not forgotten; then it lasts for
`retention_days`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams

from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller
from mcp_pools.router import Router
from mcp_pools.states import TERMINAL
from mcp_pools.tasks_extension import POLL_INTERVAL_MS, Context, Status, TaskState, takes_tasks
from mcp_pools.tool import TOOLS, Tool

Answer = Callable[[Tool, Router, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Runs a tool: the `CallToolResult` in wire form, a refusal in it."""

STARTERS: Final = ("pool_execute", "pool_distribute")
"""The tools whose work may outlast its call."""
_LOOKING: Final = frozenset({*STARTERS, "pool_task"})
"""Who was offered one of these may look at tasks."""


def may_become_task(ctx: Context, params: CallToolRequestParams) -> bool:
    """Whether a call may be answered with a handle: its client takes one, and meant to wait."""
    waits = (params.arguments or {}).get("wait", True) is not False
    return params.name in STARTERS and waits and takes_tasks(ctx)


def hurried(router: Router) -> Caller:
    """The router's caller, with patience for the grace that work gets before its handle is given out."""
    patience = router.caller.patience
    grace = router.settings.mcp_task_grace_seconds
    return replace(router.caller, patience=grace if patience is None else min(grace, patience))


def handle_or_result(router: Router, outcome: dict[str, Any]) -> dict[str, Any]:
    """The handle of what has not ended; what has ended, was refused or asks a question stays as it is."""
    task = outcome.get("structuredContent")
    if outcome.get("isError") or not task or task["status"] in TERMINAL:
        return outcome
    return state_of(task, outcome, router.settings.retention_days).handle()


def state_of(task: Mapping[str, Any], outcome: dict[str, Any], retention_days: float) -> TaskState:
    """A Task or Distribution, as JSON values, in the extension's terms; `outcome` is what a call returns."""
    status: Status = "completed" if task["status"] in TERMINAL else "working"
    if task["status"] == "cancelled":
        status = "cancelled"
    ended = task["finished_at"]
    return TaskState(
        task_id=task.get("task_id") or task["distribution_id"],
        status=status,
        created_at=task["created_at"],
        updated_at=ended or task.get("started_at") or task["created_at"],
        message=_message(task),
        ttl_ms=None if ended is None else _lifetime(task["created_at"], ended, retention_days),
        result=outcome if status == "completed" else None,
    )


def _lifetime(created: str, ended: str, retention_days: float) -> int:
    lived = datetime.fromisoformat(ended) - datetime.fromisoformat(created)
    return int(lived.total_seconds() * 1000 + retention_days * 86_400_000)


def _message(task: Mapping[str, Any]) -> str:
    """How it is, in words and codes of our own: a client may show this to its model."""
    said = str(task["status"])
    if (waiting := task.get("waiting")) is not None:
        said += f", waiting: {waiting['code']}"
    if (error := task.get("error")) is not None:
        said += f": {error['code']}"
    if "total" in task:
        return f"{said}, {task['succeeded'] + task['failed'] + task['cancelled']} of {task['total']} items"
    progress = task.get("progress")
    if progress is None or progress["done"] is None:
        return said
    total = "" if progress["total"] is None else f" of {progress['total']:g}"
    return f"{said}, {progress['done']:g}{total} done"


class PoolTasks:
    """The keeper of the extension's tasks: the router behind each connection."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def find(self, ctx: Context, task_id: str) -> TaskState | None:
        """The task or distribution as it stands."""
        return await self._look(ctx, task_id)

    async def update(self, ctx: Context, task_id: str, answers: Mapping[str, Any]) -> bool:
        """Nothing asks for input, so no answer has a question: the id alone is looked at."""
        return await self._look(ctx, task_id) is not None

    async def cancel(self, ctx: Context, task_id: str) -> bool:
        """Cancel it as `pool_cancel` does; raises `MCPError` where that is switched off.

        What takes longer to stop than a call may wait is answered before: the intent is kept.
        """
        if "pool_cancel" not in ctx.lifespan_context.tools:
            raise MCPError(
                INVALID_PARAMS, "Cancelling is switched off on this connection: it has no pool_cancel."
            )
        router = ctx.lifespan_context.router.bound()
        try:
            with anyio.move_on_after(router.caller.patience):
                await TOOLS["pool_cancel"].invoke(router, {"task_id": task_id})
        except PoolsError as refused:
            return _is_there(refused.code, str(refused))
        return True

    async def follow(self, ctx: Context, task_id: str) -> AsyncIterator[TaskState]:
        """The task when it has changed: its end at once, anything before within the poll interval."""
        told = await self._look(ctx, task_id)
        if told is None:
            return
        yield told
        while not told.over:
            state = await self._look(ctx, task_id, POLL_INTERVAL_MS / 1000)
            if state is None:
                return
            if state != told:
                told = state
                yield told

    async def _look(self, ctx: Context, task_id: str, wait_seconds: float = 0.0) -> TaskState | None:
        session = ctx.lifespan_context
        if not _LOOKING & session.tools.keys():
            raise MCPError(INVALID_PARAMS, "Looking at tasks is switched off on this connection.")
        asked = {"task_id": task_id, "wait_seconds": wait_seconds}
        outcome = await self._answer(TOOLS["pool_task"], session.router.bound(), asked)
        content: dict[str, Any] = outcome.get("structuredContent", {})
        if outcome["isError"]:
            error = content.get("error", {"code": None})
            _is_there(error["code"], outcome["content"][0]["text"])
            return None
        return state_of(content, outcome, session.router.settings.retention_days)


def _is_there(code: str | None, said: str) -> bool:
    """`False` for the refusal that says it is not; any other one is raised as it was said."""
    if code == "unknown_task":
        return False
    raise MCPError(INTERNAL_ERROR if code is None else INVALID_PARAMS, said)
