"""What a waiting command shows on standard error: a bar, how fast it grows, and how long it will take."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

from mcp_pools.terminal.plain_text import one_line

_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_WINDOW_SECONDS: Final = 10.0
"""The rate is an average over this long."""
_BETWEEN_REDRAWS: Final = 0.05
_BETWEEN_LINES: Final = 1.0
"""Seconds. A log file is to stay readable."""
_PLAIN_WIDTH: Final = 120
_LONGEST_BAR: Final = 24
_SHORTEST_BAR: Final = 6


def bar(done: float, total: float | None, rate: float | None, width: int, message: str = "") -> str:
    """How far something is, in one line of at most `width` characters.

    Args:
        total: what there is to do; `None` when nobody knows: then there is no bar.
        rate: items per second; `None` while it is unknown.
        message: the task's own words; they get the room that is left.
    """
    if not total or total < 0:
        counted = f"{done:g}"
        return _fitted([counted, _rated(rate), message], width)
    share = max(0.0, min(1.0, done / total))
    left = _time(max(0.0, total - done) / rate) if rate else ""
    numbers = [f"{int(100 * share):3}%", left and f"{left} left", f"{done:g}/{total:g}", _rated(rate)]
    long = min(_LONGEST_BAR, max(_SHORTEST_BAR, width - 40))
    full = int(share * long)
    return _fitted(["━" * full + "─" * (long - full), *numbers, message], width)


def _fitted(parts: list[str], width: int) -> str:
    """The parts that there is room for, the first ones first; the last may be cut."""
    *parts, message = parts
    line = ""
    for part in filter(None, parts):
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            return line or part[:width]
        line = longer
    room = width - len(line) - 2
    if not message or room < 4:
        return line
    return f"{line}  {message if len(message) <= room else message[: room - 1] + '…'}"


def _rated(rate: float | None) -> str:
    return "" if not rate else f"{rate:.3g}/s" if rate < 1000 else f"{rate:.0f}/s"


def _time(seconds: float) -> str:
    """`0:07`, `12:30`, `3:00:00`."""
    minutes, rest = divmod(round(min(seconds, 359_999)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Pace:
    """How fast something grows, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def rate(self, done: float, now: float) -> float | None:
        """Items per second up to now; `None` until two moments are known.

        What goes back, as a task does that runs again, is measured anew.
        """
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        if len(self._seen) > 1 and now - self._seen[-2][0] < _BETWEEN_REDRAWS:
            self._seen.pop()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return (done - before) / (now - began) if now > began else None


class ProgressLine:
    """Shows how far a task is. On a terminal the line is redrawn, elsewhere there is one now and then.

    Args:
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, name: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._redraw = self._stream.isatty()
        self._pause = _BETWEEN_REDRAWS if self._redraw else _BETWEEN_LINES
        self._clock = clock
        self._pace = Pace()
        self._shown = 0
        self._shown_at = float("-inf")
        self._kept: tuple[float, float | None, float | None, str] | None = None

    def start(self) -> None:
        """Say that the command waits."""
        self._write(f"{self._name} …")

    def __call__(self, done: float, total: float | None, message: str | None) -> None:
        """Show the latest word of the task, or keep it while the one before has just been shown."""
        now = self._clock()
        self._kept = (done, total, self._pace.rate(done, now), one_line(message or ""))
        if now - self._shown_at >= self._pause:
            self._shown_at = now
            self._show()

    def clear(self) -> None:
        """End: leave no trace on a terminal, elsewhere the last word."""
        if self._shown and self._redraw:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
        elif not self._redraw:
            self._show()

    def _show(self) -> None:
        if self._kept is None:
            return
        done, total, rate, message = self._kept
        self._kept = None
        width = self._width() - len(self._name) - 2
        self._write(f"{self._name}  {bar(done, total, rate, width, message)}".rstrip())

    def _width(self) -> int:
        if not self._redraw:
            return _PLAIN_WIDTH
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = shutil.get_terminal_size().columns
        return columns - 3  # the frame, a space, and the edge, where some terminals wrap

    def _write(self, line: str) -> None:
        if self._redraw:
            frame = _FRAMES[self._shown % len(_FRAMES)]
            self._stream.write(f"\r\x1b[2K{frame} {line}")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
        self._shown += 1
