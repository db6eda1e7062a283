"""The tasks extension of MCP, `io.modelcontextprotocol/tasks`, for a low-level SDK server.

A client that declares the extension may get a task where it called a tool: a handle by which
it asks for the outcome, whenever and from whichever connection it likes.

    tools/call            the handle, `TaskState.handle()`, when the server chooses so
    tasks/get             the task as it stands; once it ended, the tool's result or the error
    tasks/update          answers to what the task asked of its client
    tasks/cancel          the client does not want it any more
    subscriptions/listen  with `taskIds`: `notifications/tasks` for each change, the end last

Here is the protocol alone: who may call, which headers must agree, what goes over the wire.
What a task is, who may see it and how long it is kept is a `Keeper`'s business:

    TasksExtension(keeper).install(server)

1. Protocol revision 2026-07-28 only: to older clients these methods do not exist.
2. A client that did not declare the extension with this very request gets no task and no
   answer about one, but `MISSING_REQUIRED_CLIENT_CAPABILITY`.
3. A task that is not there and one that this caller may not see are the same `INVALID_PARAMS`.
4. Over HTTP the header `Mcp-Name` must name the task that the body names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, cast

import anyio
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.session import ServerSession
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY, InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    Notification,
    RequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

Context = ServerRequestContext[Any]
Status = Literal["working", "input_required", "completed", "failed", "cancelled"]

EXTENSION: Final = "io.modelcontextprotocol/tasks"
POLL_INTERVAL_MS: Final = 1000
"""How often a client is asked to look, when its keeper says nothing else."""
_MOST_IDS: Final = 256
"""Tasks of one listen stream."""
_MOST_FOLLOWED: Final = 4096
"""Tasks that all listen streams of a server follow at a time."""
_OVER: Final = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task at one moment, in the protocol's terms.

    Times are RFC 3339. `ttl_ms` counts from `created_at`; `None` keeps the task without end.
    `result` belongs to `completed` (what the request would have returned, in wire form; a tool's
    `isError` is a result, too), `error` to `failed` (the JSON-RPC error the request ended with),
    `input_requests` to `input_required` (a key that was used once never comes again).
    """

    task_id: str
    status: Status
    created_at: str
    updated_at: str
    message: str | None = None
    ttl_ms: int | None = None
    poll_interval_ms: int = POLL_INTERVAL_MS
    input_requests: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def over(self) -> bool:
        """Whether the task has ended; such a state never changes."""
        return self.status in _OVER

    def handle(self) -> dict[str, Any]:
        """The `CreateTaskResult`: what a request returns instead of its result."""
        return self._base() | {"resultType": "task"}

    def detailed(self) -> dict[str, Any]:
        """The `DetailedTask`: the answer to `tasks/get`, and what a notification carries."""
        details = {"inputRequests": self.input_requests, "result": self.result, "error": self.error}
        return self._base() | {name: dict(value) for name, value in details.items() if value is not None}

    def _base(self) -> dict[str, Any]:
        said = {} if self.message is None else {"statusMessage": self.message}
        return {
            "taskId": self.task_id,
            "status": self.status,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.updated_at,
            "ttlMs": self.ttl_ms,
            "pollIntervalMs": self.poll_interval_ms,
            **said,
        }


class Keeper(Protocol):
    """Who keeps the tasks. `ctx` says on whose behalf: the keeper judges each call anew."""

    async def find(self, ctx: Context, task_id: str) -> TaskState | None:
        """The task as it stands; `None` when there is none that this caller may see."""

    async def update(self, ctx: Context, task_id: str, answers: Mapping[str, Any]) -> bool:
        """Take answers by the keys of `input_requests`, passing over any other key.

        `False` when there is no such task for this caller.
        """

    async def cancel(self, ctx: Context, task_id: str) -> bool:
        """Note that the task is not wanted any more; one that has ended stays as it is.

        `False` when there is no such task for this caller.
        """

    def follow(self, ctx: Context, task_id: str) -> AsyncIterator[TaskState]:
        """The task as it stands, then each time it has changed; ends behind its end.

        States that follow each other faster than they are taken may be left out, the last never.
        """


class TaskParams(RequestParams):
    """What every `tasks/` method takes: the task's id."""

    task_id: str = Field(alias="taskId")


class UpdateParams(TaskParams):
    """The client's answers; what is under keys that nobody asked for is not even looked at."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


class TaskNotification(Notification[dict[str, Any], Literal["notifications/tasks"]]):
    """A task has changed: the whole of it, as `tasks/get` would answer."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


def takes_tasks(ctx: Context) -> bool:
    """Whether this request may be answered with a task: its era has them and its client declares them."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    declared = ctx.session.client_capabilities
    return declared is not None and EXTENSION in (declared.extensions or {})


def require_tasks(ctx: Context) -> None:
    """Raises `MCPError` unless this request's client declares the extension, in an era that has it."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(METHOD_NOT_FOUND, "Method not found", ctx.method)
    if not takes_tasks(ctx):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"{ctx.method} needs a client that declares the extension {EXTENSION}.",
            {"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
        )


