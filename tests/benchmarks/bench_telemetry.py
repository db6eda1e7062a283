"""What counting costs: empty tasks with metrics counted, and with nothing counted, in turns.

    python tests/benchmarks/bench_telemetry.py [--tasks N] [--rounds N]

Read the ratio: whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from typing import Any

from mcp_pools import Router, Settings
from mcp_pools.exposition import Exposition
from mcp_pools.telemetry import Meters
from mcp_pools.tools import pool_distribute, pool_execute

ECHO: dict[str, Any] = {"task_type": "echo", "payload": {}}


async def measured(tasks: int, *, counted: bool) -> tuple[float, float]:
    """Seconds of one submit-and-wait at the median, and parts a second of one distribution."""
    observe, add = Meters.observe, Meters.add
    if not counted:
        Meters.observe = Meters.add = lambda *words, **more: None  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as home:
            async with Router.open(Settings(home=home, pool_default_max_workers=2)) as router:
                for _ in range(50):
                    await pool_execute(router, **ECHO)
                alone = []
                for _ in range(300):
                    began = time.perf_counter()
                    await pool_execute(router, **ECHO)
                    alone.append(time.perf_counter() - began)
                began = time.perf_counter()
                items = {"x": "{item}", "items": list(range(tasks))}
                await pool_distribute(router, task_type="echo", payload=items, chunk_size=1)
                return statistics.median(alone), tasks / (time.perf_counter() - began)
    finally:
        Meters.observe, Meters.add = observe, add  # type: ignore[method-assign]


async def scrape(pools: int) -> float:
    """Seconds of one look at a router with many pools."""
    pool = {"min_workers": 0, "max_workers": 1}
    keys: dict[str, Any] = {"pools": {f"p{number}": pool for number in range(pools)}}
    with tempfile.TemporaryDirectory() as home:
        async with Router.open(Settings(home=home, **keys)) as router:
            exposition = Exposition(router)
            await exposition.text()
            began = time.perf_counter()
            await exposition.text()
            seconds = time.perf_counter() - began
            await exposition.aclose()
    return seconds


async def main() -> None:
    """Measure in turns and print the ratios."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--tasks", type=int, default=5000)
    flags.add_argument("--rounds", type=int, default=5)
    given = flags.parse_args()
    runs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for _ in range(given.rounds):
        for counted in (True, False):
            runs[counted].append(await measured(given.tasks, counted=counted))
    alone = {counted: statistics.median(each[0] for each in runs[counted]) for counted in runs}
    rate = {counted: statistics.median(each[1] for each in runs[counted]) for counted in runs}
    report = {
        "submit_and_wait_p50_ms": round(alone[True] * 1e3, 3),
        "of_not_counting": round(alone[True] / alone[False], 3),
        "parts_per_second": round(rate[True]),
        "of_not_counting_rate": round(rate[True] / rate[False], 3),
        "scrape_of_100_pools_ms": round(await scrape(100) * 1e3, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
