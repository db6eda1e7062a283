"""The server as clients of other makes see it: each lists and calls, over stdio and HTTP, in both eras.

A client is a function from a protocol version and a target to what it saw. The target is a URL or
the command that starts a server; what came back is in the protocol's own names, whichever the client.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import pytest
from machine import CONSOLE, machine_of
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from parts import require, require_file
from served import Server

from mcp_pools.tool import TOOLS

PROGRAMS = Path(__file__).parent / "clients"
VERSIONS = ["2025-11-25", "2026-07-28"]
HINTS = {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("pool_list", {}),
    ("pool_execute", {"task_type": "echo", "payload": {"x": "é"}}),
    ("pool_get", {"name": "nowhere"}),
]


@dataclass(frozen=True)
class Target:
    """A server: what it is reached by, and where and with what environment its client runs."""

    address: tuple[str, ...]
    directory: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class Visit:
    """What a client saw: the listed tools, and an answer to each of `CALLS`; `version` if it says it."""

    version: str | None
    tools: list[dict[str, Any]]
    answers: list[dict[str, Any]]


def python_sdk(version: str, target: Target) -> Visit:
    """The official client in Python."""

    async def visit() -> Visit:
        command, *arguments = target.address
        server = StdioServerParameters(
            command=command, args=arguments, env=target.environment, cwd=target.directory
        )
        mode = "legacy" if version == VERSIONS[0] else version
        async with Client(command if command.startswith("http") else server, mode=mode) as client:
            listed = (await client.list_tools()).tools
            answers = [await client.call_tool(name, arguments) for name, arguments in CALLS]
            return Visit(client.protocol_version, wire(listed), wire(answers))

    return anyio.run(visit)


def wire(models: Any) -> list[dict[str, Any]]:
    """Models of the SDK in the protocol's own names."""
    return [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in models]


def typescript(version: str, target: Target) -> Visit:
    """The official client in TypeScript."""
    return in_typescript("client", version, target)


def typescript_1(version: str, target: Target) -> Visit:
    """Its predecessor, which many hosts still use; it checks refusals against the output schema."""
    return in_typescript("sdk", version, target)


def in_typescript(package: str, version: str, target: Target) -> Visit:
    """What a package saw that lies beside the Inspector."""
    folder = Path(require("mcp-inspector", NODE)).parents[1] / "@modelcontextprotocol" / package
    require_file(folder / "package.json", NODE)
    program = [require("node", NODE), str(PROGRAMS / "typescript.mjs"), str(folder)]
    return visited(program, version, target)


def fastmcp(version: str, target: Target) -> Visit:
    """FastMCP's, in the environment that its command is in: our own has what we need and no more."""
    command = require(
        "fastmcp", "python -m venv DIR, DIR/bin/pip install 'fastmcp-slim[client]', DIR/bin on PATH"
    )
    interpreter = str(Path(command).resolve().parent / "python")
    return visited([interpreter, str(PROGRAMS / "with_fastmcp.py")], version, target)


def visited(program: list[str], version: str, target: Target) -> Visit:
    """What a program saw, which says it on its standard output."""
    done = run([*program, version, json.dumps(CALLS), *target.address], target)
    assert done.returncode == 0, done.stderr
    return Visit(**json.loads(done.stdout))


def inspector(version: str, target: Target) -> Visit:
    """The Inspector's command line: a process and a connection for each request."""
    command = require("mcp-inspector", NODE)
    era = "legacy" if version == VERSIONS[0] else "modern"

    def ask(*arguments: str, status: int = 0) -> Any:
        flags = ["--protocol-era", era, "--format", "json"]
        done = run([command, "--cli", *target.address, *flags, "--method", *arguments], target)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)["result"]

    def call(name: str, arguments: dict[str, Any], status: int) -> Any:
        given = json.dumps(arguments)
        return ask("tools/call", "--tool-name", name, "--tool-args-json", given, status=status)

    statuses = (0, 0, 5)
    answers = [call(*each, status) for each, status in zip(CALLS, statuses, strict=True)]
    return Visit(None, ask("tools/list")["tools"], answers)


NODE = "npm install, see .ci/run; its node_modules/.bin on PATH"
TRANSPORTS = ["stdio", "http"]
VISITS = [
    *product((python_sdk, typescript, fastmcp), TRANSPORTS, VERSIONS),
    *product((typescript_1,), TRANSPORTS, VERSIONS[:1]),
    *zip((inspector, inspector), TRANSPORTS, VERSIONS, strict=True),  # the slowest: each once
]


def run(command: list[str], target: Target) -> subprocess.CompletedProcess[str]:
    """A client's process, beside the server."""
    return subprocess.run(
        command,
        cwd=target.directory,
        env=target.environment,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory whose path is short: a Unix socket in it must stay under 108 bytes."""
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def stdio(place: Path) -> Iterator[Target]:
    """`mcp-pools serve`, which the client starts, and the owner that it finds or starts."""
    with machine_of(place / "stdio", place) as machine:
        environment = machine.environment | {"MCP_POOLS_OWNER_IDLE_SECONDS": "60"}
        yield Target((CONSOLE, "serve"), place, environment)


@pytest.fixture(scope="module")
def http(place: Path) -> Iterator[Target]:
    """`mcp-pools serve --http`."""
    environment = {**os.environ, "MCP_POOLS_HOME": str(place / "http")}
    server = Server(place / "http", environment)
    yield Target((server.url,), place, environment)
    assert server.end() == 0
    server.process.communicate()


@pytest.mark.parametrize(
    ("client", "transport", "version"), VISITS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_client_lists_calls_and_is_refused(
    client: Callable[[str, Target], Visit], transport: str, version: str, request: pytest.FixtureRequest
) -> None:
    """Every tool arrives whole, work is done, and a refusal says what to do next."""
    visit = client(version, request.getfixturevalue(transport))
    assert visit.version in (version, None)
    assert [tool["name"] for tool in visit.tools] == list(TOOLS)
    for tool in visit.tools:
        assert tool["title"] == TOOLS[tool["name"]].title and tool["annotations"].keys() >= HINTS
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"
    listed, task, refused = (answer["structuredContent"] for answer in visit.answers)
    assert [answer["isError"] for answer in visit.answers] == [False, False, True]
    assert [pool["name"] for pool in listed["pools"]] == ["local"]
    assert (task["status"], task["result"]) == ("completed", {"x": "é"})
    assert json.loads(visit.answers[1]["content"][0]["text"]) == task
    assert refused["error"]["code"] == "unknown_pool" and "local" in refused["error"]["next"]
    assert (
        visit.answers[2]["content"][0]["text"] == f"{refused['error']['message']} {refused['error']['next']}"
    )
