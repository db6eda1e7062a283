"""The tasks extension over HTTP: the official suite's scenarios, and what they leave out."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from conformance_suite import ending, run, verdict
from mcp import Client
from mcp_types import HEADER_MISMATCH
from tasks_client import Tasks, ask, ended, listen, start
from waiting import until

from mcp_pools.tasks_extension import EXTENSION

SCENARIOS = [
    "lifecycle",
    "capability-negotiation",
    "wire-fields",
    "request-state-removal",
    "mrtr-input",
    "request-headers",
    "dispatch-and-envelope",
    "required-task-error",
    "mrtr-composition",
]
"""All that judge something: `tasks-status-notifications` always skips."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a fixture server, which ends with the module."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    server = Path(__file__).with_name("server.py")
    command = [sys.executable, str(server), str(number)]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        assert "listening" in process.stdout.readline()
        yield number


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_official_suite_passes(port: int, scenario: str, tmp_path: Path) -> None:
    """Every check of every scenario, with nothing expected to fail."""
    [checks] = run(f"http://127.0.0.1:{port}/mcp", tmp_path, "--scenario", f"tasks-{scenario}").values()
    assert verdict(checks) == ""


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@pytest.mark.parametrize("named", [None, "f_1", "=?base64?Zl8x?=", "=?base64?_?="])
def test_the_header_must_name_the_task(port: int, method: str, named: str | None) -> None:
    """It is missing, names another task, also when encoded, or cannot be decoded: HTTP 400."""
    status, answer = post(port, method, {"taskId": "f_2", "inputResponses": {}}, named)
    assert (status, answer["error"]["code"]) == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("named", ["f_1", "=?base64?Zl8x?="])
def test_a_header_that_names_the_task_is_let_through(port: int, named: str) -> None:
    """To the answer that there is no such task."""
    _, answer = post(port, "tasks/get", {"taskId": "f_1"}, named)
    assert "There is no task 'f_1'" in answer["error"]["message"]


@pytest.mark.anyio
async def test_a_client_over_http_finishes_tasks_and_listens(port: int) -> None:
    """A question in between, each change once, in order, the end last."""
    async with Client(f"http://127.0.0.1:{port}/mcp", extensions=[tasks := Tasks()]) as client:
        handle = await start(client, "confirm_delete", {"filename": "a"})
        asked = await ended(client.session, handle.task_id)
        assert asked["status"] == "input_required"
        [key] = asked["inputRequests"]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(listen, client.session, handle.task_id)
                await until(lambda: tasks.news)
                await ask(client.session, "tasks/update", handle.task_id, inputResponses={key: "yes"})
        await until(lambda: tasks.news[-1]["status"] == "completed")
    assert tasks.news[0]["inputRequests"] == asked["inputRequests"]
    assert tasks.news[-1]["result"]["content"][0]["text"] == "Deleted: yes"


def post(port: int, method: str, params: dict[str, Any], named: str | None) -> tuple[int, dict[str, Any]]:
    """One request of a client that declares the extension: the HTTP status and the answer."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {EXTENSION: {}}},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/mcp", json.dumps(body), headers | ({"Mcp-Name": named} if named else {}))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer
