"""What a client may complete: names of pools, task types and strategies, and ids of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    PromptReference,
    ResourceTemplateReference,
)

from mcp_pools.errors import nearest
from mcp_pools.prompts import PROMPTS, names
from mcp_pools.resources import KINDS, TEMPLATES
from mcp_pools.tool import TOOLS

if TYPE_CHECKING:
    from mcp_pools.router import Router
    from mcp_pools.server import Session

MOST: Final = 100
"""Values in one answer; the protocol allows no more."""


async def complete(ctx: ServerRequestContext[Session], params: CompleteRequestParams) -> CompleteResult:
    """What an argument of a prompt, or a variable of a template, may be: those that begin like it first.

    `-32602` for a prompt, template or argument that there is not.
    """
    argument = params.argument
    known = _arguments(params.ref)
    if argument.name not in known:
        message = f"There is no argument {argument.name[:80]!r}. {nearest(argument.name[:80], known)}"
        raise MCPError(INVALID_PARAMS, message.rstrip())
    values = await _values(ctx.lifespan_context.router.bound(), argument.name)
    typed = argument.value.casefold()
    found = [value for value in values if value.casefold().startswith(typed)]
    found += [value for value in values if typed in value.casefold() and value not in found]
    return CompleteResult(
        completion=Completion(values=found[:MOST], total=len(found), has_more=len(found) > MOST)
    )


def _arguments(ref: PromptReference | ResourceTemplateReference) -> list[str]:
    """The names that may be completed in what is referred to."""
    if isinstance(ref, PromptReference):
        if ref.name not in PROMPTS:
            message = f"There is no prompt {ref.name[:80]!r}. {nearest(ref.name[:80], PROMPTS)}"
            raise MCPError(INVALID_PARAMS, message.rstrip())
        return list(PROMPTS[ref.name].arguments)
    for kind in KINDS:
        if kind.uri == ref.uri:
            return list(TEMPLATES[kind].variable_names)
    message = f"There is no template {ref.uri[:80]!r}. {nearest(ref.uri[:80], [kind.uri for kind in KINDS])}"
    raise MCPError(INVALID_PARAMS, message.rstrip())


async def _values(router: Router, name: str) -> list[str]:
    if name == "task_id":
        page = await TOOLS["pool_search"].invoke(router, {"limit": MOST})
        return [task["task_id"] for task in page["tasks"]]
    return names(router).get(name, [])
