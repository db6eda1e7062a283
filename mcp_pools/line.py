"""A connection to another MCP server that is kept, and shared by many calls.

It is opened again for as long as it is wanted. Each call is bounded in time, and ends in one
of three ways: an answer, `Refused`, or `Lost`, which says whether the peer may have acted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

from mcp import Client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, PARSE_ERROR, CallToolResult, ListToolsResult, TextResourceContents

from mcp_pools.errors import CODES, PoolsError
from mcp_pools.way import CALL, Call, Way

LONGEST_WORDS: Final = 2000
"""Characters of what a peer says that are kept."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_STEADY_SECONDS: Final = 5.0
"""A connection that lasted as long was a good one: the next is opened without a long pause."""
_NOT_TAKEN: Final = (421, 429, 503)
"""Statuses with which a server turns a request away before it looks at it."""
_MOST_PAGES: Final = 50

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


class Line:
    """A kept connection over `way`."""

    def __init__(self, way: Way) -> None:
        self.where = way.where
        self._way = way
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
                if await self._once() > _STEADY_SECONDS:
                    pause = _FIRST_PAUSE
            except Exception as failure:  # the SDK's, its libraries', groups of them
                self._why = _words_for(failure)
            self._changed.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _once(self) -> float:
        """One connection, from its opening until it ends or is dropped; how many seconds it lasted.

        Raises `Lost` when there was none.
        """
        call, opened = Call(), None
        CALL.set(call)
        opening = asyncio.timeout(self._way.opening_seconds)
        try:
            async with opening, self._way.opened(self._drop.set) as client:
                opening.reschedule(None)
                opened = time.monotonic()
                self._client, self._why = client, "its connection ended"
                self._changed.set()
                await self._drop.wait()
                self._client = None  # nothing may be sent on what is taken down
        except Exception:
            if opened is None:
                raise Lost(call.turned_away(), sent=False) from None
        finally:
            self._client = None
        return time.monotonic() - opened

    # Calls.

    async def tools(self, seconds: float) -> frozenset[str]:
        """The names of the tools that the server offers. Raises as `call` does."""
        names: set[str] = set()
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._ask(seconds, 0, partial(_page, cursor))
            names.update(tool.name for tool in page.tools)
            if (cursor := page.next_cursor) is None:
                break
        return frozenset(names)

    async def call(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        seconds: float,
        depth: int = 0,
        on_progress: ProgressFnT | None = None,
    ) -> dict[str, Any]:
        """Call a tool; its structured content, or `{"text": ...}` of a tool that has none, with what
        it says beside text (images, links) as MCP writes it under `content`.

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
        if answer.is_error:
            raise _refusal(answer.structured_content, _text(answer))
        return _content(answer)

    async def read(self, uri: str, *, seconds: float) -> str:
        """A resource's text. Raises as `call` does."""
        answer = await self._ask(seconds, 0, lambda client: client.read_resource(uri))
        return "".join(part.text for part in answer.contents if isinstance(part, TextResourceContents))

    async def _ask(self, seconds: float, depth: int, ask: Callable[[Client], Awaitable[T]]) -> T:
        if self._client is None:
            raise Lost(self._why, sent=False)
        call = Call(depth)
        outer = CALL.set(call)
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
            CALL.reset(outer)

    def _failed(self, call: Call, error: MCPError) -> Exception:
        if call.status == 404:
            self._drop.set()  # the peer has forgotten the session of this connection
        if call.status in (401, 403, *_NOT_TAKEN) or not call.sent:
            return Lost(call.turned_away(), sent=False)
        if call.status == 0 or call.status >= 500 or error.code in (CONNECTION_CLOSED, PARSE_ERROR):
            return Lost(call.turned_away(), sent=True)
        code = "invalid_payload" if call.status in (400, 413) else "task_error"
        said = f"HTTP {call.status}: " if call.status != 200 else ""
        return Refused(code, f"{said}{error.message}")


async def _page(cursor: str | None, client: Client) -> ListToolsResult:
    return await client.list_tools(cursor=cursor)


def _text(answer: CallToolResult) -> str:
    return "\n".join(part.text for part in answer.content if part.type == "text")


def _content(answer: CallToolResult) -> dict[str, Any]:
    if isinstance(answer.structured_content, dict):
        return answer.structured_content
    others = [part for part in answer.content if part.type != "text"]
    shown = [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in others]
    return {"text": _text(answer), **({"content": shown} if shown else {})}


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
