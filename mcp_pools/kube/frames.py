"""What a Job says in its log: one numbered, checksummed line a frame.

A frame is `mcp-pools SEQ KIND CRC32 BASE64`. Lines of any other form are output of what ran
around the task. A log may be read again from its start, so frames that were heard are
passed over; one that is missing or damaged is known by its number or its checksum.

Standard library only: it runs in the Job, too.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any, Final, NamedTuple

PART_BYTES: Final = 9000
"""Data of one frame at most: with its base64 it stays below the 16 KiB at which container
runtimes break lines."""

_MARK: Final = b"mcp-pools"


class Frame(NamedTuple):
    """One thing said: `kind` is `started`, `progress`, `printed`, `part`, `ran` or `ended`."""

    kind: str
    data: bytes

    @property
    def fields(self) -> Any:
        """Its data as JSON."""
        return json.loads(self.data)


class Writer:
    """Numbers frames and puts them into lines."""

    def __init__(self) -> None:
        self._seq = 0

    def line(self, kind: str, data: bytes) -> bytes:
        """A frame as a line; `data` has up to `PART_BYTES`."""
        seq, self._seq = self._seq, self._seq + 1
        coded = base64.b64encode(data)
        check = zlib.crc32(b"%d %s %s" % (seq, kind.encode(), data))
        return b"%s %d %s %08x %s\n" % (_MARK, seq, kind.encode(), check, coded)


class Reader:
    """Takes lines, and gives each frame once, in order."""

    def __init__(self) -> None:
        self._next = 0
        self.damage = ""
        """What is wrong with the log read so far, in words; empty: nothing."""

    def again(self) -> None:
        """The log is read from its start once more: what was missing may be there now."""
        self.damage = ""

    def line(self, line: bytes) -> Frame | None:
        """The frame of a line; `None` when it was heard before or cannot be used."""
        words = line.rstrip(b"\r\n").split(b" ")
        if len(words) != 5 or words[0] != _MARK:
            return Frame("printed", line + b"\n") if line and not self._next else None
        try:
            seq, kind, data = int(words[1]), words[2], base64.b64decode(words[4], validate=True)
            whole = zlib.crc32(b"%d %s %s" % (seq, kind, data)) == int(words[3], 16)
        except (ValueError, binascii.Error):
            whole, seq = False, self._next
        if not whole:
            self.damage = self.damage or f"frame {seq} is damaged"
        elif seq > self._next:
            self.damage = self.damage or f"frame {self._next} is missing"
        elif seq == self._next:
            self._next += 1
            return Frame(kind.decode(), data)
        return None
