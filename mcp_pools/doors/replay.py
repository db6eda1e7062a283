"""What a bridge remembers of a session, so that the next owner can take it up.

Standard library only.
"""

from __future__ import annotations

import socket
from typing import Final

from mcp_pools.doors import jsonrpc
from mcp_pools.doors.hello import read_line
from mcp_pools.doors.jsonrpc import Envelope
from mcp_pools.errors import PoolsError

_PATIENCE: Final = 15.0
"""Seconds for an owner to answer a replayed `initialize`."""


class Handshake:
    """The client's `initialize` and `notifications/initialized`, as it sent them.

    Clients of 2026-07-28 send neither, and there is nothing to replay.
    """

    def __init__(self) -> None:
        self._initialize = b""
        self._id: int | str | None = None
        self._answered = False
        self._repeated = False
        self._initialized = b""

    def note(self, about: Envelope, line: bytes) -> None:
        """Remember a line of the client's if it belongs to the handshake."""
        if about.method == "initialize" and about.is_request:
            self._initialize, self._id, self._answered = line, about.id, False
            self._repeated = False
        elif about.method == "notifications/initialized":
            self._initialized = line

    def answered(self, number: int | str) -> None:
        """The owner answered request `number`."""
        if number == self._id:
            self._answered, self._repeated = True, False

    def unanswered(self) -> int | str | None:
        """The id of an `initialize` the client still waits for: safe to ask the next owner."""
        return None if self._answered else self._id

    def once_more(self) -> int | str | None:
        """The id of an unanswered `initialize` to ask the next owner; only one, or owners
        that die of it would be started for ever.
        """
        again = None if self._repeated else self.unanswered()
        self._repeated = again is not None
        if again is None and not self._answered:
            self.forget()
        return again

    def forget(self) -> None:
        """The client was told that its `initialize` failed: it will start over."""
        self._initialize, self._id, self._answered = b"", None, False

    def replay(self, door: socket.socket) -> None:
        """Bring a new owner to where the last one was. The socket is in blocking mode.

        Raises:
            PoolsError: it did not take the handshake.
        """
        if not self._initialize:
            return
        try:
            door.settimeout(_PATIENCE)
            door.sendall(self._initialize)
            if self._answered:
                self._swallow_answer(door)
                door.sendall(self._initialized)
        except (OSError, ValueError) as failure:
            raise PoolsError(
                "conflict", f"The next owner did not take the handshake: {failure}.", "Try again."
            ) from None

    def _swallow_answer(self, door: socket.socket) -> None:
        while line := read_line(door, jsonrpc.LONGEST_LINE):
            if jsonrpc.envelope(line).id == self._id:
                return
        raise ConnectionResetError("it hung up")


class Questions:
    """Requests of owners to the client, an elicitation say, that are still open.

    Each owner counts its own from the start, so the answer to a dead owner's question
    must never reach the next owner as the answer to another one.
    """

    def __init__(self) -> None:
        self._open: set[int | str] = set()
        self._orphaned: set[int | str] = set()

    def asked(self, number: int | str) -> bool:
        """Note a question; `False` when its id cannot be told from a dead owner's."""
        if number in self._orphaned:
            return False
        self._open.add(number)
        return True

    def answered(self, number: int | str) -> bool:
        """Note the client's answer; whether the present owner asked for it."""
        self._orphaned.discard(number)
        known = number in self._open
        self._open.discard(number)
        return known

    def revoked(self) -> bytes:
        """The owner is gone: notifications that take its open questions back."""
        reason = "The owner that asked ended."
        lines = [
            jsonrpc.line(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": number, "reason": reason},
                }
            )
            for number in self._open
        ]
        self._orphaned |= self._open
        self._open.clear()
        return b"".join(lines)
