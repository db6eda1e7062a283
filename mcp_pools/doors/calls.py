"""A console's session on its connection: tool calls as JSON-RPC, without an SDK session.

    client  tools/call (id)          {"name", "arguments", "_meta": {"progressToken"}}
    owner   notifications/progress   {"progressToken", "progress", "total", "message"}
    owner   the result (id)          {"structuredContent", "isError", "content"}
    client  notifications/cancelled  {"requestId"}

Calls run side by side and answer in the order in which they end. A refusal's structured
content is `{"error": {"code", "message", "next", "details"}}`.

A call stops waiting when its client cancels it and when its client is gone, and a tool
can tell the two apart: only the first raises `CancelledError(WITHDRAWN)` in it. What was
accepted for a client that is merely gone goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mcp_pools import tracing
from mcp_pools.doors import jsonrpc
from mcp_pools.doors.connection import Connection
from mcp_pools.doors.owner_log import say
from mcp_pools.errors import PoolsError

WITHDRAWN: Final = "withdrawn by the caller"
"""The argument of the `CancelledError` in a call whose client does not want it any more."""

Report = Callable[[float, float | None, str | None], None]
"""`report(done, total, message)`: progress to the client."""
Call = Callable[[str, dict[str, Any], Report | None], Awaitable[dict[str, Any]]]
"""`call(tool, arguments, report)`: the tool's structured content.

Raises `PoolsError` when it is refused and `LookupError` when there is no such tool."""

_MOST_AT_ONCE: Final = 256
"""Calls of one connection. More wait unread."""


class Calls:
    """All calls of one console connection."""

    def __init__(self, connection: Connection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self._running: dict[int | str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)

    async def run(self) -> None:
        """Answer calls until the client ends its side."""
        try:
            while line := await self._connection.take():
                if line.strip():
                    await self._take(line)
        finally:
            await self._stop_waiting()

    async def _stop_waiting(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            method, params = message.get("method"), message.get("params") or {}
        except (ValueError, AttributeError, RecursionError):
            self._fail(None, jsonrpc.PARSE_ERROR, "The line is not a JSON object.")
            return
        if method == "notifications/cancelled":
            self._withdraw(params.get("requestId"))
        elif message.get("id") is not None:
            await self._start(message["id"], method, params)

    def _withdraw(self, number: Any) -> None:
        task = self._running.get(number) if isinstance(number, int | str) else None
        if task is not None:
            task.cancel(WITHDRAWN)

    async def _start(self, number: int | str, method: Any, params: dict[str, Any]) -> None:
        if method != "tools/call":
            self._fail(number, jsonrpc.METHOD_NOT_FOUND, f"There is no method {method!r}; call tools/call.")
            return
        if number in self._running:
            self._fail(
                number, jsonrpc.INVALID_REQUEST, f"Request {number!r} is still running; use another id."
            )
            return
        await self._places.acquire()
        task = asyncio.create_task(self._answer(number, params))
        self._running[number] = task
        task.add_done_callback(lambda _: self._done(number))

    def _done(self, number: int | str) -> None:
        del self._running[number]
        self._places.release()

    async def _answer(self, number: int | str, params: dict[str, Any]) -> None:
        name, arguments = str(params.get("name")), params.get("arguments") or {}
        try:
            with tracing.call(name, params.get("_meta")):
                content = await self._call(name, arguments, self._reporter(params))
        except PoolsError as refused:
            self._succeed(number, _refusal(refused), refused=str(refused))
        except LookupError:
            self._fail(number, jsonrpc.INVALID_PARAMS, f"There is no tool {name!r}.")
        except Exception:
            say("call.failed", tool=name)
            self._fail(number, jsonrpc.INTERNAL_ERROR, f"{name} failed inside the owner. See owner.log.")
        else:
            self._succeed(number, content)
        await self._connection.drain()

    def _reporter(self, params: dict[str, Any]) -> Report | None:
        token = (params.get("_meta") or {}).get("progressToken")
        if token is None:
            return None

        def report(done: float, total: float | None = None, message: str | None = None) -> None:
            known = {"progressToken": token, "progress": done, "total": total, "message": message}
            said = {name: value for name, value in known.items() if value is not None}
            self._say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})

        return report

    def _succeed(self, number: int | str, content: dict[str, Any], refused: str | None = None) -> None:
        text = [] if refused is None else [{"type": "text", "text": refused}]
        result = {"structuredContent": content, "isError": refused is not None, "content": text}
        self._say({"jsonrpc": "2.0", "id": number, "result": result})

    def _fail(self, number: int | str | None, code: int, message: str) -> None:
        self._connection.send(jsonrpc.error_line(number, code, message))

    def _say(self, message: dict[str, Any]) -> None:
        self._connection.send(jsonrpc.line(message))


def _refusal(refused: PoolsError) -> dict[str, Any]:
    said = {
        "code": refused.code,
        "message": refused.message,
        "next": refused.next,
        "details": refused.details,
    }
    return {"error": said | {"retryable": refused.retryable}}
