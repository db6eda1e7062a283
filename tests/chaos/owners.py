"""Owners that are killed, and what their death leaves on disk."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

from stage import carrying

from mcp_pools.stores.sqlite import SqliteStore
from mcp_pools.worker_process import Journal

HERE = Path(__file__).parent
DEADLINE = 60.0


class Owner:
    """A script of this directory that owns a home, until it is killed; `said` are its lines after `open`."""

    def __init__(self, script, *arguments):
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.said = []
        assert self.process.stdout.readline() == b"open\n"

    def read(self, count):
        """Read on until it has said so many lines."""
        while len(self.said) < count and (line := self.process.stdout.readline()):
            self.said.append(line.decode().strip())

    def kill(self):
        """SIGKILL; what it had already said still counts."""
        self.process.send_signal(signal.SIGKILL)
        rest = self.process.stdout.read().decode()
        self.said += rest[: rest.rfind("\n") + 1].splitlines()
        self.process.stdout.close()
        assert self.process.wait() == -signal.SIGKILL


async def left_behind(home):
    """What the owner's death left on disk: the unfinished rows, and those of them that may have started."""
    workers = [entry.name for entry in (home / "run").glob("*/*")]
    deadline = time.monotonic() + DEADLINE
    while workers and carrying(*workers):
        assert time.monotonic() < deadline, "workers outlive their owner"
        await asyncio.sleep(0.002)
    store = SqliteStore(home / "pools.db")
    await store.open(read_only=True)
    rows = await store.unfinished()
    await store.close()
    started = set()
    for row in rows:
        if row.status == "running" and Journal(home / "run" / row.pool / row.worker).started(row.seq):
            started.add(row.task_id)
    return {row.task_id for row in rows}, started


async def at_rest(router):
    """Returns when the router has nothing unfinished."""
    deadline = time.monotonic() + DEADLINE
    while router.unfinished():
        assert time.monotonic() < deadline, f"{router.unfinished()} unfinished"
        await asyncio.sleep(0.002)
