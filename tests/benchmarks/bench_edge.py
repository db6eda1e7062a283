"""What `pool_execute` of an echo costs over stdio and HTTP, beside a bare typed echo tool on the same SDK.

Both servers are processes of their own, and one client calls them in turn, so whatever else
the machine does meets both alike. Read the ratio, not the milliseconds.

    python tests/benchmarks/bench_edge.py [--calls N] [--output FILE] [--http] [COMMAND ...]

`COMMAND` starts the server under test over stdio; by default `mcp-pools serve`. With `--http` both
serve Streamable HTTP on free ports: `mcp-pools serve --http`, on a home of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters

BARE = """
import socket
import sys
from dataclasses import dataclass
from typing import Any
from mcp.server.mcpserver import MCPServer

@dataclass
class Echo:
    payload: dict[str, Any]

server = MCPServer("bare", log_level="WARNING")

@server.tool()
async def echo(payload: dict[str, Any]) -> Echo:
    return Echo(payload)

if len(sys.argv) > 1:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    print(f"http://127.0.0.1:{port}/mcp", flush=True)
    server.run("streamable-http", port=port)
else:
    server.run("stdio")
"""
PAYLOAD = {"text": "hello"}
ERAS = {"2025-11-25": "legacy", "2026-07-28": "auto"}
WARM_UP = 100


def main() -> None:
    """Measure both servers in both protocol eras and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="calls of each server in each era")
    parser.add_argument("--output", help="write the result to this file as well")
    parser.add_argument("--http", action="store_true", help="over HTTP instead of stdio")
    parser.add_argument("command", nargs="*", default=["mcp-pools", "serve"])
    given = parser.parse_args()
    report: dict[str, Any] = {
        "command": given.command,
        "calls": given.calls,
        "python": platform.python_version(),
    }
    bare = [sys.executable, "-c", BARE]
    if given.http:
        report["command"] = [*given.command, "--http", ":0"]
        with _serving([*bare, "http"]) as first, _serving(report["command"]) as second:
            for era, mode in ERAS.items():
                report[era] = anyio.run(compare, first, second, mode, given.calls)
    else:
        for era, mode in ERAS.items():
            report[era] = anyio.run(compare, _over_stdio(bare), _over_stdio(given.command), mode, given.calls)
    text = json.dumps(report, indent=2)
    print(text)
    if given.output:
        with open(given.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")


async def compare(
    first: str | StdioServerParameters, second: str | StdioServerParameters, mode: str, count: int
) -> dict[str, float]:
    """The median and the 99th percentile of each, in milliseconds, and the medians' ratio."""
    async with AsyncExitStack() as stack:
        connected = time.perf_counter()
        bare = await stack.enter_async_context(Client(first, mode=mode))
        bare_start, connected = time.perf_counter() - connected, time.perf_counter()
        pools = await stack.enter_async_context(Client(second, mode=mode))
        pools_start = time.perf_counter() - connected

        async def plain() -> Any:
            return await bare.call_tool("echo", {"payload": PAYLOAD})

        async def durable() -> Any:
            return await pools.call_tool("pool_execute", {"task_type": "echo", "payload": PAYLOAD})

        _check((await durable()).structured_content)
        bare_times, pools_times = await _in_turn(plain, durable, count)
    return {
        **_summary("bare", bare_start, bare_times),
        **_summary("pools", pools_start, pools_times),
        "ratio_p50": round(statistics.median(pools_times) / statistics.median(bare_times), 3),
    }


def _over_stdio(command: list[str]) -> StdioServerParameters:
    return StdioServerParameters(command=command[0], args=command[1:])


@contextmanager
def _serving(command: list[str]) -> Iterator[str]:
    """The URL of a server process, once it answers; the first line it prints names it."""
    with tempfile.TemporaryDirectory(prefix="mp-") as home:
        environment = {**os.environ, "MCP_POOLS_HOME": f"{home}/state"}
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        words = server.stdout.readline().split()
        url = next(word for word in words if word.startswith("http://"))
        try:
            _until_it_answers(url)
            yield url
        finally:
            server.terminate()
            server.wait()


def _until_it_answers(url: str) -> None:
    host, _, port = url.removeprefix("http://").removesuffix("/mcp").partition(":")
    while True:
        try:
            return socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            time.sleep(0.05)


def _check(task: Any) -> None:
    if not task or task.get("status") != "completed":
        sys.exit(f"pool_execute did not complete its echo: {task}")


async def _in_turn(
    first: Callable[[], Awaitable[Any]], second: Callable[[], Awaitable[Any]], count: int
) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(WARM_UP + count):
        for call, taken in zip((first, second), times, strict=True):
            started = time.perf_counter()
            await call()
            if number >= WARM_UP:
                taken.append(time.perf_counter() - started)
    return times


def _summary(name: str, start: float, times: list[float]) -> dict[str, float]:
    return {
        f"{name}_connect_ms": round(start * 1e3, 1),
        f"{name}_p50_ms": round(statistics.median(times) * 1e3, 3),
        f"{name}_p99_ms": round(statistics.quantiles(times, n=100)[98] * 1e3, 3),
    }


if __name__ == "__main__":
    main()
