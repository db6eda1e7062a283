"""The product as its users have it on one machine: a home, and the ways in."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import ElicitResult
from waiting import PATIENCE

CONSOLE = str(Path(sys.executable).parent / "mcp-pools")


async def agree(context: Any, params: Any) -> ElicitResult:
    """What a human says who wants it done."""
    return ElicitResult(action="accept", content={"confirm": True})


class Machine:
    """A home, and the ways in: MCP clients, the console, a signal to its owner."""

    def __init__(self, home: Path, directory: Path) -> None:
        self.home = home
        self.directory = directory
        self.environment = {**os.environ, "MCP_POOLS_HOME": str(home), "MCP_POOLS_OWNER_IDLE_SECONDS": "2"}

    def client(self, *flags: str, cwd: Path | None = None) -> AbstractAsyncContextManager[Client]:
        """The SDK's client on a bridge of its own, which stands in `cwd`; its human agrees to everything."""
        return Client(self.bridge(*flags, cwd=cwd), elicitation_callback=agree)

    def bridge(self, *flags: str, cwd: Path | None = None) -> StdioServerParameters:
        """What an MCP client starts."""
        return StdioServerParameters(
            command=CONSOLE, args=["serve", *flags], env=self.environment, cwd=cwd or self.directory
        )

    def console(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """One console command, as a pipe sees it; `more` is for `subprocess.run`."""
        given = {"env": self.environment, "cwd": self.directory, "timeout": 60} | more
        return subprocess.run([CONSOLE, *arguments], capture_output=True, text=True, **given)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """A console command that goes on beside the test."""
        return subprocess.Popen(
            [CONSOLE, *arguments],
            env=self.environment,
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self, *arguments: str, status: int = 0, **more: Any) -> Any:
        """What a console command prints, read as JSON; it ends with `status`."""
        done = self.console(*arguments, **more)
        assert done.returncode == status, done.stderr or done.stdout
        return json.loads(done.stdout)

    @property
    def owner(self) -> dict[str, Any]:
        """Who owns the home."""
        return dict(json.loads((self.home / "owner.json").read_text()))


@contextmanager
def machine_of(home: Path, directory: Path) -> Iterator[Machine]:
    """A machine whose owner ends with the block."""
    machine = Machine(home, directory)
    try:
        yield machine
    finally:
        if (home / "owner.json").exists():
            end(machine.owner["pid"])


def end(pid: int) -> None:
    """SIGTERM for an owner, and its end."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        ended, _, _ = select.select([pidfd], [], [], PATIENCE)
        os.close(pidfd)
        assert ended, f"owner {pid} does not leave"
