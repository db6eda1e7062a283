"""The SDK's client with the tasks extension, which the SDK itself does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import anyio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp.client.session import ClientSession
from mcp_types import (
    CallToolResult,
    Request,
    RequestParams,
    Result,
    SubscriptionFilter,
    SubscriptionsListenRequest,
    SubscriptionsListenRequestParams,
)
from pydantic import ConfigDict, RootModel, TypeAdapter

from mcp_pools.tasks_extension import EXTENSION

ANYTHING: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class Handle(Result):
    """What a call returns instead of its result."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int
    status_message: str | None = None


class Params(RequestParams):
    """Any parameters, as they go over the wire."""

    model_config = ConfigDict(extra="allow")


class TaskRequest(Request[Params, str]):
    """`tasks/get`, `tasks/update` and `tasks/cancel`."""

    name_param: ClassVar[str | None] = "taskId"


class TaskNews(RootModel[dict[str, Any]]):
    """The parameters of `notifications/tasks`."""


class Tasks(ClientExtension):
    """Finishes every task by polling, and keeps what it is told of tasks in `news`."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self.news: list[dict[str, Any]] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Handle, resolve=self._finish)]

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        return [NotificationBinding(method="notifications/tasks", params_type=TaskNews, handler=self._told)]

    async def _finish(self, handle: Handle, context: ClaimContext) -> CallToolResult:
        self.handles.append(handle)
        task = await ended(context.session, handle.task_id)
        return CallToolResult.model_validate(task["result"])

    async def _told(self, params: TaskNews) -> None:
        self.news.append(params.root)


async def ask(session: ClientSession, method: str, task_id: str, **more: Any) -> dict[str, Any]:
    """One of the extension's methods."""
    params = Params.model_validate({"taskId": task_id, **more})
    return await session.send_request(TaskRequest(method=method, params=params), ANYTHING)


async def ended(session: ClientSession, task_id: str) -> dict[str, Any]:
    """The task once it has ended, by polling."""
    with anyio.fail_after(20):
        while (task := await ask(session, "tasks/get", task_id))["status"] == "working":
            await anyio.sleep(min(task["pollIntervalMs"], 20) / 1000)
    return task


async def start(client: Client, tool: str, arguments: dict[str, Any]) -> Handle:
    """Call a tool whose answer is a task."""
    handle = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(handle, Handle), handle
    return handle


async def listen(session: ClientSession, *task_ids: str, **others: Any) -> dict[str, Any]:
    """Listen to tasks until the server ends the stream."""
    wanted = SubscriptionFilter.model_validate({"taskIds": task_ids, **others})
    request = SubscriptionsListenRequest(params=SubscriptionsListenRequestParams(notifications=wanted))
    return await session.send_request(request, ANYTHING)
