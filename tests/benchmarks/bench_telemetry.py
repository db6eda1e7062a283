"""What counting costs: empty tasks with metrics counted, and with nothing counted, in turns.

    python tests/benchmarks/bench_telemetry.py [--calls N] [--parts N] [--rounds N]

Read the ratio: whatever else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from timeit import timeit
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from mcp_pools import Router, Settings, telemetry
from mcp_pools.exposition import Exposition
from mcp_pools.telemetry import Meters
from mcp_pools.tools import pool_distribute, pool_execute

ECHO: dict[str, Any] = {"task_type": "echo", "payload": {}}


async def alone(router: Router) -> float:
    """Seconds from submitting an empty task to its result."""
    began = time.perf_counter()
    await pool_execute(router, **ECHO)
    return time.perf_counter() - began


async def spread(router: Router, parts: int) -> tuple[float, float]:
    """Parts a second of one distribution of empty tasks, and the router's processor seconds for each."""
    items = {"x": "{item}", "items": list(range(parts))}
    began, worked = time.perf_counter(), time.process_time()
    await pool_distribute(router, task_type="echo", payload=items, chunk_size=1)
    return parts / (time.perf_counter() - began), (time.process_time() - worked) / parts


async def compared(calls: int, parts: int, rounds: int) -> dict[str, float]:
    """Two routers side by side, one that counts and one that does not, in turns."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    spreads: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    async with AsyncExitStack() as stack:
        routers = {}
        for counted in (True, False):
            home = stack.enter_context(tempfile.TemporaryDirectory())
            settings = Settings(home=home, pool_default_max_workers=2, metrics=counted)
            routers[counted] = await stack.enter_async_context(Router.open(settings))
            await spread(routers[counted], 500)
        for turn in range(calls):
            for counted in (turn % 2 == 0, turn % 2 == 1):
                seconds[counted].append(await alone(routers[counted]))
        for turn in range(rounds):
            for counted in (turn % 2 == 0, turn % 2 == 1):
                spreads[counted].append(await spread(routers[counted], parts))
    p50 = {counted: statistics.median(each) for counted, each in seconds.items()}
    rate, work = (
        {counted: statistics.median(one[at] for one in each) for counted, each in spreads.items()}
        for at in (0, 1)
    )
    return {
        "submit_and_wait_p50_ms": round(p50[True] * 1e3, 3),
        "p50_ratio": round(p50[True] / p50[False], 3),
        "parts_per_second": round(rate[True]),
        "rate_ratio": round(rate[True] / rate[False], 3),
        "processor_us_per_part": round(work[True] * 1e6, 1),
        "processor_ratio": round(work[True] / work[False], 3),
    }


def records(times: int = 100_000) -> dict[str, float]:
    """Nanoseconds that a record costs here, and with OpenTelemetry's own instruments."""
    meters, meter = Meters(), MeterProvider([InMemoryMetricReader()]).get_meter("bench")
    counter, histogram = meter.create_counter("c"), meter.create_histogram("h")
    labels = {"pool": "p", "task_type": "echo"}
    ways: dict[str, Callable[[], None]] = {
        "count": lambda: meters.add(telemetry.SUBMITTED, "p", "echo"),
        "observe": lambda: meters.observe(telemetry.DURATION, 0.01, "p", "echo"),
        "opentelemetry_count": lambda: counter.add(1, labels),
        "opentelemetry_observe": lambda: histogram.record(0.01, labels),
    }
    return {name: round(timeit(way, number=times) / times * 1e9) for name, way in ways.items()}


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
    flags.add_argument("--calls", type=int, default=1000)
    flags.add_argument("--parts", type=int, default=5000)
    flags.add_argument("--rounds", type=int, default=6)
    given = flags.parse_args()
    report: dict[str, Any] = {
        **await compared(given.calls, given.parts, given.rounds),
        "record_ns": records(),
        "scrape_of_100_pools_ms": round(await scrape(100) * 1e3, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
