"""What a waiting command shows on standard error: one line that the next one replaces."""

from __future__ import annotations

import sys
from typing import TextIO

from mcp_pools.terminal.plain_text import one_line

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class ProgressLine:
    """Shows how far a task is. On a terminal the line is redrawn, elsewhere each is a line of its own."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._redraw = self._stream.isatty()
        self._shown = 0

    def start(self) -> None:
        """Say that the command waits."""
        self._write(f"{self._name} …")

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        """Show the latest word of the task."""
        of = f"/{total:g} ({done / total:.0%})" if total else ""
        self._write(f"{self._name}  {done:g}{of}  {one_line(message or '')}".rstrip())

    def clear(self) -> None:
        """Leave no trace on a terminal."""
        if self._shown and self._redraw:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def _write(self, line: str) -> None:
        if self._redraw:
            import shutil

            width = shutil.get_terminal_size().columns
            frame = _FRAMES[self._shown % len(_FRAMES)]
            self._stream.write(f"\r\x1b[2K{frame} {line}"[: width + 3])
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
        self._shown += 1
