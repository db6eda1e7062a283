"""`watch` on a terminal: one thread looks at the pools, the other draws and takes keys.

They share one value, a snapshot that never changes: the looking thread puts a newer one
in its place and wakes the other.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from mcp_pools.client import Unreachable
from mcp_pools.terminal.full_screen import FullScreen
from mcp_pools.terminal.keyboard import View, keys, press
from mcp_pools.terminal.observed import Observed, first, take
from mcp_pools.terminal.output import Options, colored
from mcp_pools.terminal.reach import Held, Refused
from mcp_pools.terminal.screen import Moment, layout, picture, rendered

_CLOCK_SECONDS: Final = 1.0
_BETWEEN_PICTURES: Final = 0.04
"""Seconds. More pictures than eyes can tell apart only cost time."""
_PAUSES: Final = (0.5, 1.0, 2.0, 5.0)
"""Seconds before each try to reach somebody again; the last for all that follow."""
_PATIENCE: Final = 1.0


def run(refresh: float, options: Options) -> int:
    """Show the view until somebody quits: 0.

    Args:
        refresh: seconds between two looks.

    Raises:
        Unreachable: nobody answered at all; later that is shown, and tried again.
        Refused: the first look was refused.
        KeyboardInterrupt: Ctrl-C.
    """
    held = Held(options.server, options.config)
    seen = first(held.call("pool_watch", {}), time.monotonic())
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    with FullScreen() as terminal, Looking(held, seen, refresh, terminal.wake) as looking:
        return _show(terminal, looking)


def _show(terminal: FullScreen, looking: Looking) -> int:
    """Draw what is seen and do what the keys say, until one of them is q."""
    view, shown, drawn = View(), looking.seen, 0.0
    while True:
        shown = shown if view.paused else looking.seen
        width, height = terminal.size()
        if time.monotonic() - drawn >= _BETWEEN_PICTURES:
            lines = picture(shown, view, width, height, _now())
            terminal.show(rendered(lines, width, colored()))
            drawn = time.monotonic()
            typed = terminal.wait(_CLOCK_SECONDS)
        else:
            typed = terminal.wait(_BETWEEN_PICTURES)
        for key in keys(typed):
            if key == "q":
                return 0
            view, drawn = press(view, key, layout(height, len(shown.pools)).pools, len(shown.pools)), 0.0


def _now() -> Moment:
    return Moment(time.monotonic(), time.strftime("%H:%M:%S UTC", time.gmtime()))


class Looking:
    """Looks at the pools every `refresh` seconds, in a thread; `seen` is the latest snapshot.

    Events come some at a time: while there are more, it asks again at once.
    """

    def __init__(self, held: Held, seen: Observed, refresh: float, wake: Callable[[], None]) -> None:
        self.seen = seen
        self._held = held
        self._refresh = refresh
        self._wake = wake
        self._failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looking", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # One that waits for an owner that hangs ends with the process.
        self._ended.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        pause = 0.0 if self.seen.behind else self._refresh
        while not self._ended.wait(pause):
            self.seen = self._looked()
            self._failures = self._failures + 1 if self.seen.trouble else 0
            pause = self._pause()
            self._wake()
        self._held.close()

    def _pause(self) -> float:
        if self._failures:
            return _PAUSES[min(self._failures, len(_PAUSES)) - 1]
        return 0.0 if self.seen.behind else self._refresh

    def _looked(self) -> Observed:
        seen = self.seen
        try:
            answer = self._held.call("pool_watch", {"cursor": seen.cursor} if seen.cursor else {})
            return take(seen, answer, time.monotonic())
        except Unreachable:
            return seen.with_trouble("the owner is gone; looking for the next one")
        except Refused as refused:
            # A cursor that is refused is of another home: look at what is there now.
            return seen.with_trouble(str(refused), forget_cursor=refused.code == "invalid_payload")
        except Exception as unknown:  # A thread that dies would leave a picture that only seems to live.
            return seen.with_trouble(f"what answers is not understood: {unknown!r}")
