"""What `mcp-pools serve` runs over stdio: lines from the client to the owner and back.

1. Only complete lines travel on, verbatim, so an owner that dies in the middle of a
   message never leaves the client with half of one.
2. When the owner dies, the next one is found or started and gets the same handshake;
   its answer to that is swallowed, because the client had one already.
3. A request is sent once. What was in flight when the owner died is answered with an
   error that says where to look.
4. Neither direction is read while what it feeds is not taken.

Standard library only, and nothing slow to import: clients start one bridge per window.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final

from mcp_pools.doors import jsonrpc
from mcp_pools.doors.hello import Flags, Hello
from mcp_pools.doors.jsonrpc import Envelope
from mcp_pools.doors.outbox import Outbox, to_descriptor, to_socket
from mcp_pools.doors.replay import Handshake, Questions
from mcp_pools.errors import PoolsError
from mcp_pools.home import Home, connect

_READ_BYTES: Final = 1 << 18
_HIGH_WATER: Final = 1 << 20
"""Bytes. While more than this waits to be taken, nothing more is read for it."""
_FAREWELL: Final = 1.0
"""Seconds in which an owner that was told of the end may still answer."""
_LAST_WORDS: Final = 10.0
"""Seconds to hand over what a client said before it ended."""
_INTERRUPTED: Final = (
    "The owner ended while this request ran. Accepted tasks are safe: "
    "call pool_search to see what became of it, before anything is sent again."
)
_SHORT_LIFE: Final = 2.0
"""Seconds. An owner that dies sooner is not replaced before the client asks for something."""


def run(home: Home, config: str | None = None, flags: Flags | None = None) -> int:
    """Bridge this process's stdin and stdout to the owner of `home`, until stdin ends.

    Returns:
        The exit status: 0 when the client or a signal ended it, 1 when no owner could be
        reached for the client's first request.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    bridge = Bridge(home, Hello.here("mcp", config, flags))
    try:
        return bridge.run()
    except BrokenPipeError:
        return 0  # the client is gone


def main(config: str | None = None, flags: Mapping[str, Any] | None = None) -> int:
    """`run` for the home the environment names; `flags` as the console parsed them."""
    said: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in (flags or {}).items()
    }
    try:
        return run(Home.default(config), config, Flags(**said))
    except PoolsError as refused:
        print(f"mcp-pools: {refused}", file=sys.stderr, flush=True)
        return 1


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


