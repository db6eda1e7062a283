"""JSON-RPC lines: what one is about, and the lines that answer it with an error.

Standard library only.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
OWNER_GONE: Final = -32000
"""The SDK's `CONNECTION_CLOSED`."""

LONGEST_LINE: Final = 256 << 20
"""Bytes of one message."""

_WHOLE: Final = 2048
"""Up to here reading a whole line costs a few microseconds; longer ones are read at both ends."""
_END: Final = 1024
_MEMBER: Final = rb'\s*"\w+"\s*:\s*(?:"(?:[^"\\]|\\.){0,256}"|-?\d{1,18}|null|true|false)\s*'
_HEAD: Final = re.compile(rb"\s*\{(?:" + _MEMBER + rb",)+")
_TAIL: Final = re.compile(rb"(?:," + _MEMBER + rb")+\}\s*\Z")


class TooLong(Exception):
    """A line longer than its reader takes."""


class Envelope(NamedTuple):
    """A message without its content. `id` is `None` for a notification.

    `cancels` is the id of the request that a `notifications/cancelled` names.
    """

    method: str | None
    id: int | str | None
    cancels: int | str | None = None

    @property
    def is_request(self) -> bool:
        """Whether it wants an answer."""
        return self.method is not None and self.id is not None


def envelope(line: bytes) -> Envelope:
    """What `line` is about.

    Raises:
        ValueError: it is not JSON.
        TypeError: it is JSON, but no object.
    """
    try:
        said = _ends(line) if len(line) > _WHOLE else json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(said, dict):
        raise TypeError(f"expected one JSON object, got {type(said).__name__}")
    method, number = said.get("method"), said.get("id")
    known = number if isinstance(number, int | str) else None
    cancels = _cancelled(said.get("params")) if method == "notifications/cancelled" else None
    return Envelope(method if isinstance(method, str) else None, known, cancels)


def error_line(
    number: int | str | None, code: int, message: str, data: dict[str, Any] | None = None
) -> bytes:
    """An error that answers request `number`, as one line, newline included."""
    error: dict[str, Any] = {"code": code, "message": message} | ({"data": data} if data else {})
    return line({"jsonrpc": "2.0", "id": number, "error": error})


def line(message: dict[str, Any]) -> bytes:
    """`message` as one line, newline included."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def split(lines: bytes) -> list[bytes]:
    """Complete lines, one by one, newlines included. Only a newline ends a line: JSON may hold a bare CR."""
    if lines.find(b"\n") == len(lines) - 1:
        return [lines] if lines else []
    return [part + b"\n" for part in lines[:-1].split(b"\n")]


class Lines:
    """Complete lines out of chunks of bytes, verbatim."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self.longest = longest
        self._rest = bytearray()

    def take(self, chunk: bytes) -> bytes:
        """All lines that `chunk` completes, newlines included; what is left waits for more.

        Raises:
            TooLong: no newline within `longest` bytes.
        """
        end = chunk.rfind(b"\n") + 1
        if not self._rest and end == len(chunk):
            return chunk
        if len(self._rest) + len(chunk) > self.longest:
            raise TooLong(f"more than {self.longest} bytes in one line")
        self._rest += chunk[:end] if end else chunk
        if not end:
            return b""
        whole = bytes(self._rest)
        self._rest = bytearray(chunk[end:])
        return whole

    def rest(self) -> bytes:
        """The last line of a stream that ended without a newline, completed; empty if it did not."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest + b"\n" if rest else b""


def _ends(text: bytes) -> Any:
    """The scalar members at both ends of a long object: clients put the id at either."""
    members: dict[str, Any] = {}
    if tail := _TAIL.search(text, max(0, len(text) - _END)):
        members |= json.loads(b"{" + tail.group()[1:])
    if head := _HEAD.match(text, 0, _END):
        members |= json.loads(head.group()[:-1] + b"}")
    return members if "id" in members else json.loads(text)


def _cancelled(params: Any) -> int | str | None:
    number = params.get("requestId") if isinstance(params, dict) else None
    return number if isinstance(number, int | str) else None
