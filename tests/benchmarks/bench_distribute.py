"""Distributions beside a bare ProcessPoolExecutor, in one run: throughput, cost per part, CPU-bound work.

    python tests/benchmarks/bench_distribute.py [--rounds N] [--output FILE]

Both take turns, so that what else the machine does meets both. Read the ratios: absolute
numbers are the machine's. Ours are durable, with full sync; the executor's are not.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_distribute, pool_register

PARTS = 5_000
SIZES = (100, 1_000, 10_000)
HEAVY = {"stmt": "sum(range(1000))", "number": 2500}
"""Arguments of `timeit.timeit`, which is CPU-bound as long as one likes."""
HEAVY_ITEMS = 64


def echo(payload: dict[str, int]) -> dict[str, int]:
    """What the executor runs for a part: the same as the task type `echo`."""
    return payload


def heavy(kwargs: dict[str, Any]) -> float:
    """What the executor runs of CPU-bound work: the same as the task type `python`."""
    return timeit.timeit(**kwargs)


async def distributed(router: Router, parts: int) -> float:
    """Seconds that a distribution of so many no-op parts takes, its results included."""
    payload = {"x": "{item}", "items": list(range(parts))}
    started = time.perf_counter()
    whole = await pool_distribute(router, task_type="echo", payload=payload, chunk_size=1)
    seconds = time.perf_counter() - started
    assert whole.succeeded == parts, whole.status
    return seconds


async def reduced(router: Router) -> float:
    """Seconds of CPU-bound work, folded."""
    payload = {"function": "timeit:timeit", "kwargs": "{item}", "items": [HEAVY] * HEAVY_ITEMS}
    started = time.perf_counter()
    whole = await pool_distribute(
        router, task_type="python", payload=payload, strategy="map_reduce", reduce="sum"
    )
    seconds = time.perf_counter() - started
    assert whole.succeeded == HEAVY_ITEMS and whole.reduced > 0
    return seconds


def mapped(executor: ProcessPoolExecutor, work: Callable[[Any], Any], items: list[Any]) -> float:
    """Seconds that the executor takes for the same."""
    started = time.perf_counter()
    assert len(list(executor.map(work, items))) == len(items)
    return time.perf_counter() - started


async def compare(rounds: int) -> dict[str, Any]:
    """Every measurement, in turns."""
    seconds: dict[str, list[float]] = {}

    def noted(name: str, took: float) -> None:
        seconds.setdefault(name, []).append(took)

    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as home, ProcessPoolExecutor(2) as executor:
        async with Router.open(Settings(home=Path(home), allow={"python": ["timeit"]})) as router:
            await pool_register(router, name="bench", type="local", max_workers=2)
            items = [{"x": n} for n in range(PARTS)]
            await distributed(router, 500)
            await asyncio.to_thread(mapped, executor, echo, items[:500])
            await reduced(router)
            for _ in range(rounds):
                await asyncio.sleep(2)  # what the last round left to be indexed is not this one's
                noted("executor", await asyncio.to_thread(mapped, executor, echo, items))
                noted("ours", await distributed(router, PARTS))
                for size in SIZES:
                    await asyncio.sleep(1)
                    noted(f"ours {size}", await distributed(router, size))
                heavies = [HEAVY] * HEAVY_ITEMS
                noted("executor heavy", await asyncio.to_thread(mapped, executor, heavy, heavies))
                noted("ours heavy", await reduced(router))
            started = time.perf_counter()
            assert sum(map(heavy, heavies)) > 0
            noted("serial heavy", time.perf_counter() - started)
    return report({name: statistics.median(each) for name, each in seconds.items()})


def report(median: dict[str, float]) -> dict[str, Any]:
    """Medians as rates and ratios."""
    return {
        f"parts_per_second_{PARTS}": {
            "mcp_pools": round(PARTS / median["ours"]),
            "executor": round(PARTS / median["executor"]),
            "ratio": round(median["executor"] / median["ours"], 2),
        },
        "microseconds_per_part": {size: round(median[f"ours {size}"] / size * 1e6) for size in SIZES},
        "cpu_bound_speed_up": {
            "mcp_pools": round(median["serial heavy"] / median["ours heavy"], 2),
            "executor": round(median["serial heavy"] / median["executor heavy"], 2),
            "ratio": round(median["executor heavy"] / median["ours heavy"], 2),
        },
    }


def main() -> None:
    """Measure, print, and write the same to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    measured = asyncio.run(compare(given.rounds))
    print(json.dumps(measured, indent=2))
    if given.output:
        given.output.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
