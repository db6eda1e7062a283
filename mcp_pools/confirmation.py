"""The human's word: asked for before a call of an MCP client that loses or reaches something.

The question goes by the client's era: in that of 2026 the call is answered with what is
needed and comes again with the answer, in that of 2025 the client is asked while it waits. A
client that cannot ask is refused, with the way out. Consoles and Python are never asked: the
command is the human's word.

Between two rounds the client holds a sealed state, bound to the tool, its arguments and an
hour: an answer without it, or to another call, counts for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp_types.version import is_version_at_least

from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp_types import CallToolRequestParams

    from mcp_pools.router import Router
    from mcp_pools.tool import Tool

_ROUNDS_SINCE: Final = "2026-07-28"
_KEY: Final = "confirm"
_ASKED: Final = "asked"
_VALID_SECONDS: Final = 3600.0
_KEY_BYTES: Final = 32
_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"confirm": {"type": "boolean", "title": "Yes, do it", "default": False}},
    "required": ["confirm"],
}


async def question_to_ask(
    ctx: ServerRequestContext[Any], params: CallToolRequestParams, tool: Tool, router: Router
) -> dict[str, Any] | None:
    """The result that asks the client's human; `None` once it may go on.

    Raises:
        PoolsError: `confirmation_required` when nobody can be asked, or the answer was no.
    """
    if tool.question is None or router.caller.kind != "mcp" or router.settings.mcp_confirm != "ask":
        return None
    question = tool.question(router, tool.check(params.arguments or {}))
    if question is None:
        return None
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.elicitation is None:
        raise _refused(question, "this client cannot ask anybody")
    if is_version_at_least(ctx.protocol_version, _ROUNDS_SINCE):
        answer = (params.input_responses or {}).get(_KEY) if params.request_state == _ASKED else None
        if answer is None:
            return _input_required(question)
    else:
        answer = await ctx.session.elicit_form(question, _FORM, related_request_id=ctx.request_id)
    if not _is_yes(answer):
        raise _refused(question, "the user did not confirm it")
    return None


def _is_yes(answer: Any) -> bool:
    action, content = getattr(answer, "action", None), getattr(answer, "content", None)
    return action == "accept" and isinstance(content, Mapping) and content.get("confirm") is True


def _input_required(question: str) -> dict[str, Any]:
    """As it goes over the wire; the boundary seals the state."""
    asked = {"mode": "form", "message": question, "requestedSchema": _FORM}
    return {
        "resultType": "input_required",
        "inputRequests": {_KEY: {"method": "elicitation/create", "params": asked}},
        "requestState": _ASKED,
    }


def _refused(question: str, why: str) -> PoolsError:
    return PoolsError(
        "confirmation_required",
        f"Nothing was done, because {why}: {question}",
        "Ask the user; it can be done with the mcp-pools command of the same name, or without asking "
        "when mcp_confirm is set to never in the configuration file.",
    )


def boundary(home: Path) -> RequestStateBoundary:
    """What seals and opens states, with a key that all owners of a home share."""
    security = RequestStateSecurity(keys=[_shared_key(home / "request_state.key")], ttl=_VALID_SECONDS)
    return RequestStateBoundary(security, default_audience="mcp-pools")


def _shared_key(file: Path) -> bytes:
    """The home's key; made with the first question, readable for its user alone."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return file.read_bytes()
    with os.fdopen(descriptor, "wb") as made:
        key = os.urandom(_KEY_BYTES)
        made.write(key)
    return key
