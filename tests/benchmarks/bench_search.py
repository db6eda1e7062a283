"""How long `pool_search` takes over many tasks, and how long the index of texts takes to be written.

    python tests/benchmarks/bench_search.py [--tasks N] [--runs N]

The tasks are of five types and four pools; one in a thousand failed; every word is in a
tenth of them, in a thousandth, or in one. Each question is asked through the tool.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mcp_pools.tools  # noqa: F401 - fills TOOLS
from mcp_pools import Router, Settings
from mcp_pools.store import Accept, TaskRow
from mcp_pools.stores.sqlite import SqliteStore
from mcp_pools.tool import TOOLS

NOW = 1_800_000_000.0
QUESTIONS: dict[str, dict[str, Any]] = {
    "the newest": {},
    "a word of every task": {"query": "words"},
    "a word of a tenth": {"query": "tenth3"},
    "a word of a thousandth": {"query": "thousandth7"},
    "a word of one": {"query": "single777"},
    "a beginning of every task": {"query": "thousan"},
    "two words": {"query": "tenth3 thousandth3"},
    "no such word": {"query": "nonesuch"},
    "a phrase": {"query": "some.words"},
    "completed": {"status": "completed"},
    "failed": {"status": "failed"},
    "queued": {"status": "queued"},
    "a word of every task, failed": {"query": "words", "status": "failed"},
    "a pool and a type that never meet": {"pool": "p1", "task_type": "t2"},
    "a pool that is not there": {"pool": "nowhere"},
    "the latest hundredth": {"since": datetime.fromtimestamp(NOW + 0.99 * 100_000, UTC).isoformat()},
    "words since then": {"query": "words", "since": datetime.fromtimestamp(NOW + 99_000, UTC).isoformat()},
    "a page of 100": {"limit": 100},
}


def a_task(number: int) -> TaskRow:
    """An ended task of some hundred bytes."""
    text = f"some words tenth{number % 10} thousandth{number % 1000} single{number}"
    return TaskRow(
        task_id=f"t_{number:09}",
        task_type=f"t{number % 5}",
        caller="local",
        created_at=NOW + number,
        payload=json.dumps({"text": text, "list": [1, 2, 3]}).encode(),
        status="failed" if number % 1000 == 0 else "completed",
        pool=f"p{number % 20 % 5 % 4}",
        pool_type="local",
        started_at=NOW + number,
        finished_at=NOW + number + 1,
        result=json.dumps({"text": text, "n": number}).encode(),
    )


async def fill(path: Path, tasks: int) -> None:
    """Keep the tasks; then wait for the index, and say how long both took."""
    store = SqliteStore(path)
    await store.open()
    started = time.perf_counter()
    await asyncio.gather(*(store.commit(Accept(a_task(number))) for number in range(tasks)))
    kept = time.perf_counter()
    print(f"{tasks} tasks kept in {kept - started:.2f} s, {path.stat().st_size / 1e6:.0f} MB")
    for _ in range(20):
        await store.close()  # each close gives the index a few seconds
        store = SqliteStore(path)
        await store.open()
    await store.close()
    print(f"all indexed {time.perf_counter() - kept:.2f} s later, {path.stat().st_size / 1e6:.0f} MB")


async def ask(home: Path, runs: int) -> None:
    """Ask each question some times."""
    async with Router.open(Settings(home=home)) as router:
        for name, arguments in QUESTIONS.items():
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                found = await TOOLS["pool_search"].invoke(router, arguments)
                seconds.append(time.perf_counter() - started)
            middle, worst = statistics.median(seconds) * 1e3, max(seconds) * 1e3
            print(f"{name:36} {len(found['tasks']):4} found  p50 {middle:7.2f} ms  max {worst:7.2f} ms")


def main() -> None:
    """Fill a store, then ask it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path(__file__).parent)))
        asyncio.run(fill(home / "pools.db", given.tasks))
        asyncio.run(ask(home, given.runs))


if __name__ == "__main__":
    main()
