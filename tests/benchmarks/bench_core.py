"""Durable tasks beside a bare ProcessPoolExecutor, in one run: latency, throughput, syncs, start-up.

    python tests/benchmarks/bench_core.py [--calls N] [--clients N] [--output FILE]

Read the ratios: absolute numbers are the machine's. With `strace` installed, the syncs of
each task are counted by the kernel's own account.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute, pool_register

PAYLOAD = {"x": 1}
Call = Callable[[], Awaitable[Any]]


def echo(payload: dict[str, int]) -> dict[str, int]:
    """What the executor runs: the same as the task type `echo`."""
    return payload


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A home on the disk of this checkout, not in memory: syncs must cost what they cost."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as directory:
        yield Path(directory)


async def latencies(call: Call, calls: int) -> list[float]:
    """Seconds of each of `calls` calls, one after the other."""
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - started)
    return seconds


async def rate(call: Call, clients: int, calls: int) -> float:
    """Calls a second of `clients` callers that each wait for their own."""

    async def client() -> None:
        for _ in range(calls):
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return clients * calls / (time.perf_counter() - started)


async def compare(calls: int, clients: int) -> dict[str, Any]:
    """Both in turns, so that what else the machine does meets both."""
    loop = asyncio.get_running_loop()
    ours: list[float] = []
    bare: list[float] = []
    our_rates, bare_rates = [], []
    with scratch() as home, ProcessPoolExecutor(2) as executor:
        async with Router.open(Settings(home=home)) as router:
            await pool_register(router, name="bench", type="local", max_workers=2)

            async def durable() -> None:
                task = await pool_execute(router, task_type="echo", payload=PAYLOAD)
                assert task.status == "completed", task

            async def executed() -> None:
                await loop.run_in_executor(executor, echo, PAYLOAD)

            for call in (durable, executed):
                await latencies(call, 100)
            for _ in range(5):
                bare += await latencies(executed, calls // 5)
                ours += await latencies(durable, calls // 5)
                bare_rates.append(await rate(executed, clients, calls // clients))
                our_rates.append(await rate(durable, clients, calls // clients))
    return {
        "p50_ms": row(statistics.median(ours) * 1e3, statistics.median(bare) * 1e3),
        "p99_ms": row(
            statistics.quantiles(ours, n=100)[98] * 1e3, statistics.quantiles(bare, n=100)[98] * 1e3
        ),
        f"per_second_{clients}_clients": row(statistics.median(our_rates), statistics.median(bare_rates)),
    }


def row(ours: float, bare: float) -> dict[str, float]:
    """Two numbers and their ratio."""
    return {"mcp_pools": round(ours, 3), "executor": round(bare, 3), "ratio": round(ours / bare, 2)}


def syncs(tasks: int = 500) -> float | None:
    """fsync and fdatasync calls of one task at a time, as strace counts them; `None` without strace."""
    if shutil.which("strace") is None:
        return None
    script = (
        "import asyncio, sys\nfrom mcp_pools import Router, Settings\n"
        "from mcp_pools.tools import pool_execute\n"
        "async def main():\n"
        "    async with Router.open(Settings(home=sys.argv[1])) as router:\n"
        "        for _ in range(int(sys.argv[2])):\n"
        "            await pool_execute(router, task_type='echo', payload={})\n"
        "asyncio.run(main())\n"
    )

    def count(number: int) -> int:
        with scratch() as home:
            trace = home / "trace"
            command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
            subprocess.run(
                [*command, sys.executable, "-c", script, str(home / "home"), str(number)], check=True
            )
            return len(re.findall(r"\bf(?:data)?sync\(", trace.read_text()))

    return (count(tasks + 100) - count(100)) / tasks


def commands(runs: int = 7) -> dict[str, float]:
    """Milliseconds of whole console processes, the best of `runs`: with an owner, and without."""
    console = str(Path(sys.executable).parent / "mcp-pools")
    with scratch() as home:
        environment = {**os.environ, "MCP_POOLS_HOME": str(home / "h"), "MCP_POOLS_OWNER_IDLE_SECONDS": "5"}

        def best(*arguments: str) -> float:
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                subprocess.run([console, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
                seconds.append(time.perf_counter() - started)
            return round(min(seconds) * 1e3, 1)

        alone = best("list")
        execute = best("execute", "-t", "echo", "--payload", "x=1")
        listed = best("list")
        owner = json.loads((home / "h" / "owner.json").read_text())["pid"]
        os.kill(owner, 15)
        while (home / "h" / "owner.json").exists():
            time.sleep(0.05)
    return {"list_without_owner": alone, "list": listed, "warm_execute_echo": execute}


def main() -> None:
    """Measure, print, and write the same to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    report = asyncio.run(compare(given.calls, given.clients))
    report["syncs_per_task"] = syncs()
    report["command_ms"] = commands()
    print(json.dumps(report, indent=2))
    if given.output:
        given.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
