"""The client's end of a connection: its two streams, and when it may count as gone.

The SDK cancels what it still runs for a client as soon as the client's stream ends, and a
tool cannot tell that from a client that cancels a call. Work outlives the window that asked
for it, so here the end of the stream is held back until every call has been answered. A
client that sends its calls and closes its side at once gets all its answers, too.

Only `tools/call` holds the end back: a subscription never ends by itself.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)


class OpenCalls:
    """The calls a client has made and that nobody has answered yet."""

    def __init__(self) -> None:
        self._ids: set[RequestId] = set()
        self._changed = anyio.Event()

    def received(self, message: JSONRPCMessage) -> None:
        """Note a message from the client: a call opens, its cancellation closes it unanswered."""
        if isinstance(message, JSONRPCRequest) and message.method == "tools/call":
            self._ids.add(coerce_request_id(message.id))
        elif isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self._close(cancelled_request_id_from_params(message.params))

    def sent(self, message: JSONRPCMessage) -> None:
        """Note a message to the client: an answer closes its call."""
        if isinstance(message, JSONRPCResponse | JSONRPCError):
            self._close(message.id)

    async def none_left(self) -> None:
        """Wait until every call is closed."""
        while self._ids:
            self._changed = anyio.Event()
            await self._changed.wait()

    def _close(self, request_id: RequestId | None) -> None:
        if request_id is not None:
            self._ids.discard(coerce_request_id(request_id))
            self._changed.set()


class PeerReader:
    """A client's messages; they end when the client is gone and has no open calls."""

    def __init__(self, stream: ReadStream[SessionMessage | Exception], calls: OpenCalls) -> None:
        self._stream = stream
        self._calls = calls

    async def receive(self) -> SessionMessage | Exception:
        """The next message; raises `anyio.EndOfStream` after the last one."""
        try:
            item = await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._calls.none_left()
            raise anyio.EndOfStream from None
        if isinstance(item, SessionMessage):
            self._calls.received(item.message)
        return item

    async def aclose(self) -> None:
        """Close the stream beneath."""
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class PeerWriter:
    """The messages to a client; an answer that is on its way closes its call."""

    def __init__(self, stream: WriteStream[SessionMessage], calls: OpenCalls) -> None:
        self._stream = stream
        self._calls = calls

    async def send(self, item: SessionMessage, /) -> None:
        """Send one message."""
        try:
            await self._stream.send(item)
        finally:
            self._calls.sent(item.message)

    async def aclose(self) -> None:
        """Close the stream beneath."""
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
