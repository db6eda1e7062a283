"""A connection as the pair of streams that an MCP session of the SDK runs on.

The session reads lines straight from the connection and writes straight to it: no
task, no queue and no thread stands between the socket and the session.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import mcp_types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from mcp_pools.doors import jsonrpc
from mcp_pools.doors.connection import Connection


def streams(connection: Connection) -> tuple[Incoming, Outgoing]:
    """The read and the write stream for `Server.run` or `serve_session`."""
    return Incoming(connection), Outgoing(connection)


class _Closing:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def aclose(self) -> None:
        """Nothing to release: the owner hangs up when the session is over."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self.aclose()
        return None


class Incoming(_Closing):
    """The SDK's `ReadStream`.

    A line that is no message is answered here, and handed on as the exception it raised.
    """

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        line = await self._connection.take()
        if not line:
            raise StopAsyncIteration
        return self._message(line)

    async def receive(self) -> SessionMessage | Exception:
        """The next message.

        Raises:
            anyio.EndOfStream: the client ended its side.
        """
        import anyio

        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    def _message(self, line: bytes) -> SessionMessage | Exception:
        try:
            return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValidationError as problem:
            self._connection.send(_answer_to_no_message(line))
            return problem


class Outgoing(_Closing):
    """The SDK's `WriteStream`."""

    async def send(self, item: SessionMessage) -> None:
        """Write one message; waits while the client is slow."""
        text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        self._connection.send(text.encode() + b"\n")
        await self._connection.drain()


def _answer_to_no_message(line: bytes) -> bytes:
    """JSON-RPC's answer to a line that is no JSON, or JSON but no message."""
    try:
        number = jsonrpc.envelope(line).id
    except ValueError:
        return jsonrpc.error_line(None, jsonrpc.PARSE_ERROR, "Parse error: the line is not JSON.")
    except TypeError:
        number = None
    return jsonrpc.error_line(number, jsonrpc.INVALID_REQUEST, "Invalid request: not a JSON-RPC 2.0 message.")
