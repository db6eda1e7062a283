"""The official conformance suite against the product, in both eras, with nothing expected to fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conformance_suite import ending, run, suite, verdict
from served import Server

FIXTURE_SERVER = Path(__file__).with_name("server.py")
REQUIRED = 37
"""Scenarios that a server of 2026-07-28 must pass."""
WITHOUT_FIXTURES = {
    ("--requirements", "2026-07-28"): [
        "tools-list",
        "server-sse-multiple-streams",
        "resources-list",
        "sep-2164-resource-not-found",
        "prompts-list",
        "dns-rebinding-protection",
        "caching",
        "input-required-result-unsupported-methods",
        "http-header-validation",
    ],
    ("--suite", "all", "--spec-version", "2025-11-25"): [
        "server-initialize",
        "server-session-lifecycle",
        "logging-set-level",
        "ping",
        "tools-list",
        "server-sse-multiple-streams",
        "resources-list",
        "prompts-list",
        "dns-rebinding-protection",
    ],
}
"""What can be judged of a server that has none of the suite's tools, resources and prompts."""

Checks = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def fixture_url() -> Iterator[str]:
    """The address of the fixture server, which ends with the module."""
    suite()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(FIXTURE_SERVER), str(port)]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening" in line
        yield line.split()[-1]


@pytest.fixture(scope="module")
def product_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mcp-pools serve --http`, as anybody starts it."""
    suite()
    home = tmp_path_factory.mktemp("product") / "state"
    server = Server(home, {**os.environ, "MCP_POOLS_HOME": str(home)})
    with ending(server.process):
        yield server.url


def wrong(checks: Checks, scenarios: list[str]) -> dict[str, str]:
    """Which of the scenarios did not hold, and why."""
    return {name: said for name in scenarios if (said := verdict(checks.get(name, [])))}


def test_every_scenario_that_2026_requires_holds(fixture_url: str, tmp_path: Path) -> None:
    """All that the suite's own list of requirements names; none passes because nothing was checked."""
    file = Path(suite()).resolve().parent.parent / "requirements" / "2026-07-28.yaml"
    required = yaml.safe_load(file.read_text())["server"]
    assert len(required) == REQUIRED
    assert wrong(run(fixture_url, tmp_path, "--requirements", "2026-07-28"), required) == {}


def test_every_scenario_of_2025_holds(fixture_url: str, tmp_path: Path) -> None:
    """The whole suite of that era."""
    checks = run(fixture_url, tmp_path, "--suite", "all", "--spec-version", "2025-11-25")
    assert len(checks) >= 33
    assert wrong(checks, list(checks)) == {}


@pytest.mark.parametrize("which", WITHOUT_FIXTURES, ids=lambda words: words[-1])
def test_the_product_itself_passes_what_needs_no_fixtures(
    product_url: str, tmp_path: Path, which: tuple[str, ...]
) -> None:
    """The server that users start, on a home of its own."""
    assert wrong(run(product_url, tmp_path, *which), WITHOUT_FIXTURES[which]) == {}