class Bridge:
    """One client on a pair of descriptors, and the owner it talks to."""

    def __init__(self, home: Home, hello: Hello, stdin: int = 0, stdout: int = 1) -> None:
        self._home = home
        self._hello = hello
        self._stdin = stdin
        self._stdout = stdout
        self._from_client = jsonrpc.Lines()
        self._from_owner = jsonrpc.Lines()
        self._to_client = Outbox(to_descriptor(stdout))
        self._to_owner: Outbox | None = None
        self._door: socket.socket | None = None
        self._since = 0.0
        self._handshake = Handshake()
        self._questions = Questions()
        self._in_flight: dict[int | str, None] = {}
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._ends_at: float | None = None

    def run(self) -> int:
        """Copy until the client ends its side; the exit status."""
        try:
            self._open()
        except PoolsError as refused:
            return self._turn_away(refused)
        while not self._over():
            self._turn()
        return 0

    # The loop

    def _over(self) -> bool:
        """Whether the client has ended, and has all that there is to have."""
        if self._ends_at is None:
            return False
        nothing_comes = self._door is None and not self._to_client
        return nothing_comes or time.monotonic() >= self._ends_at

    def _turn(self) -> None:
        self._watch()
        for descriptor, _ in self._poll.poll(100 if self._ends_at else None):
            if descriptor == self._stdin:
                self._read_client()
            elif descriptor == self._stdout:
                self._to_client.flush()
            else:
                self._tend_door(descriptor)

    def _watch(self) -> None:
        """Ask only for what can be dealt with: a hang-up is reported to whoever is registered at all.

        The owner comes first: that it died is known before a request is sent to it.
        """
        wanted: dict[int, int] = {}
        owed = len(self._to_owner) if self._to_owner else 0
        if self._door is not None:
            asked = select.POLLIN if len(self._to_client) < _HIGH_WATER else 0
            asked |= select.POLLOUT if owed else 0
            if asked:
                wanted[self._door.fileno()] = asked
        if self._to_client:
            wanted[self._stdout] = select.POLLOUT
        if self._ends_at is None and owed < _HIGH_WATER and len(self._to_client) < 4 * _HIGH_WATER:
            wanted[self._stdin] = select.POLLIN
        if wanted != self._watched:
            self._poll = select.poll()
            for descriptor, events in wanted.items():
                self._poll.register(descriptor, events)
            self._watched = wanted

    def _tend_door(self, descriptor: int) -> None:
        """Read from the owner and write to it, whichever it is ready for."""
        if self._door is None or self._door.fileno() != descriptor:
            return  # it was lost earlier in this turn
        if self._to_owner:
            self._flush_owner()
        if len(self._to_client) < _HIGH_WATER:
            self._read_owner()

    # From the client

    def _read_client(self) -> None:
        chunk = os.read(self._stdin, _READ_BYTES)
        if not chunk:
            self._end()
            return
        try:
            lines = self._from_client.take(chunk)
        except jsonrpc.TooLong as problem:
            self._answer(jsonrpc.error_line(None, jsonrpc.PARSE_ERROR, f"Parse error: {problem}."))
            raise SystemExit(1) from problem
        if lines:
            self._forward(lines)

    def _forward(self, lines: bytes) -> None:
        refused = self._reopen() if self._door is None else None
        kept = [line for line in jsonrpc.split(lines) if self._admit(line)]
        if refused is not None:
            self._answer_refused(refused)
        elif kept:
            assert self._to_owner is not None
            self._to_owner.add(lines if sum(map(len, kept)) == len(lines) else b"".join(kept))
            self._flush_owner()

    def _admit(self, line: bytes) -> bool:
        """Note what a line of the client's is about; whether it goes on to the owner."""
        try:
            about = jsonrpc.envelope(line)
        except ValueError as problem:
            if line.strip():
                self._answer(jsonrpc.error_line(None, jsonrpc.PARSE_ERROR, f"Parse error: {problem}"))
            return False
        except TypeError as problem:
            self._answer(jsonrpc.error_line(None, jsonrpc.INVALID_REQUEST, f"Invalid request: {problem}"))
            return False
        return self._note(about, line)

    def _note(self, about: Envelope, line: bytes) -> bool:
        self._handshake.note(about, line)
        if about.is_request:
            assert about.id is not None
            self._in_flight[about.id] = None
        elif about.cancels is not None:
            self._in_flight.pop(about.cancels, None)  # a cancelled request gets no answer
        elif about.method is None and about.id is not None:
            return self._questions.answered(about.id)
        return True

    def _end(self) -> None:
        """The client has ended its side: hand over what it said, and let the owner finish."""
        self._ends_at = time.monotonic() + _LAST_WORDS
        if rest := self._from_client.rest():
            self._forward(rest)
        self._say_farewell()

    def _say_farewell(self) -> None:
        """Tell the owner that nothing follows, once it has everything."""
        if self._door is None or self._to_owner:
            return
        self._ends_at = time.monotonic() + _FAREWELL
        try:
            self._door.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop_door()

    # From the owner

    def _read_owner(self) -> None:
        assert self._door is not None
        try:
            chunk = self._door.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            chunk = b""
        try:
            lines = self._from_owner.take(chunk)
        except jsonrpc.TooLong:
            chunk = lines = b""
        if lines:
            self._pass_on(lines)
        if not chunk:
            self._lost()

    def _pass_on(self, lines: bytes) -> None:
        kept = [line for line in jsonrpc.split(lines) if self._let_through(line)]
        if kept:
            self._answer(lines if sum(map(len, kept)) == len(lines) else b"".join(kept))

    def _let_through(self, line: bytes) -> bool:
        """Note what a line of the owner's is about; whether the client gets it."""
        try:
            about = jsonrpc.envelope(line)
        except (ValueError, TypeError):
            return False
        if about.is_request:
            assert about.id is not None
            return self._questions.asked(about.id) or self._refuse_question(about.id)
        if about.method is None and about.id is not None:
            self._in_flight.pop(about.id, None)
            self._handshake.answered(about.id)
        return True

    def _refuse_question(self, number: int | str) -> bool:
        if self._to_owner is not None:
            message = "The client still has an open question of this id from an earlier owner."
            self._to_owner.add(jsonrpc.error_line(number, jsonrpc.INVALID_REQUEST, message))
        return False

    def _answer(self, lines: bytes) -> None:
        self._to_client.add(lines)
        self._to_client.flush()

    def _flush_owner(self) -> None:
        assert self._to_owner is not None
        try:
            self._to_owner.flush()
        except ConnectionError:
            self._to_owner.clear()  # what it said before it died is still to be read
        if self._ends_at is not None:
            self._say_farewell()

    # Owners come and go

    def _open(self) -> None:
        """Find or start an owner, and bring it to where the last one was.

        Raises:
            PoolsError: it refused, or could not be started.
        """
        door = connect(self._home, self._hello)
        try:
            self._handshake.replay(door)
        except BaseException:
            door.close()
            raise
        door.setblocking(False)
        self._door, self._to_owner = door, Outbox(to_socket(door))
        self._from_owner = jsonrpc.Lines()
        self._since = time.monotonic()

    def _reopen(self) -> PoolsError | None:
        """Open again after a loss; why it could not be done, if it could not."""
        try:
            self._open()
        except PoolsError as refused:
            print(f"mcp-pools: {refused}", file=sys.stderr, flush=True)
            return refused
        return None

    def _lost(self) -> None:
        """The owner is gone."""
        lived = time.monotonic() - self._since
        self._drop_door()
        if self._ends_at is not None:
            return
        if revoked := self._questions.revoked():
            self._answer(revoked)
        opening = self._handshake.once_more()
        self._in_flight = {number: None for number in self._in_flight if number != opening}
        self._answer_all(_INTERRUPTED, "interrupted")
        if opening is not None:
            self._in_flight[opening] = None
        if opening is not None or lived > _SHORT_LIFE:
            refused = self._reopen()
            if refused is not None:
                self._answer_refused(refused)

    def _answer_refused(self, refused: PoolsError) -> None:
        if self._handshake.unanswered() is not None:
            self._handshake.forget()
        self._answer_all(f"No owner could be reached: {refused}", refused.code)

    def _drop_door(self) -> None:
        if self._door is not None:
            self._door.close()
        self._door = self._to_owner = None

    def _answer_all(self, message: str, code: str) -> None:
        data = {"code": code, "next": "pool_search"}
        for number in self._in_flight:
            self._to_client.add(jsonrpc.error_line(number, jsonrpc.OWNER_GONE, message, data))
        self._in_flight.clear()
        self._to_client.flush()

    def _turn_away(self, refused: PoolsError) -> int:
        """No owner from the start: say so to the first request, and end."""
        print(f"mcp-pools: {refused}", file=sys.stderr, flush=True)
        while not self._in_flight and (chunk := os.read(self._stdin, _READ_BYTES)):
            for line in jsonrpc.split(self._from_client.take(chunk)):
                self._admit(line)
        self._answer_refused(refused)
        while self._to_client:
            select.select([], [self._stdout], [])
            self._to_client.flush()
        return 1
