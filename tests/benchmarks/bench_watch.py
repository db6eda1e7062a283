"""How fast the live view draws and takes in answers, with many pools: it must be far below a refresh.

python tests/benchmarks/bench_watch.py [POOLS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "terminal"))

from samples import answer, event

from mcp_pools.terminal.keyboard import View
from mcp_pools.terminal.observed import MOST_EVENTS, first, take
from mcp_pools.terminal.screen import Moment, picture, rendered

ROUNDS = 50


def milliseconds(call: Callable[[], object]) -> float:
    """The median of some calls."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def main(pools: int) -> None:
    """Print a line for each size of a terminal, and one for an answer full of events."""
    events = [event(number) for number in range(MOST_EVENTS)]
    given = answer(pools, events)
    seen = first(given, 0.0)
    for second in range(1, 60):
        seen = take(seen, given, float(second))
    print(f"{pools} pools; medians of {ROUNDS}")
    for width, height in ((40, 20), (80, 24), (160, 50)):
        view, moment = View(sort="throughput", top=pools // 2), Moment(60.0, "12:00:00 UTC")
        took = milliseconds(
            lambda w=width, h=height, v=view, m=moment: rendered(picture(seen, v, w, h, m), w, True)
        )
        print(f"  one picture at {width}x{height}: {took:.2f} ms")
    print(f"  one answer of {MOST_EVENTS} events: {milliseconds(lambda: take(seen, given, 60.5)):.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
