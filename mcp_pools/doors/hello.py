"""The first line of every connection to an owner, and the line that answers it.

    client  {"version", "kind", "cwd", "config", "flags", "depth", "replace"}
    owner   {"ok": true, "version", "pid"}
    owner   {"ok": false, "code", "message", "next"}

What the hello says binds its own connection alone. The owner decides; a client obeys.
`leaving` is the one code that is no refusal: wait until the lock is free, then start
the next owner.

Standard library only, and nothing slow to import: every bridge pays for it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from typing import Any, Final, NamedTuple

from mcp_pools import __version__
from mcp_pools.errors import CODES, PoolsError

LEAVING: Final = "leaving"
LONGEST_HELLO: Final = 65536
"""Bytes. A first line longer than this is not a hello."""


class Flags(NamedTuple):
    """How one MCP client is narrowed: `serve --read-only`, `--tools` and the like."""

    read_only: bool = False
    disable_destructive: bool = False
    tools: tuple[str, ...] = ()
    exclude_tools: tuple[str, ...] = ()
    toolsets: tuple[str, ...] = ()


class Hello(NamedTuple):
    """Who connects, from where, and with which limits.

    `kind` is `mcp` or `console`, `config` the absolute path that `--config` named,
    `depth` how many tasks the client runs inside of. `replace` asks an owner to leave
    that has nothing else to do.
    """

    version: str
    kind: str
    cwd: str
    config: str | None = None
    flags: Flags = Flags()
    depth: int = 0
    replace: bool = False

    @classmethod
    def here(cls, kind: str, config: str | None = None, flags: Flags | None = None) -> Hello:
        """The hello of this process: its directory, its version, its depth."""
        return cls(
            version=__version__,
            kind=kind,
            cwd=_working_directory(),
            config=os.path.realpath(config) if config else None,
            flags=flags or Flags(),
            depth=_depth(os.environ.get("MCP_POOLS_DEPTH", "")),
        )

    def line(self) -> bytes:
        """The hello as one line of JSON, newline included."""
        return _line(self._asdict() | {"flags": self.flags._asdict()})

    @classmethod
    def read(cls, line: bytes) -> Hello:
        """The hello in `line`; fields a newer client added are passed over, flags are not.

        Raises:
            ValueError: the line is no hello.
        """
        said = _object(line)
        flags = {name: _flag(value) for name, value in dict(said.get("flags") or {}).items()}
        # A restriction that this version does not know must not be ignored.
        if unknown := flags.keys() - set(Flags._fields):
            raise ValueError(f"unknown flag {min(unknown)!r}")
        return cls(
            version=_text(said, "version"),
            kind=_text(said, "kind"),
            cwd=_text(said, "cwd"),
            config=_text(said, "config") if said.get("config") else None,
            flags=Flags(**flags),
            depth=int(said.get("depth") or 0),
            replace=bool(said.get("replace")),
        )


class Reply(NamedTuple):
    """The owner's answer to a hello: `version` and `pid` when it accepts, else why not."""

    ok: bool
    version: str = ""
    pid: int = 0
    code: str = ""
    message: str = ""
    next: str = ""

    def line(self) -> bytes:
        """The reply as one line of JSON, newline included."""
        wanted = ("ok", "version", "pid") if self.ok else ("ok", "code", "message", "next")
        return _line({name: getattr(self, name) for name in wanted})

    @classmethod
    def read(cls, line: bytes) -> Reply:
        """The reply in `line`.

        Raises:
            ValueError: the line is no reply.
        """
        said = _object(line)
        return cls(**{name: said[name] for name in cls._fields if name in said})

    def refusal(self) -> PoolsError:
        """The error that a refused client raises."""
        code = self.code if self.code in CODES else "conflict"
        return PoolsError(code, self.message, self.next)


def newer(version: str, than: str) -> bool:
    """Whether `version` is a later release; compares the numbers, `0.10.0` after `0.9.1`."""
    return _numbers(version) > _numbers(than)


def peer_uid(door: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket, as the kernel knows it."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def greet(door: socket.socket, hello: Hello) -> Reply | None:
    """Say hello on a connected socket; `None` when the owner hung up instead of answering.

    Raises:
        TimeoutError: no answer within the socket's timeout.
        ValueError: the answer is no reply.
    """
    try:
        door.sendall(hello.line())
        line = read_line(door, LONGEST_HELLO)
    except (BrokenPipeError, ConnectionResetError):
        return None
    return Reply.read(line) if line else None


def read_line(door: socket.socket, longest: int) -> bytes:
    """One line, and not a byte of what follows it; empty when the other side hung up.

    Raises:
        TimeoutError: it did not come within the socket's timeout.
        ValueError: more than `longest` bytes without a newline.
    """
    line = b""
    while not line.endswith(b"\n"):
        ahead = door.recv(longest, socket.MSG_PEEK)
        if not ahead:
            return b""
        line += door.recv(ahead.find(b"\n") + 1 or len(ahead))
        if len(line) > longest:
            raise ValueError(f"a line of more than {longest} bytes")
    return line


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _depth(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    said = json.loads(line)
    if not isinstance(said, dict):
        raise ValueError(f"expected a JSON object, got {type(said).__name__}")
    return said


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {type(value).__name__}")
    return value


def _flag(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
