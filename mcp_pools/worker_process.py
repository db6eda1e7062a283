"""The router's side of one worker: its process, its channel, its journal.

Knows nothing of pools: `adapters/local.py` decides what runs where and when.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mcp_pools import processes, wire
from mcp_pools.adapter import Launch, Surroundings

MARK: Final = "MCP_POOLS_WORKER"
"""The variable that every process of a worker, forks included, starts with."""

_LIFELINE_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended: the executor's wait status (`None`: nobody saw it) and its last output."""

    status: int | None
    printed: bytes
    out_of_memory: bool

    @property
    def words(self) -> str:
        """The end in words."""
        if self.status is None:
            return "was killed from outside"
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            known = number in signal.Signals.__members__.values()
            return f"was killed by {signal.Signals(number).name if known else f'signal {number}'}"
        return f"exited with status {os.waitstatus_to_exitcode(self.status)}"


class WorkerProcess:
    """A worker that has been started. Its files are made first, so none exists unrecorded."""

    def __init__(self, worker_id: str, surroundings: Surroundings, memory: int) -> None:
        environment, agent = surroundings.environment, surroundings.agent
        self.worker_id = worker_id
        self.journal = Journal.create(surroundings.directory / worker_id)
        self.channel, self._theirs = wire.pair()
        self._lifeline, far = socket.socketpair()
        self._oom_kills = processes.out_of_memory_kills()
        facts = {
            "channel": self._theirs.fileno(),
            "lifeline": far.fileno(),
            "journal": str(self.journal.path),
            "memory": memory,
            "agent": None if agent is None else asdict(agent),
            "hide": [name for name in (MARK, "PYTHONPATH") if name not in environment],
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mcp_pools.worker", json.dumps(facts)],
                env=self._environment(environment),
                pass_fds=(self._theirs.fileno(), far.fileno()),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            far.close()
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.channel.setblocking(False)

    def _environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        python_path = os.environ.get("PYTHONPATH")
        own = {"PYTHONPATH": python_path} if python_path else {}
        return {**own, **environment, MARK: self.worker_id}

    def run(self, launch: Launch) -> None:
        """Hand a launch over. Raises as `wire.send` does."""
        facts = {
            "task_id": launch.task_id,
            "attempt": launch.attempt,
            "cwd": launch.cwd,
            "roots": launch.roots,
            "depth": launch.depth,
        }
        if launch.traceparent is not None:
            facts["traceparent"] = launch.traceparent
        wire.send(self.channel, [launch.attempt_id, launch.seq, launch.handler, facts], launch.payload)

    def receive(self, most: int) -> Iterator[tuple[list[Any], bytes]]:
        """The packets that have arrived, at most so many."""
        with contextlib.suppress(BlockingIOError, wire.ChannelClosed):
            for _ in range(most):
                yield wire.receive(self.channel)

    def recall(self) -> list[str]:
        """Take back every launch the worker has not taken; their attempt ids, in order."""
        taken_back = []
        with contextlib.suppress(BlockingIOError, wire.ChannelClosed):
            while True:
                header, _ = wire.receive(self._theirs, wait=False)
                taken_back.append(header[0])
        return taken_back

    def kill(self) -> None:
        """Ask the guard to end the executor and all below it; `pidfd` tells when it is done."""
        with contextlib.suppress(OSError):
            self._lifeline.send(b"k")

    def kill_guard(self) -> None:
        """For a guard that does not answer: the kernel ends the executor with it."""
        processes.kill(self.pid)

    def reap(self, attempt_ids: Collection[str] = ()) -> Exit:
        """How it ended; called when `pidfd` says that it has. Ends what is left of it.

        A guard that was killed could not end what the executor had started; that is then found
        by the worker's name, or by the ids of the attempts that ran there.
        """
        self._process.wait()
        report = b""
        self._lifeline.setblocking(False)
        with contextlib.suppress(OSError):
            while part := self._lifeline.recv(_LIFELINE_BYTES):
                report += part
        head, _, printed = report.partition(b"\n")
        if not head:
            processes.kill_marked(
                lambda name, value: (
                    (name == MARK and value == self.worker_id)
                    or (name == "MCP_POOLS_ATTEMPT" and value in attempt_ids)
                )
            )
        status = json.loads(head)["status"] if head else None
        if not head and self._process.returncode > 0:
            status = self._process.returncode << 8  # it never came to have a guard
        killed = status is not None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return Exit(status, printed, killed and processes.out_of_memory_kills() > self._oom_kills)

    def close(self) -> None:
        """Let go of all descriptors and of the journal."""
        os.close(self.pidfd)
        for end in (self.channel, self._theirs, self._lifeline):
            end.close()
        self.journal.remove()

    def resident_bytes(self) -> int:
        """RAM of the executor and all below it."""
        return sum(map(processes.resident_bytes, processes.descendants(self.pid)))


@dataclass(frozen=True, slots=True)
class Journal:
    """The file in which a worker says how far it got: `seq` (8 bytes), then the machine's boot."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Journal:
        """A journal for a worker that has started nothing."""
        path.write_bytes(bytes(8) + processes.boot_id().encode())
        return cls(path)

    def started(self, seq: int) -> bool:
        """Whether launch `seq` may have started: yes, unless the journal is sure that it has not."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return True
        same_boot = content[8:].decode() == processes.boot_id()
        return not same_boot or seq <= int.from_bytes(content[:8], sys.byteorder)

    def remove(self) -> None:
        """Forget the worker."""
        self.path.unlink(missing_ok=True)


def end_strangers(directory: Path, attempt_ids: frozenset[str]) -> None:
    """End all that an earlier owner's workers left: their processes and those of these attempts."""
    workers = {entry.name for entry in directory.iterdir()}

    def belongs(name: str, value: str) -> bool:
        return (name == MARK and value in workers) or (name == "MCP_POOLS_ATTEMPT" and value in attempt_ids)

    processes.kill_marked(belongs)
