"""A connection to another MCP server that is kept, and shared by many calls.

It is opened again for as long as it is wanted. Each call is bounded in time, and ends in one
of three ways: an answer, `Refused`, or `Lost`, which says whether the peer may have acted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx2
from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, PARSE_ERROR, TextResourceContents

from mcp_pools.delegate import Peer, connected
from mcp_pools.errors import CODES, PoolsError

Token = Callable[[], str | None]
"""Reads the bearer token; called off the event loop, anew for each connection."""

DEPTH_HEADER: Final = "X-MCP-Pools-Depth"
MOST_ANSWER_BYTES: Final = 136 << 20
"""A result of 64 MiB, escaped as text in JSON."""
LONGEST_WORDS: Final = 2000
"""Characters of what a peer says that are kept."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_OPENING_SECONDS: Final = 5.0
_NOT_TAKEN: Final = (421, 429, 503)
"""Statuses with which a server turns a request away before it looks at it."""

T = TypeVar("T")


class Lost(Exception):
    """There is no answer. `why` is ours; `sent`: the peer may have got the request and acted on it."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class Refused(Exception):
    """The peer answered with an error: a code of `errors.CODES`, its own words, its details."""

    def __init__(self, code: str, words: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.words = words[:LONGEST_WORDS]
        self.details = details or {}


@dataclass(slots=True)
class _Call:
    """One request on its way: how deep it is, and how far it came."""

    depth: int = 0
    sent: bool = False
    status: int = 0
    why: str = "it does not answer"


_CALL: ContextVar[_Call | None] = ContextVar("mcp_pools_call", default=None)


class _Way(Peer):
    """Sends each request with its own depth. A failure is an answer: the SDK would end all other calls."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        call = _CALL.get() or _Call()
        request.headers[DEPTH_HEADER] = str(call.depth)
        call.sent = True
        try:
            response = await super().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as failure:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(failure)
            call.why = "its certificate is not trusted" if untrusted else "it takes no connection"
            call.sent = False
        except httpx2.TransportError:
            call.why = "the connection broke"
        else:
            call.status = response.status_code
            return response
        return httpx2.Response(502, request=request)


class Line:
    """A kept connection.

    Args:
        url: of the server's MCP endpoint.
        token: reads the bearer token, or gives `None` when there is none; raises what it likes.
    """

    def __init__(self, url: str, token: Token) -> None:
        self.url = url
        self._token = token
        self._client: Client | None = None
        self._why = "it was not connected yet"
        self._changed = asyncio.Event()
        self._drop = asyncio.Event()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep it for as long as the block lasts."""
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def tried(self) -> None:
        """Wait until a connection was made, or could not be made."""
        await self._changed.wait()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._drop.clear()
            try:
                if await self._once():
                    pause = _FIRST_PAUSE
            except Exception as failure:  # the SDK's, its libraries', a secret's, groups of them
                self._why = _words_for(failure)
            self._client = None
            self._changed.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _once(self) -> bool:
        """One connection, from its opening until it is dropped."""
        call = _Call()
        _CALL.set(call)
        token = await asyncio.to_thread(self._token)
        try:
            opening = asyncio.timeout(_OPENING_SECONDS)
            async with (
                opening,
                connected(self.url, _Way(MOST_ANSWER_BYTES), token=token, silence=None) as client,
            ):
                opening.reschedule(None)
                self._client = client
                self._changed.set()
                await self._drop.wait()
        except Exception:
            if self._client is None:
                raise Lost(_turned_away(call), sent=False) from None
        return True

    # Calls.

    async def tools(self, seconds: float) -> set[str]:
        """The names of the tools on the first page of the server's list."""
        listed = await self._ask(seconds, 0, lambda client: client.list_tools())
        return {tool.name for tool in listed.tools}

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        seconds: float,
        depth: int = 0,
        on_progress: ProgressFnT | None = None,
    ) -> dict[str, Any]:
        """Call a tool; its structured content, or `{"text": ...}` of a tool that has none.

        Args:
            seconds: how long all of it may take.
            depth: how many tasks deep what it starts is.

        Raises:
            Lost: there is no answer.
            Refused: the answer is an error.
        """
        answer = await self._ask(
            seconds,
            depth,
            lambda client: client.call_tool(tool, arguments, progress_callback=on_progress),
        )
        text = "\n".join(part.text for part in answer.content if part.type == "text")
        content = answer.structured_content
        if answer.is_error:
            raise _refusal(content, text)
        return content if isinstance(content, dict) else {"text": text}

    async def read(self, uri: str, *, seconds: float) -> str:
        """A resource's text. Raises as `call` does."""
        answer = await self._ask(seconds, 0, lambda client: client.read_resource(uri))
        return "".join(part.text for part in answer.contents if isinstance(part, TextResourceContents))

    async def _ask(self, seconds: float, depth: int, ask: Callable[[Client], Awaitable[T]]) -> T:
        if self._client is None:
            raise Lost(self._why, sent=False)
        call = _Call(depth)
        outer = _CALL.set(call)
        try:
            async with asyncio.timeout(seconds):
                return await ask(self._client)
        except TimeoutError:
            raise Lost(f"it did not answer within {seconds:g} s", sent=call.sent) from None
        except MCPError as error:
            raise self._failed(call, error) from None
        except Exception as failure:  # an answer that is none
            raise Lost(_words_for(failure), sent=True) from None
        finally:
            _CALL.reset(outer)

    def _failed(self, call: _Call, error: MCPError) -> Exception:
        if call.status in (401, 403, 404):
            self._drop.set()  # its token may be another by now, its session a new one
        if call.status in (401, 403, *_NOT_TAKEN) or not call.sent:
            return Lost(_turned_away(call), sent=False)
        if call.status == 0 or call.status >= 500 or error.code in (CONNECTION_CLOSED, PARSE_ERROR):
            return Lost(_turned_away(call), sent=True)
        code = "invalid_payload" if call.status in (400, 413) else "task_error"
        return Refused(code, f"HTTP {call.status}: {error.message}")


def _turned_away(call: _Call) -> str:
    if call.status in (401, 403):
        return f"it asks for credentials (HTTP {call.status})"
    return f"{call.why} (HTTP {call.status})" if call.status >= 300 else call.why


def _words_for(failure: Exception) -> str:
    if isinstance(failure, Lost):
        return failure.why
    if isinstance(failure, PoolsError):
        return failure.message
    return f"it does not answer as an MCP server ({type(failure).__name__})"


def _refusal(content: Any, text: str) -> Refused:
    """A refusal in our own form where it has that, else the words of the tool."""
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return Refused("task_error", text)
    code, details = error.get("code"), error.get("details")
    return Refused(
        code if code in CODES else "task_error",
        str(error.get("message") or text),
        details if isinstance(details, dict) else None,
    )
