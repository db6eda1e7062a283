"""The contract of a task type: what a payload must hold and which function runs it.

The function (the *handler*) runs in a worker process and takes and returns JSON. Its
module imports only the standard library at its top and anything heavier when called,
so that a worker starts fast and the same file can run in a bare container. The payload
and result models are pydantic's and stay with the router.

A user's own type is a plain function::

    from mcp_pools.task_type import task_type

    @task_type(summary="Repeat a text")
    def shout(text: str, times: int = 1) -> str:
        return text.upper() * times

named in the configuration under `task_modules`, or published as an entry point of the
group `mcp_pools.task_types`. A parameter named `context` receives the `Context`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mcp_pools.agents import Agent
    from mcp_pools.policy import Judge

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[dict[str, Any], "Judge"], dict[str, Any]]


class Context(Protocol):
    """What a handler may know and say while it runs."""

    task_id: str
    attempt_id: str
    attempt: int
    cwd: str
    """The caller's directory; relative paths of a payload were already resolved against it."""
    roots: tuple[str, ...]
    """The directories this task may read files from, as real paths; checked again here."""
    env: Mapping[str, str]
    """The whole environment a child process gets, `MCP_POOLS_ATTEMPT` included."""
    agent: Agent | None
    """What this worker runs prompts with; `None` for a worker that runs handlers."""

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work is; the latest word replaces the earlier ones."""

    def output(self, data: bytes | str) -> None:
        """Stream output; what the handler prints arrives the same way."""


@dataclass(frozen=True)
class TaskType:
    """A task type as the router knows it.

    `check` judges a validated payload before the task is accepted: it returns the
    payload to store (paths resolved, executables pinned) or raises `PoolsError`.
    `takes_items` says that the type understands `items` itself and returns one outcome
    for each.
    """

    name: str
    summary: str
    handler: str
    """`module:function`, imported in the worker."""
    payload: type[BaseModel]
    result: type[BaseModel] | None = None
    check: Check | None = None
    takes_items: bool = False
    example: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def path_fields(self) -> tuple[str, ...]:
        """Payload fields whose schema says `format: path`; lists of paths included."""
        found = []
        for name, schema in self.payload.model_json_schema().get("properties", {}).items():
            options = [schema, *schema.get("anyOf", ())]
            options += [option.get("items", {}) for option in options]
            if any(option.get("format") in ("path", "file-path", "directory-path") for option in options):
                found.append(name)
        return tuple(found)


def task_type(
    *, summary: str, name: str | None = None, takes_items: bool = False, example: dict[str, Any] | None = None
) -> Callable[[F], F]:
    """Mark a plain function as a task type; its parameters become the payload's fields."""

    def mark(function: F) -> F:
        function.__dict__["__task_type__"] = {
            "name": name or function.__name__.replace("_", "-"),
            "summary": summary,
            "takes_items": takes_items,
            "example": example or {},
        }
        return function

    return mark


def from_function(function: Callable[..., Any]) -> TaskType:
    """The `TaskType` of a marked function. Imports pydantic; called by the router only."""
    from pydantic import ConfigDict, create_model

    marked = function.__dict__["__task_type__"]
    hints = inspect.get_annotations(function, eval_str=True)
    fields: dict[str, Any] = {
        parameter.name: (
            hints.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "context"
    }
    model = create_model(f"{marked['name']}_payload", __config__=ConfigDict(extra="forbid"), **fields)
    handler = f"{function.__module__}:{function.__qualname__}"
    return TaskType(handler=handler, payload=model, **marked)


def call(handler: Callable[..., Any], payload: dict[str, Any], context: Context) -> Any:
    """Run a handler in the worker: built-ins take `(payload, context)`, marked functions their fields."""
    if "__task_type__" not in handler.__dict__:
        return handler(payload, context)
    if "context" in inspect.signature(handler).parameters:
        return handler(**payload, context=context)
    return handler(**payload)
