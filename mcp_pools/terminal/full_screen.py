"""A terminal taken over: the alternate screen, keys one by one, and everything given back.

Whatever ends the view, also an exception or a signal, leaves the terminal as it was.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Self

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # the other screen, no cursor, no wrapping at the edge
_LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"

Handler = Callable[[int, FrameType | None], None]


class FullScreen:
    """The terminal on standard output; keys come from standard input, where that is one, too."""

    def __init__(self) -> None:
        self._keys = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        self._handlers: dict[int, Any] = {}
        self._mode: list[Any] | None = None

    def __enter__(self) -> Self:
        handlers: dict[int, Handler] = {
            signal.SIGTERM: _end,
            signal.SIGHUP: _end,
            signal.SIGWINCH: lambda *_: self.wake(),
            signal.SIGTSTP: self._stop,
        }
        self._handlers = {number: signal.signal(number, each) for number, each in handlers.items()}
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._woken)
        os.close(self._wake)

    def size(self) -> os.terminal_size:
        """Columns and lines, as they are now."""
        try:
            return os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return shutil.get_terminal_size()

    def show(self, lines: Sequence[str]) -> None:
        """Draw whole lines over what is there, without clearing it first: that would flicker."""
        _write("\x1b[?2026h\x1b[H" + "\n".join(lines) + "\x1b[?2026l")  # shown at once, where it can be

    def wait(self, seconds: float) -> bytes:
        """Wait for keys, a wake-up or the time; what was typed.

        Raises:
            EOFError: the terminal is gone.
        """
        watched = [self._woken] if self._keys is None else [self._woken, self._keys]
        ready, _, _ = select.select(watched, [], [], max(seconds, 0.0))
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._keys not in ready or self._keys is None:
            return b""
        typed = os.read(self._keys, 1024)
        if not typed:
            raise EOFError
        return typed

    def wake(self) -> None:
        """End a wait; from any thread."""
        with suppress(OSError):  # A full pipe wakes as well, and a closed one has nobody to wake.
            os.write(self._wake, b".")

    def _take(self) -> None:
        if self._keys is not None:
            self._mode = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        _write(_ENTER)

    def _give_back(self) -> None:
        with suppress(OSError, ValueError):  # A terminal that is gone needs nothing back.
            _write(_LEAVE)
        if self._keys is not None and self._mode is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._mode)

    def _stop(self, *_: object) -> None:
        """Ctrl-Z: give the terminal back while the process stands still."""
        self._give_back()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, ours)
        self._take()
        self.wake()


def _end(number: int, _: FrameType | None) -> None:
    """Unwind, so that the terminal is given back, and say by which signal."""
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
