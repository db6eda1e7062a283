"""A command on a pseudo-terminal: what a person would type and see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("mcp-pools")
_PATIENCE = 30.0
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class PseudoTerminal:
    """The command's terminal: `type` into it, look at it, wait for what it shows.

    `mode`: the terminal's settings before the command, to be found again after it.
    """

    def __init__(self, words: tuple[str, ...], environment: dict[str, str], columns: int, lines: int) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, lines)
        self.mode = self.settings()
        self.written = ""
        self.process = subprocess.Popen(
            [COMMAND, *words],
            env=environment,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            preexec_fn=self._control,
        )

    def _control(self) -> None:
        os.setsid()
        fcntl.ioctl(self._theirs, termios.TIOCSCTTY, 0)

    def settings(self) -> list[Any]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """As when a person drags a window's corner."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    @property
    def picture(self) -> list[str]:
        """The lines of the latest whole picture; empty before the first."""
        whole = self.written.split("\x1b[H")[1:]
        return _SEQUENCE.sub("", whole[-1]).split("\r\n") if whole else []

    def until(self, holds: Callable[[], Any]) -> Any:
        """Read what the command writes until something holds."""
        deadline = time.monotonic() + _PATIENCE
        while not (value := holds()):
            assert time.monotonic() < deadline, f"it never held; shown: {self.picture or self.written}"
            if select.select([self._ours], [], [], 0.05)[0]:
                self.written += os.read(self._ours, 65536).decode(errors="replace")
        return value

    def shows(self, words: str) -> None:
        """Wait until the picture has these words."""
        self.until(lambda: any(words in line for line in self.picture))

    def status(self) -> int:
        """Wait for the command's end: its exit status, or minus the signal."""
        self.until(lambda: self.process.poll() is not None)
        self.until(lambda: not select.select([self._ours], [], [], 0)[0])
        assert self.process.returncode is not None
        return self.process.returncode

    def close(self) -> None:
        """End what still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)
