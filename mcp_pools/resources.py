"""What MCP clients may read: pools, tasks and their results, events, task types.

A resource is what the tool for it answers, as JSON, within the same size; only a result is
whole, for that is what its address is given out for. Reading starts nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from mcp_pools.answers import answer
from mcp_pools.errors import PoolsError
from mcp_pools.shortening import encoded, shortened
from mcp_pools.states import TERMINAL
from mcp_pools.tool import TOOLS
from mcp_pools.type_listing import described

if TYPE_CHECKING:
    from mcp_pools.router import Router
    from mcp_pools.server import Session

log = logging.getLogger(__name__)

JSON: Final = "application/json"
LONGEST_RESULT: Final = 64 << 20
"""Characters of JSON that a result may come to as one resource."""

_CHANGING, _FIXED, _ENDED = 1_000, 300_000, 3_600_000
"""Milliseconds that a client may keep what it read: state, what the configuration says, what is over."""


class _Read(NamedTuple):
    """What a resource holds, and for how many milliseconds it may be kept."""

    value: Any
    ttl_ms: int


class Kind(NamedTuple):
    """One kind of resource: its address or template, what it is called, how it is read."""

    uri: str
    name: str
    title: str
    description: str
    read: Callable[..., Awaitable[_Read]]


async def _pools(router: Router) -> _Read:
    return _Read(await _answered(router, "pool_list"), _CHANGING)


async def _pool(router: Router, name: str) -> _Read:
    return _Read(await _answered(router, "pool_get", name=name), _CHANGING)


async def _events(router: Router) -> _Read:
    watched = await _answered(router, "pool_watch")
    return _Read({key: watched[key] for key in watched if key != "pools"}, _CHANGING)


async def _task_types(router: Router) -> _Read:
    whole = described(router.registry.task_types, None, whole=True)
    short = shortened(whole, router.settings.mcp_result_tokens)
    return _Read(_with_note(short.result, short.note), _FIXED)


async def _task(router: Router, task_id: str) -> _Read:
    task = await _answered(router, "pool_task", task_id=task_id)
    return _Read(task, _ENDED if task["status"] in TERMINAL else _CHANGING)


async def _result(router: Router, task_id: str) -> _Read:
    whole = await TOOLS["pool_task"].invoke(router, {"task_id": task_id})
    ended = whole["status"] in TERMINAL
    if "distribution_id" in whole and "results" in whole:
        return _Read({key: whole[key] for key in ("results", "reduced")}, _ENDED if ended else _CHANGING)
    if whole["status"] != "completed":
        raise PoolsError(
            "conflict",
            f"Task {task_id!r} is {whole['status']}: it has no result.",
            f'Look at it with pool_task(task_id="{task_id}").',
        )
    return _Read(whole["result"], _ENDED)


async def _answered(router: Router, tool: str, **arguments: Any) -> dict[str, Any]:
    short = await answer(TOOLS[tool], router, arguments)
    return _with_note(short.result, short.note)


def _with_note(result: dict[str, Any], note: str | None) -> dict[str, Any]:
    return result if note is None else {**result, "note": note}


KINDS: Final = (
    Kind("pools://pools", "pools", "Pools", "The pools: status, workers, queue, task types.", _pools),
    Kind("pools://events", "events", "Events", "The latest events of tasks and pools.", _events),
    Kind(
        "pools://task-types",
        "task-types",
        "Task types",
        "What can be run: each type's JSON schema and an example payload.",
        _task_types,
    ),
    Kind("pools://pools/{name}", "pool", "Pool", "One pool: its workers and its figures.", _pool),
    Kind("pools://tasks/{task_id}", "task", "Task", "A task or a distribution as it stands.", _task),
    Kind(
        "pools://tasks/{task_id}/result",
        "result",
        "Result",
        "A task's whole result; of a distribution its results and what they were reduced to.",
        _result,
    ),
)
TEMPLATES: Final = {kind: UriTemplate.parse(kind.uri) for kind in KINDS}
"""Each kind's address, to be matched."""


def found(uri: str) -> tuple[Kind, dict[str, str]] | None:
    """The kind of resource at an address, and what its template's variables are there."""
    if len(uri) > 1000:
        return None
    for kind, template in TEMPLATES.items():
        matched = template.match(uri)
        if matched is not None:
            return kind, {name: str(value) for name, value in matched.items()}
    return None


def no_resource(uri: str, why: str = "") -> MCPError:
    """The error for an address that leads nowhere."""
    known = ", ".join(kind.uri for kind in KINDS)
    message = why or f"There is no resource {uri[:200]!r}. Known: {known}."
    return MCPError(INVALID_PARAMS, message, {"uri": uri[:1000]})


async def list_resources(
    ctx: ServerRequestContext[Session], params: PaginatedRequestParams | None
) -> ListResourcesResult:
    """Those with an address of their own."""
    return ListResourcesResult(
        resources=[
            Resource(
                uri=kind.uri, name=kind.name, title=kind.title, description=kind.description, mime_type=JSON
            )
            for kind in KINDS
            if "{" not in kind.uri
        ]
    )


async def list_templates(
    ctx: ServerRequestContext[Session], params: PaginatedRequestParams | None
) -> ListResourceTemplatesResult:
    """Those with one for each pool or task."""
    return ListResourceTemplatesResult(
        resource_templates=[
            ResourceTemplate(
                uri_template=kind.uri,
                name=kind.name,
                title=kind.title,
                description=kind.description,
                mime_type=JSON,
            )
            for kind in KINDS
            if "{" in kind.uri
        ]
    )


async def read_resource(
    ctx: ServerRequestContext[Session], params: ReadResourceRequestParams
) -> ReadResourceResult:
    """One resource as JSON; `-32602` for an address that leads nowhere."""
    uri = str(params.uri)
    at = found(uri)
    if at is None:
        raise no_resource(uri)
    kind, variables = at
    try:
        read = await kind.read(ctx.lifespan_context.router.bound(), **variables)
        text = await asyncio.to_thread(encoded, read.value)
    except PoolsError as refused:
        raise no_resource(uri, str(refused)) from None
    except Exception:
        reference = secrets.token_hex(4)
        log.exception("reading %s failed (reference %s)", kind.name, reference)
        message = f"mcp-pools failed (reference {reference}); the owner's log has the details."
        raise MCPError(INTERNAL_ERROR, message) from None
    if len(text) > LONGEST_RESULT:
        why = f"The resource is {len(text)} characters of JSON, more than {LONGEST_RESULT}."
        raise no_resource(uri, f"{why} Take it in parts: pool_task with select, offset and limit.")
    contents = TextResourceContents(uri=uri, mime_type=JSON, text=text)
    return ReadResourceResult(contents=[contents], ttl_ms=read.ttl_ms, cache_scope="private")
