"""Jobs that outlast their client's patience, and their owner; `long_job.py` does it for ten minutes."""

# ruff: noqa: F811 - fixtures are imported by name

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from long_job import KINDS, run_jobs
from machine import Machine
from mcp import Client
from mcp.shared.exceptions import MCPError
from served import Server
from tasks_client import Tasks, ask, ended, start
from test_end_to_end import call, machine  # noqa: F401

pytestmark = pytest.mark.anyio
LIMIT = 3.0
"""A client's patience with one request, in seconds; its job takes longer, and the server waits less."""


async def test_a_job_may_take_longer_than_any_request(serve: Callable[..., Server]) -> None:
    """Whatever the transport, the era and the extension: no request meets the client's limit."""
    server = serve(mcp_wait_seconds="0.3", mcp_task_grace_seconds="0.3", pool_default_max_workers="6")
    reports = await run_jobs(server.url, server.environment, LIMIT + 0.5, LIMIT)
    assert len(reports) == len(KINDS)
    for report in reports:
        assert (report.status, report.attempt) == ("completed", 1), report
        assert report.requests > 2 and report.run_seconds > LIMIT, report


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_job_outlives_the_owner_that_ran_it(
    transport: str, machine: Machine, serve: Callable[..., Server], gate: Any, home: Path
) -> None:
    """Killed mid-task, it has a successor: `tasks/get` and `pool_task` answer, and each task is judged.

    What may run once may have run; what may run twice does, and completes.
    """
    once, twice = gate, type(gate)(home / "twice")
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(over(transport, machine, serve))
        handles = [
            await start(client, "pool_execute", held.task | {"max_attempts": attempts})
            for attempts, held in ((1, once), (2, twice))
        ]
        await once.entered()
        await twice.entered()
        os.kill(machine.owner["pid"], signal.SIGKILL)
        if transport == "http":
            client = await opened.enter_async_context(over(transport, machine, serve))
        with suppress(MCPError):  # it was on its way when the owner ended: it is answered, not repeated
            await ask(client.session, "tasks/get", handles[1].task_id)
        assert (await ask(client.session, "tasks/get", handles[1].task_id))["status"] == "working"
        await twice.entered(attempt=2)
        twice.open()
        judged = []
        for handle in handles:
            told = (await ended(client.session, handle.task_id))["result"]["structuredContent"]
            assert await call(client, "pool_task", task_id=handle.task_id) == told
            judged.append((told["status"], told["attempt"], (told["error"] or {}).get("code")))
    assert judged == [("failed", 1, "interrupted"), ("completed", 2, None)]


def over(transport: str, machine: Machine, serve: Callable[..., Server]) -> Any:
    """A client with the tasks extension; over HTTP of a new server, over stdio of whoever owns the home."""
    if transport == "http":
        server = serve(home=str(machine.home), mcp_task_grace_seconds="0.05")
        return Client(server.url, extensions=[Tasks()])
    more = {"TASK_MODULES": '["workloads"]', "MCP_TASK_GRACE_SECONDS": "0.05"}
    machine.environment |= {f"MCP_POOLS_{key}": value for key, value in more.items()}
    machine.environment["PYTHONPATH"] = str(Path(__file__).parent)
    return Client(machine.bridge(), extensions=[Tasks()])
