"""One launch, carried out away from its owner by a worker like those of a local pool.

Pools that run elsewhere, in a container or on an engine's worker, have this in common: what
belongs to a launch arrives there as facts and a payload, a worker process of its own runs it,
and what it says goes back in pieces, before its outcome.

Standard library only, so that a stock Python image can run it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from mcp_pools.adapter import AdapterEvent, Launch, Printed, Progressed, Ran, Started, Surroundings
from mcp_pools.wire import ChannelClosed
from mcp_pools.worker_process import WorkerProcess

STOPPED: Final = "stopped"
"""The code of an outcome that somebody asked for with `Carrier.stop`; what it is called is theirs to say."""

_PACKETS_AT_ONCE: Final = 256
"""More than its channel holds."""
_WEIGH_SECONDS: Final = 0.5
_PROGRAMS: Final = ("command", "process")
"""Task types that start a program which their payload names by its place on the owner's machine."""

Say = Callable[[str, bytes], None]
"""Takes what a launch says: `started`, `progress`, `ran` (JSON), or `printed` (as it came)."""


class Outcome(NamedTuple):
    """How a launch ended: `code` is `None` for a success, with its result as JSON."""

    code: str | None
    result: bytes = b""
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] | None = None


def facts_of(launch: Launch) -> dict[str, Any]:
    """A launch but for its payload, as JSON can hold it."""
    facts = asdict(launch)
    del facts["payload"]
    return facts


def launch_of(facts: dict[str, Any], payload: bytes, work: Path) -> Launch:
    """The launch that `facts_of` describes, on this machine.

    A directory that only the caller's machine has is replaced by `work`, an empty one of this machine's.
    """
    cwd = facts["cwd"] if facts["cwd"] != "/" and os.path.isdir(facts["cwd"]) else str(work)
    given = {each.name: facts[each.name] for each in fields(Launch) if each.name in facts}
    placed = {"payload": _placed(payload, facts["task_type"], cwd), "cwd": cwd}
    return Launch(**{**given, **placed, "roots": tuple(facts["roots"])})


def _placed(payload: bytes, task_type: str, cwd: str) -> bytes:
    """A payload whose directory, and whose program, are this machine's where it lacks the named ones:
    the owner judged the program, and wrote down where it found it.
    """
    content = json.loads(payload)
    if not isinstance(content, dict):
        return payload
    changed: dict[str, Any] = {}
    if content.get("cwd") and not os.path.isdir(str(content["cwd"])):
        changed["cwd"] = cwd
    if task_type in _PROGRAMS and (argv := content.get("argv")) and not os.path.exists(argv[0]):
        changed["argv"] = [shutil.which(os.path.basename(argv[0])) or argv[0], *argv[1:]]
    return json.dumps({**content, **changed}).encode() if changed else payload


def heard(attempt_id: str, kind: str, data: bytes) -> AdapterEvent | None:
    """The event that something said by a launch stands for; `None` for a kind that is none."""
    if kind == "printed":
        return Printed(attempt_id, data)
    if kind == "started":
        return Started(attempt_id, float(json.loads(data)["at"]))
    if kind == "progress":
        return Progressed(attempt_id, *json.loads(data))
    if kind == "ran":
        began, ended = json.loads(data)
        return Ran(attempt_id, began, ended, 0)
    return None


class Carrier:
    """Runs one launch and tells how it goes.

    Args:
        worker_id: what its worker is called; all processes of the worker carry it.
    """

    def __init__(self, launch: Launch, surroundings: Surroundings, say: Say, worker_id: str = "job") -> None:
        self._launch = launch
        self._surroundings = surroundings
        self._say = say
        self._worker_id = worker_id
        self._outcome: Outcome | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = threading.Lock()

    def stop(self) -> None:
        """End it and all it started; `run` returns when that is done. From any thread, at any time."""
        with self._stopping:
            if self._stop >= 0:
                os.eventfd_write(self._stop, 1)

    def _over(self) -> None:
        with self._stopping:
            os.close(self._stop)
            self._stop = -1

    def run(self) -> Outcome:
        """Until the launch has ended, run over its time or memory, was stopped, or lost its worker.

        All that it started has ended then, so nothing runs after its outcome is told.
        """
        try:
            worker = WorkerProcess(self._worker_id, self._surroundings, self._surroundings.memory_bytes)
            try:
                return self._see_through(worker)
            finally:
                worker.close()
        finally:
            self._over()

    def _see_through(self, worker: WorkerProcess) -> Outcome:
        worker.channel.setblocking(True)
        self._say("started", json.dumps({"at": time.time()}).encode())
        with contextlib.suppress(ChannelClosed):  # it ended before it took anything; how, is seen below
            worker.run(self._launch)
        worker.channel.setblocking(False)
        cut_short = self._listen(worker, time.monotonic() + self._launch.timeout)
        worker.kill()
        exit = worker.reap((self._launch.attempt_id,))
        self._hear(worker)
        if exit.printed:
            self._say("printed", exit.printed)
        if self._outcome is not None or cut_short is not None:
            return self._outcome or cut_short  # type: ignore[return-value]
        if exit.out_of_memory:
            message = "The kernel ended its worker for want of memory."
            return Outcome("out_of_memory", message=message, retryable=True)
        return Outcome("worker_lost", message=f"Its worker {exit.words}.", retryable=True)

    def _listen(self, worker: WorkerProcess, until: float) -> Outcome | None:
        """Hear the worker until it has told its outcome or ended; the outcome of what is to be cut short."""
        poll = select.poll()
        for descriptor in (worker.channel.fileno(), worker.pidfd, self._stop):
            poll.register(descriptor, select.POLLIN)
        weigh_at = time.monotonic() + _WEIGH_SECONDS
        while self._outcome is None:
            now = time.monotonic()
            left = until - now
            if left <= 0:
                message = f"It ran longer than its timeout of {self._launch.timeout:g} s."
                return Outcome("timeout", message=message)
            ready = [descriptor for descriptor, _ in poll.poll(min(left, _WEIGH_SECONDS) * 1000)]
            self._hear(worker)
            if worker.pidfd in ready:
                return None
            if self._stop in ready:
                return Outcome(STOPPED)
            if now > weigh_at:
                weigh_at = now + _WEIGH_SECONDS
                if (heavy := self._weighed(worker)) is not None:
                    return heavy
        return None

    def _weighed(self, worker: WorkerProcess) -> Outcome | None:
        limit = self._surroundings.memory_bytes
        if not limit or (used := worker.resident_bytes()) <= limit:
            return None
        message = f"It used {used} bytes of memory; its worker may use {limit}."
        return Outcome("out_of_memory", message=message)

    def _hear(self, worker: WorkerProcess) -> None:
        for header, body in worker.receive(_PACKETS_AT_ONCE):
            kind, *rest = header
            if kind == "progress":
                self._say(kind, json.dumps(rest[1:]).encode())
            elif kind == "printed":
                self._say(kind, body)
            elif kind == "ran":
                self._say(kind, json.dumps(rest[1:3]).encode())
            elif kind == "ended":
                code, *words = rest[1:]
                self._outcome = Outcome(code, body, *words)
