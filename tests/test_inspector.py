"""MCP over stdio as the Inspector sees it: a client that is not our SDK's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parts import require

from mcp_pools.tool import TOOLS


@pytest.fixture
def inspect(home: Path, tmp_path: Path):
    """Runs the Inspector's command line against `mcp-pools serve` on a home of its own."""
    inspector = require("mcp-inspector", "npm install -g @modelcontextprotocol/inspector (Node 22)")
    server = str(Path(sys.executable).parent / "mcp-pools")
    environment = {**os.environ, "MCP_POOLS_HOME": str(home), "MCP_POOLS_OWNER_IDLE_SECONDS": "1"}

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [inspector, "--cli", server, "serve", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield run
    if (owner := home / "owner.json").exists():
        os.kill(json.loads(owner.read_text())["pid"], 15)


def test_the_inspector_lists_every_tool_with_its_schemas(inspect) -> None:
    """Titles, hints, input and output schemas arrive."""
    listed = {tool["name"]: tool for tool in inspect("--method", "tools/list")["tools"]}
    assert list(listed) == list(TOOLS)
    for name, tool in listed.items():
        assert tool["title"] == TOOLS[name].title
        assert {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} <= set(
            tool["annotations"]
        )
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"


def test_the_inspector_runs_a_task(inspect) -> None:
    """The result comes back as structured content."""
    call = ["--method", "tools/call", "--tool-name", "pool_execute"]
    answer = inspect(*call, "--tool-arg", "task_type=echo", "--tool-arg", 'payload={"a": 1}')
    assert answer["structuredContent"]["result"] == {"a": 1}
    assert json.loads(answer["content"][0]["text"]) == answer["structuredContent"]
