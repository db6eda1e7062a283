"""One client's connection on an owner's event loop: lines in, lines out.

Reading stops while lines wait to be taken, writing waits while the client is slow, so
neither side can fill the owner's memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from mcp_pools.doors import jsonrpc
from mcp_pools.doors.hello import LONGEST_HELLO, peer_uid

_MOST_WAITING: Final = 64
"""Lines. More than this are not read ahead."""


class Connection(asyncio.Protocol):
    """A stream of lines. Made by the event loop's server; one task takes the lines."""

    def __init__(self, opened: Callable[[Connection], None]) -> None:
        self._opened = opened
        self._lines = jsonrpc.Lines(LONGEST_HELLO)
        self._waiting: deque[bytes] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._ended = False
        self._paused = False
        self._lost = asyncio.get_running_loop().create_future()

    @property
    def uid(self) -> int:
        """The user id of the client's process."""
        door: socket.socket = self._transport.get_extra_info("socket")
        return peer_uid(door)

    @property
    def gone(self) -> bool:
        """Whether the client has ended its side."""
        return self._ended

    def welcome(self) -> None:
        """The client is let in: from now on its lines may be as long as messages are."""
        self._lines.longest = jsonrpc.LONGEST_LINE

    async def take(self) -> bytes:
        """The next line, newline included; empty when the client ended its side. For one task at a time."""
        while not self._waiting:
            if self._ended:
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        line = self._waiting.popleft()
        if self._paused and len(self._waiting) < _MOST_WAITING:
            self._paused = False
            self._transport.resume_reading()
        return line

    def send(self, data: bytes) -> None:
        """Write at once, without waiting for a slow client. Nothing happens when it is gone."""
        if not self._lost.done():
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until a slow client has taken enough of what was sent."""
        if self._writer is not None:
            await asyncio.shield(self._writer)

    def end(self) -> None:
        """Hang up once everything is written. May be called again."""
        self._transport.close()

    async def ended(self, patience: float) -> None:
        """Wait for the hang-up, at most `patience` seconds; then what is unwritten is dropped."""
        await asyncio.wait([self._lost], timeout=patience)
        self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            lines = self._lines.take(data)
        except jsonrpc.TooLong:
            self._transport.abort()
            return
        if not lines:
            return
        self._waiting.extend(jsonrpc.split(lines))
        if len(self._waiting) >= _MOST_WAITING and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return True  # what is still to be said may be written

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._wake()
        self.resume_writing()
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
