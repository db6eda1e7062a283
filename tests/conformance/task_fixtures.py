"""The tools and tasks that the official suite's `tasks-*` scenarios expect of a server.

Their names, arguments and texts are the suite's. What is under test is the product's
`TasksExtension`; here is a keeper of tasks in memory, which unlike the product's has tasks that
end with a protocol error and tasks that ask their client for input.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import anyio
import anyio.abc
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolRequestParams, Tool

from mcp_pools.tasks_extension import Context, Status, TaskState, require_tasks, takes_tasks

TTL_MS = 600_000


class FixtureTask:
    """One task: its body runs, may ask, and ends with a result or an error."""

    def __init__(self) -> None:
        self.id = f"f_{secrets.token_urlsafe(16)}"
        self.scope = anyio.CancelScope()
        self._created = self._updated = _now()
        self._status: Status = "working"
        self._result: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None
        self._questions: dict[str, dict[str, Any]] = {}
        self._answers: dict[str, Any] = {}
        self._changed = anyio.Event()

    @property
    def state(self) -> TaskState:
        """The task as it stands."""
        return TaskState(
            task_id=self.id,
            status=self._status,
            created_at=self._created,
            updated_at=self._updated,
            ttl_ms=TTL_MS,
            poll_interval_ms=100,
            input_requests=dict(self._questions) or None,
            result=self._result,
            error=self._error,
        )

    async def run(self, body: Callable[[FixtureTask], Awaitable[dict[str, Any]]]) -> None:
        """Run the body to its end."""
        with self.scope:
            try:
                result = await body(self)
            except MCPError as failed:
                self._error = {"code": failed.error.code, "message": failed.error.message}
                self._change("failed")
            else:
                self._result = result
                self._change("completed")
        if self.scope.cancelled_caught:
            self._change("cancelled")

    async def ask(self, *messages: str) -> list[Any]:
        """Ask the client each of these at once, and wait for all answers."""
        keys = [secrets.token_hex(4) for _ in messages]
        self._questions = dict(zip(keys, map(elicitation, messages), strict=True))
        self._change("input_required")
        while self._questions:
            await self.changed()
        return [self._answers[key] for key in keys]

    def answer(self, answers: Mapping[str, Any]) -> None:
        """Take the answers to what is asked, and pass over the rest."""
        taken = self._questions.keys() & answers.keys()
        for key in taken:
            self._answers[key] = answers[key]
            del self._questions[key]
        if taken:
            self._change("input_required" if self._questions else "working")

    def cancel(self) -> None:
        """Stop it, unless it has ended."""
        if not self.state.over:
            self._questions = {}
            self.scope.cancel()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def _change(self, status: Status) -> None:
        self._status, self._updated = status, _now()
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class MemoryTasks:
    """The keeper: everybody may see every task."""

    def __init__(self) -> None:
        self._tasks: dict[str, FixtureTask] = {}

    def start(self, group: anyio.abc.TaskGroup, body: Body, arguments: dict[str, Any]) -> TaskState:
        """Run a tool's body as a task."""
        task = FixtureTask()
        self._tasks[task.id] = task
        group.start_soon(task.run, lambda own: body(own, arguments))
        return task.state

    async def find(self, ctx: Context, task_id: str) -> TaskState | None:
        task = self._tasks.get(task_id)
        return None if task is None else task.state

    async def update(self, ctx: Context, task_id: str, answers: Mapping[str, Any]) -> bool:
        if task_id in self._tasks:
            self._tasks[task_id].answer(answers)
        return task_id in self._tasks

    async def cancel(self, ctx: Context, task_id: str) -> bool:
        if task_id in self._tasks:
            self._tasks[task_id].cancel()
        return task_id in self._tasks

    async def follow(self, ctx: Context, task_id: str) -> AsyncIterator[TaskState]:
        task = self._tasks[task_id]
        while True:
            state = task.state
            yield state
            if state.over:
                return
            while task.state == state:
                await task.changed()


Body = Callable[[FixtureTask, dict[str, Any]], Awaitable[dict[str, Any]]]


class FixtureTool(NamedTuple):
    """A tool of the suite. `support` says whether it becomes a task: never, if it can, or only so."""

    body: Body
    arguments: Mapping[str, str]
    support: str
    question: str = ""
    """What its client is asked before there is a task."""


async def greet(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    return text(f"Hello, {arguments.get('name', 'world')}!")


async def slow_compute(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    await anyio.sleep(float(arguments.get("seconds", 0)))
    return text(f"Computed {arguments.get('label', '')}")


async def failing_job(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    return text("The job failed.") | {"isError": True}


async def protocol_error_job(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    raise MCPError(INTERNAL_ERROR, "The job broke.")


async def confirm_delete(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    [answer] = await task.ask(f"Delete {arguments.get('filename', '')}?")
    return text(f"Deleted: {answer}")


async def multi_input(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    return text(f"Answers: {await task.ask('What is your name?', 'Are you sure?')}")


async def greet_asked(task: FixtureTask, arguments: dict[str, Any]) -> dict[str, Any]:
    [answer] = arguments["answers"]
    return text(f"Hello, {answer['content']['name']}!")


TOOLS: dict[str, FixtureTool] = {
    "greet": FixtureTool(greet, {"name": "string"}, "never"),
    "slow_compute": FixtureTool(slow_compute, {"seconds": "number", "label": "string"}, "optional"),
    "failing_job": FixtureTool(failing_job, {}, "required"),
    "protocol_error_job": FixtureTool(protocol_error_job, {}, "required"),
    "confirm_delete": FixtureTool(confirm_delete, {"filename": "string"}, "required"),
    "multi_input": FixtureTool(multi_input, {}, "required"),
    "test_tool_with_task": FixtureTool(greet_asked, {}, "required", "What is your name?"),
}


def listed() -> list[Tool]:
    """The tools, as `tools/list` has them."""
    return [
        Tool(
            name=name,
            description=f"Fixture {name} of the official suite.",
            input_schema={
                "type": "object",
                "properties": {each: {"type": kind} for each, kind in tool.arguments.items()},
            },
        )
        for name, tool in TOOLS.items()
    ]


async def call(
    ctx: Context, params: CallToolRequestParams, keeper: MemoryTasks, group: anyio.abc.TaskGroup
) -> dict[str, Any]:
    """Call a tool: a question, a result or a task's handle, in wire form."""
    tool, arguments = TOOLS[params.name], dict(params.arguments or {})
    if tool.support == "required":
        require_tasks(ctx)
    if tool.question:
        answers = (ctx.params or {}).get("inputResponses")
        if not answers:
            return {
                "resultType": "input_required",
                "inputRequests": {"user_name": elicitation(tool.question)},
            }
        arguments["answers"] = list(answers.values())
    if tool.support == "never" or not takes_tasks(ctx):
        return await tool.body(FixtureTask(), arguments)
    return keeper.start(group, tool.body, arguments).handle()


def text(said: str) -> dict[str, Any]:
    """A tool's result in wire form."""
    return {"content": [{"type": "text", "text": said}], "isError": False, "resultType": "complete"}


def elicitation(message: str) -> dict[str, Any]:
    """A question to the client's human."""
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "confirm": {"type": "boolean"}},
    }
    asked = {"mode": "form", "message": message, "requestedSchema": schema}
    return {"method": "elicitation/create", "params": asked}


def _now() -> str:
    return datetime.now(UTC).isoformat()
