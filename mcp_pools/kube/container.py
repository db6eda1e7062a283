"""What runs in a Job's container: one launch, on a worker like those of a local pool.

`python CODE.zip INPUT [KEPT]` reads the launch from the directory INPUT, which a Secret brings:
`launch.json`, the attempt's facts, and the payload in the files they name. A worker process
runs it; what it says goes to standard output as frames (`mcp_pools.kube.frames`), its outcome
first to the file KEPT, on a volume that outlives the pod. `python CODE.zip --recover KEPT` tells
that outcome once more.

Standard library only, so that a stock Python image can run it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from mcp_pools.adapter import Launch, Surroundings
from mcp_pools.agents import Agent
from mcp_pools.kube.frames import PART_BYTES, Writer
from mcp_pools.worker_process import WorkerProcess

_PACKETS_AT_ONCE: Final = 64
_KEPT_SECONDS: Final = 7 * 24 * 3600.0
"""How old an outcome on a volume may be before the next Job there removes it."""
_PROGRAMS: Final = ("command", "process")
"""Task types that start a program which their payload names by its place on the owner's machine."""


def main(argv: list[str]) -> int:
    """Carry out the launch below `argv[1]`; the exit status is 0 when its outcome was told."""
    signal.signal(signal.SIGTERM, _leave)  # PID 1 has no default action for it
    if argv[1] == "--recover":
        return recover(Path(argv[2]))
    _import_from_here()
    home = Path(tempfile.mkdtemp(prefix="mcp-pools-"))
    launch, surroundings = read_launch(Path(argv[1]), home)
    return Carrier(launch, surroundings, Path(argv[2]) if argv[2:] else None).run()


def recover(kept: Path) -> int:
    """Tell an outcome that was kept."""
    try:
        with kept.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except FileNotFoundError:
        return 1
    return 0


def _leave(_number: int, _frame: Any) -> NoReturn:
    """Somebody wants this pod gone. The worker's guard ends all it started when we end."""
    os._exit(143)


def _import_from_here() -> None:
    """The worker imports the same code."""
    given = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.path.abspath(sys.path[0]), given)))


def read_launch(inputs: Path, home: Path) -> tuple[Launch, Surroundings]:
    """The launch that a Secret brought, and what it runs among. A directory that only the caller's
    machine has is replaced by an empty one of the container's.
    """
    facts = json.loads((inputs / "launch.json").read_bytes())
    payload = b"".join((inputs / name).read_bytes() for name in facts["parts"])
    work = home / "work"
    work.mkdir()
    cwd = facts["cwd"] if facts["cwd"] != "/" and os.path.isdir(facts["cwd"]) else str(work)
    payload = _placed(payload, facts["task_type"], cwd)
    names = ("attempt_id", "task_id", "attempt", "task_type", "handler", "timeout", "depth", "worker", "seq")
    launch = Launch(
        payload=payload,
        cwd=cwd,
        roots=tuple(facts["roots"]),
        traceparent=facts["traceparent"],
        **{name: facts[name] for name in names},
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    agent = None if facts["agent"] is None else Agent(**facts["agent"])
    (home / "run").mkdir()
    return launch, Surroundings(home / "run", {**environment, **facts["environment"]}, agent=agent)


def _placed(payload: bytes, task_type: str, cwd: str) -> bytes:
    """A payload whose directory, and whose program, are this container's where it lacks the named ones:
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


class Carrier:
    """Runs one launch and tells how it goes.

    Args:
        kept: where its outcome is kept, too; `None`: nowhere.
    """

    def __init__(self, launch: Launch, surroundings: Surroundings, kept: Path | None = None) -> None:
        self._launch = launch
        self._surroundings = surroundings
        self._kept = kept
        self._writer = Writer()
        self._outcome: tuple[Any, ...] | None = None

    def run(self) -> int:
        """Until the launch has ended, run over its time, or lost its worker.

        Its outcome is told when all that it started has ended, so nothing runs after it.
        """
        worker = WorkerProcess("job", self._surroundings, self._surroundings.memory_bytes)
        worker.channel.setblocking(True)
        self._say("started", json.dumps({"at": time.time()}).encode())
        worker.run(self._launch)
        worker.channel.setblocking(False)
        late = self._listen(worker, time.monotonic() + self._launch.timeout)
        worker.kill()
        exit = worker.reap((self._launch.attempt_id,))
        self._hear(worker)
        self._printed(exit.printed)
        if self._outcome is not None:
            self._ended(*self._outcome)
        elif late:
            message = f"It ran longer than its timeout of {self._launch.timeout:g} s."
            self._ended(b"", "timeout", message)
        elif exit.out_of_memory:
            self._ended(b"", "out_of_memory", "The kernel ended its worker for want of memory.", True)
        else:
            self._ended(b"", "worker_lost", f"Its worker {exit.words}.", True)
        return 0

    def _listen(self, worker: WorkerProcess, until: float) -> bool:
        """Hear the worker; whether it ran over its time."""
        poll = select.poll()
        poll.register(worker.channel, select.POLLIN)
        poll.register(worker.pidfd, select.POLLIN)
        while self._outcome is None:
            left = until - time.monotonic()
            if left <= 0:
                return True
            ready = [descriptor for descriptor, _ in poll.poll(left * 1000)]
            self._hear(worker)
            if worker.pidfd in ready:
                return False
        return False

    def _hear(self, worker: WorkerProcess) -> None:
        for header, body in worker.receive(_PACKETS_AT_ONCE):
            kind, *rest = header
            if kind == "progress":
                self._say(kind, json.dumps(rest[1:]).encode())
            elif kind == "printed":
                self._printed(body)
            elif kind == "ran":
                self._say(kind, json.dumps(rest[1:3]).encode())
            elif kind == "ended":
                self._outcome = (body, *rest[1:])

    def _printed(self, data: bytes) -> None:
        self._parts("printed", data)

    def _parts(self, kind: str, data: bytes) -> None:
        for part in _cut(data):
            self._say(kind, part)

    def _ended(
        self,
        result: bytes,
        code: str | None,
        message: str = "",
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        digest = hashlib.sha256(result).hexdigest()
        facts = {"code": code, "retryable": retryable, "size": len(result), "sha256": digest}
        told = json.dumps({**facts, "message": message, "details": details or {}}).encode()
        if len(told) > PART_BYTES:
            told = json.dumps({**facts, "message": message[: PART_BYTES // 8], "details": {}}).encode()
        if self._kept is not None:
            self._keep(self._kept, result, told)
        self._parts("part", result)
        self._say("ended", told)

    def _keep(self, path: Path, result: bytes, told: bytes) -> None:
        """Write the outcome down, whole or not at all; a volume that cannot take it costs only that."""
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                writer = Writer()
                file.writelines(writer.line("part", part) for part in _cut(result))
                file.write(writer.line("ended", told))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _forget(path.parent, time.time() - _KEPT_SECONDS)
        except OSError as error:
            self._printed(f"The result volume cannot keep the outcome: {error.strerror}.\n".encode())

    def _say(self, kind: str, data: bytes) -> None:
        line = self._writer.line(kind, data)
        while line:
            line = line[os.write(1, line) :]


def _cut(data: bytes) -> list[bytes]:
    """Data in the pieces of frames."""
    return [data[first : first + PART_BYTES] for first in range(0, len(data), PART_BYTES)]


def _forget(directory: Path, before: float) -> None:
    """Remove what was kept before a time."""
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another Job tidies up as well
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
