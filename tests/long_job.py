"""A job that takes far longer than its client's patience with one request, for real: ten minutes, 60 s.

    python tests/long_job.py [--seconds 600] [--limit 60]

Six clients run the job at the same time on one server: over stdio and HTTP, in both protocol eras by
following `next`, and with the tasks extension. Prints a line of JSON for each, and fails unless
every job completed in its first attempt.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from tasks_client import Tasks, ask, start

CONSOLE = str(Path(sys.executable).parent / "mcp-pools")
KINDS = [(where, how) for where in ("stdio", "http") for how in ("2025-11-25", "2026-07-28", "tasks")]


@dataclass
class Report:
    """How one client fared: its requests, how long the longest took, in seconds, and the task's end."""

    client: str
    requests: int = 0
    longest_request_seconds: float = 0.0
    status: str = ""
    attempt: int = 0
    run_seconds: float = 0.0

    async def timed(self, request: Any) -> Any:
        """What a request returns; it is counted."""
        begun = time.monotonic()
        answer = await request
        self.requests += 1
        self.longest_request_seconds = max(self.longest_request_seconds, round(time.monotonic() - begun, 3))
        return answer

    def ended(self, task: dict[str, Any]) -> None:
        """Note the end of the task."""
        self.status, self.attempt, self.run_seconds = task["status"], task["attempt"], task["run_seconds"]


def call_in(next: str) -> tuple[str, dict[str, Any]]:
    """The tool and the arguments that a result's `next` names, as in `pool_task(task_id="t_1")`."""
    call = ast.parse(next, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name), next
    return call.func.id, {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}


async def follow(client: Client, report: Report, work: dict[str, Any], limit: float) -> None:
    """What a client without the extension does: the call, then whatever `next` says, until it is null."""
    tool, arguments = "pool_execute", work
    while True:
        answer = await report.timed(client.call_tool(tool, arguments, read_timeout_seconds=limit))
        assert not answer.is_error, answer
        task = answer.structured_content
        if task["next"] is None:
            return report.ended(task)
        tool, arguments = call_in(task["next"])


async def poll(client: Client, report: Report, work: dict[str, Any]) -> None:
    """What a client with the extension does: the call is answered with a task, which it polls."""
    handle = await report.timed(start(client, "pool_execute", work))
    while True:
        task = await report.timed(ask(client.session, "tasks/get", handle.task_id))
        if task["status"] != "working":
            return report.ended(task["result"]["structuredContent"])
        await anyio.sleep(task["pollIntervalMs"] / 1000)


async def visit(report: Report, server: Any, how: str, work: dict[str, Any], limit: float) -> None:
    """One client, from its connection to its job's end."""
    extensions = [Tasks()] if how == "tasks" else []
    mode = {"2025-11-25": "legacy", "tasks": "auto"}.get(how, how)
    async with Client(server, mode=mode, extensions=extensions, read_timeout_seconds=limit) as client:
        if extensions:
            await poll(client, report, work)
        else:
            await follow(client, report, work, limit)


async def run_jobs(url: str, environment: dict[str, str], seconds: float, limit: float) -> list[Report]:
    """All clients at once, each with a job that takes `seconds` and `limit` for each of its requests."""
    bridge = StdioServerParameters(command=CONSOLE, args=["serve"], env=environment)
    work = {"task_type": "sleep", "payload": {"seconds": seconds}, "timeout": seconds + 300}
    reports = []
    async with anyio.create_task_group() as group:
        for where, how in KINDS:
            reports.append(Report(f"{where} {how}"))
            group.start_soon(visit, reports[-1], bridge if where == "stdio" else url, how, work, limit)
    return reports


@contextmanager
def serving(environment: dict[str, str]) -> Iterator[str]:
    """The URL of a server that ends with the block."""
    command = [CONSOLE, "serve", "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().partition(" at ")[2].partition(" ")[0]
        finally:
            process.send_signal(signal.SIGTERM)


def main() -> None:
    """Run it, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the job takes")
    parser.add_argument("--limit", type=float, default=60.0, help="a client's patience with one request")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as home:
        environment = {**os.environ, "MCP_POOLS_HOME": home}
        with serving(environment) as url:
            reports = anyio.run(run_jobs, url, environment, given.seconds, given.limit)
    for report in reports:
        print(json.dumps(asdict(report)), flush=True)
    sys.exit(any((each.status, each.attempt) != ("completed", 1) for each in reports))


if __name__ == "__main__":
    main()
