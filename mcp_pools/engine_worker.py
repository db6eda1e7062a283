"""One launch on a worker of an engine: who carries it out there, and what it has said meanwhile.

An engine imports this on its workers, so mcp-pools must be installed there, in the owner's version.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import mcp_pools
from mcp_pools.adapter import Launch, Surroundings
from mcp_pools.agents import Agent
from mcp_pools.carrier import Carrier, Outcome, facts_of, launch_of

KEPT_BYTES: Final = 1 << 18
"""Output that is kept while nobody takes it; of more, the oldest is dropped."""

_MACHINES: Final = ("PATH", "HOME", "LANG", "TMPDIR")
"""Variables that are the machine's own, not the owner's."""

Said = tuple[str, bytes]


def brief(launch: Launch, surroundings: Surroundings) -> dict[str, Any]:
    """All that a worker of an engine must know of a launch but its payload, as JSON can hold it."""
    agent = surroundings.agent
    return {
        **facts_of(launch),
        "environment": dict(surroundings.environment),
        "memory": surroundings.memory_bytes,
        "agent": None if agent is None else asdict(agent),
    }


class Stint:
    """A launch on this worker. `run` blocks; the others may be called meanwhile from any thread.

    Args:
        facts: what `brief` made of it.
    """

    def __init__(self, facts: dict[str, Any], payload: bytes) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="mcp-pools-"))
        (self._home / "work").mkdir()
        (self._home / "run").mkdir()
        launch = launch_of(facts, payload, self._home / "work")
        own = {name: os.environ[name] for name in _MACHINES if name in os.environ}
        surroundings = Surroundings(
            self._home / "run",
            {**facts["environment"], **own},
            memory_bytes=facts["memory"],
            agent=None if facts["agent"] is None else Agent(**facts["agent"]),
        )
        self._carrier = Carrier(launch, surroundings, self._say, worker_id=launch.attempt_id)
        self._said: deque[Said] = deque()
        self._printed_bytes = 0
        self._changed = threading.Condition()
        self._over = False

    def run(self) -> Outcome:
        """Carry it out; nothing of it runs any more when this returns."""
        try:
            return self._carrier.run()
        except Exception as error:  # the machine's: no process, no disk
            message = f"Its worker could not be started: {type(error).__name__}: {error}"
            return Outcome("worker_lost", message=message, retryable=True)
        finally:
            shutil.rmtree(self._home, ignore_errors=True)
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def stop(self) -> None:
        """End it; `run` returns when that is done."""
        self._carrier.stop()

    def take(self, seconds: float) -> list[Said] | None:
        """What it has said since; waits for something, at most `seconds`. `None`: that was all."""
        with self._changed:
            self._changed.wait_for(lambda: self._said or self._over, seconds)
            said, self._said, self._printed_bytes = list(self._said), deque(), 0
            return said if said or not self._over else None

    def _say(self, kind: str, data: bytes) -> None:
        with self._changed:
            self._said.append((kind, data))
            if kind == "printed":
                self._printed_bytes += len(data)
                while self._printed_bytes > KEPT_BYTES:
                    self._drop()
            self._changed.notify_all()

    def _drop(self) -> None:
        oldest = next(each for each in self._said if each[0] == "printed")
        self._said.remove(oldest)
        self._printed_bytes -= len(oldest[1])


def version() -> str:
    """The version of mcp-pools on this worker."""
    return mcp_pools.__version__