class TasksExtension:
    """The extension's methods on one server."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._followed = 0
        self._listen_to_others: Any = ListenHandler(InMemorySubscriptionBus())

    def install(self, server: Server[Any]) -> None:
        """Serve and advertise the extension. A listen handler of the server's own must be there before."""
        if (present := server.get_request_handler("subscriptions/listen")) is not None:
            self._listen_to_others = present.handler
        server.add_request_handler("tasks/get", TaskParams, self._get)
        server.add_request_handler("tasks/update", UpdateParams, self._update)
        server.add_request_handler("tasks/cancel", TaskParams, self._cancel)
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, self._listen)
        server.extensions[EXTENSION] = {}

    async def _get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        _admit(ctx, params)
        state = await self._keeper.find(ctx, params.task_id)
        if state is None:
            raise unknown_task(params.task_id)
        return state.detailed()

    async def _update(self, ctx: Context, params: UpdateParams) -> HandlerResult:
        _admit(ctx, params)
        if not await self._keeper.update(ctx, params.task_id, params.input_responses):
            raise unknown_task(params.task_id)
        return {}

    async def _cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        _admit(ctx, params)
        if not await self._keeper.cancel(ctx, params.task_id):
            raise unknown_task(params.task_id)
        return {}

    # Listening.

    async def _listen(self, ctx: Context, params: SubscriptionsListenRequestParams) -> HandlerResult:
        wanted = (params.notifications.model_extra or {}).get("taskIds")
        if wanted is None:
            return cast(HandlerResult, await self._listen_to_others(ctx, params))
        require_tasks(ctx)
        ids = _ids(wanted)
        if (beyond := self._followed + len(ids) - _MOST_FOLLOWED) > 0:
            raise MCPError(
                INTERNAL_ERROR,
                f"All streams would follow {beyond} more than {_MOST_FOLLOWED} tasks. Poll with tasks/get.",
            )
        self._followed += len(ids)
        try:
            seen = [each for each in ids if await self._keeper.find(ctx, each) is not None]
            return await self._stream(ctx, params, seen)
        finally:
            self._followed -= len(ids)

    async def _stream(
        self, ctx: Context, params: SubscriptionsListenRequestParams, ids: list[str]
    ) -> HandlerResult:
        """Acknowledge, then tell of the tasks. A stream for tasks alone ends with the last of them."""
        session = _Acknowledging(ctx.session, ids)
        async with anyio.create_task_group() as group:
            for task_id in ids:
                group.start_soon(self._tell, ctx, session.acknowledged, task_id)
            if not params.notifications.model_dump(exclude={"taskIds"}, exclude_defaults=True):
                await session.send_notification(_nothing_else(ctx), related_request_id=ctx.request_id)
                return SubscriptionsListenResult(_meta=_stamp(ctx))
            others = replace(ctx, session=cast(ServerSession, session))
            result = await self._listen_to_others(others, params)
            group.cancel_scope.cancel()
        return cast(HandlerResult, result)

    async def _tell(self, ctx: Context, acknowledged: anyio.Event, task_id: str) -> None:
        await acknowledged.wait()
        async with aclosing(cast(Any, self._keeper.follow(ctx, task_id))) as states:
            async for state in states:
                news = TaskNotification(params=state.detailed() | {"_meta": _stamp(ctx)})
                # Typed for the SDK's own notifications, it sends any.
                await ctx.session.send_notification(cast(Any, news), related_request_id=ctx.request_id)


class _Acknowledging:
    """A request's session that adds the tasks to the acknowledgement of what is listened to."""

    def __init__(self, session: ServerSession, ids: list[str]) -> None:
        self._session = session
        self._ids = ids
        self.acknowledged = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def send_notification(self, notification: Any, related_request_id: Any = None) -> None:
        """Send it, the acknowledgement with the tasks in it."""
        if isinstance(notification, SubscriptionsAcknowledgedNotification):
            agreed = notification.params.notifications.model_copy(update={"taskIds": self._ids})
            params = notification.params.model_copy(update={"notifications": agreed})
            notification = notification.model_copy(update={"params": params})
        await self._session.send_notification(notification, related_request_id=related_request_id)
        self.acknowledged.set()


def _nothing_else(ctx: Context) -> SubscriptionsAcknowledgedNotification:
    params = SubscriptionsAcknowledgedNotificationParams(
        notifications=SubscriptionFilter(), _meta=_stamp(ctx)
    )
    return SubscriptionsAcknowledgedNotification(params=params)


def _stamp(ctx: Context) -> Any:
    return {SUBSCRIPTION_ID_META_KEY: ctx.request_id}


def _admit(ctx: Context, params: TaskParams) -> None:
    """Raises `MCPError` for a request that may not be answered, whatever the task."""
    require_tasks(ctx)
    if ctx.request is None:  # only HTTP has headers
        return
    named = decode_header_value(ctx.request.headers.get(MCP_NAME_HEADER))
    if named != params.task_id:
        raise MCPError(
            HEADER_MISMATCH,
            "The header Mcp-Name does not name the task of the body. Send params.taskId in it.",
        )


def _ids(wanted: Any) -> list[str]:
    """The task ids of a listen request, each once."""
    if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
        raise MCPError(INVALID_PARAMS, "notifications.taskIds is not a list of strings.")
    ids = list(dict.fromkeys(wanted))
    if len(ids) > _MOST_IDS:
        raise MCPError(
            INVALID_PARAMS, f"notifications.taskIds names {len(ids)} tasks, {_MOST_IDS} at most. Split them."
        )
    return ids


def unknown_task(task_id: str) -> MCPError:
    """The one answer for a task that is not there, has been forgotten, or is somebody else's."""
    return MCPError(INVALID_PARAMS, f"There is no task {task_id[:80]!r}. It may have outlived its ttlMs.")
