"""`watch --follow`: every event once, as a line of JSON, also across the end of an owner."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from mcp_pools.client import Unreachable
from mcp_pools.formats import as_json
from mcp_pools.terminal.output import Options, complain, is_read, write
from mcp_pools.terminal.reach import Held

_LONGEST_WAIT: Final = 30
"""Seconds that one question waits for an event; the tool allows no more."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


def run(cursor: str | None, options: Options) -> int:
    """Print events until the reader leaves: 0.

    Raises:
        Unreachable: nobody answered at all.
        mcp_pools.terminal.reach.Refused: the cursor is of another home, or the connection was refused.
        KeyboardInterrupt: Ctrl-C, which is how a person ends it.
    """
    with closing(Held(options.server, options.config)) as held:
        for events in answers(held, cursor):
            lines = "".join(as_json(event, indent=False) + "\n" for event in events)
            if not (write(lines) if lines else is_read()):
                return 0
    return 0


def answers(held: Held, cursor: str | None) -> Iterator[list[dict[str, Any]]]:
    """The events of each answer, for ever; none when nothing happened for a while.

    The cursor moves on with each answer that arrived whole, so a connection that is lost
    neither loses an event nor brings one twice.
    """
    pause, answered = _FIRST_PAUSE, False
    while True:
        try:
            given = {} if cursor is None else {"cursor": cursor}
            answer = held.call("pool_watch", {**given, "wait_seconds": _LONGEST_WAIT})
        except Unreachable:
            if not answered:
                raise
            if pause == _FIRST_PAUSE:
                complain("the connection was lost; it goes on from the same event when somebody answers.")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            continue
        pause, answered, cursor = _FIRST_PAUSE, True, answer["cursor"]
        yield answer["events"]
