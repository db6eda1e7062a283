"""Bytes that wait for a slow reader, and ways to write that never block.

Standard library only.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable
from typing import Final

Write = Callable[[memoryview], int]
"""Takes some of the bytes: how many, 0 when there is no room now. Raises `ConnectionError`."""

_PIPE_BYTES: Final = 4096
"""A pipe that polls writable has room for this much (`PIPE_BUF`)."""


class Outbox:
    """What is still to be written, in order. Its length is in bytes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: deque[memoryview] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, data: bytes) -> None:
        """Put `data` behind what waits; nothing is written yet."""
        self._waiting.append(memoryview(data))
        self._size += len(data)

    def flush(self) -> None:
        """Write what can be written now.

        Raises:
            ConnectionError: nobody reads any more.
        """
        while self._waiting:
            first = self._waiting[0]
            taken = self._write(first)
            if not taken:
                return
            self._size -= taken
            if taken == len(first):
                self._waiting.popleft()
            else:
                self._waiting[0] = first[taken:]

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._size = 0


def to_socket(door: socket.socket) -> Write:
    """Writes to a connected socket, which may be in blocking mode."""

    def write(data: memoryview) -> int:
        try:
            return door.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    return write


def to_descriptor(descriptor: int) -> Write:
    """Writes to a descriptor that other processes may share: its mode is left alone.

    A pipe (the usual stdout) and a socket (what Node gives) never block; a file or a
    terminal may, for as long as that takes.
    """
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return to_socket(socket.socket(fileno=os.dup(descriptor)))
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)

    def write(data: memoryview) -> int:
        return os.write(descriptor, data[:_PIPE_BYTES]) if ready.poll(0) else 0

    return write
