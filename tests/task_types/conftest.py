"""A context in memory, for running handlers without a worker."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from mcp_pools.agents import Agent


class RecordingContext:
    """What a worker gives a handler; it remembers progress and output."""

    def __init__(self, directory: Path) -> None:
        self.task_id = "task"
        self.attempt_id = "attempt"
        self.attempt = 1
        self.cwd = str(directory.resolve())
        self.roots: tuple[str, ...] = (self.cwd,)
        self.env: Mapping[str, str] = {"PATH": os.environ["PATH"], "MCP_POOLS_ATTEMPT": "attempt"}
        self.agent: Agent | None = Agent(argv=("cat",))
        self.said: list[tuple[float, float | None, str | None]] = []
        self.printed = b""

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Remember it."""
        self.said.append((done, total, message))

    def output(self, data: bytes | str) -> None:
        """Remember it."""
        self.printed += data.encode() if isinstance(data, str) else data


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    """A context whose directory and only root is `tmp_path`."""
    return RecordingContext(tmp_path)
