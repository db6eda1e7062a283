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
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from mcp_pools.adapter import Launch, Surroundings
from mcp_pools.agents import Agent
from mcp_pools.carrier import Carrier, Outcome, launch_of
from mcp_pools.kube.frames import PART_BYTES, Writer

_KEPT_SECONDS: Final = 7 * 24 * 3600.0
"""How old an outcome on a volume may be before the next Job there removes it."""


def main(argv: list[str]) -> int:
    """Carry out the launch below `argv[1]`; the exit status is 0 when its outcome was told."""
    signal.signal(signal.SIGTERM, _leave)  # PID 1 has no default action for it
    if argv[1] == "--recover":
        return recover(Path(argv[2]))
    _import_from_here()
    home = Path(tempfile.mkdtemp(prefix="mcp-pools-"))
    launch, surroundings = read_launch(Path(argv[1]), home)
    return Teller(Path(argv[2]) if argv[2:] else None).run(launch, surroundings)


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
    """The launch that a Secret brought, and what it runs among."""
    facts = json.loads((inputs / "launch.json").read_bytes())
    payload = b"".join((inputs / name).read_bytes() for name in facts["parts"])
    work = home / "work"
    work.mkdir()
    launch = launch_of(facts, payload, work)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    agent = None if facts["agent"] is None else Agent(**facts["agent"])
    (home / "run").mkdir()
    return launch, Surroundings(home / "run", {**environment, **facts["environment"]}, agent=agent)


class Teller:
    """Carries a launch out and tells how it goes, in frames on standard output.

    Args:
        kept: where its outcome is kept, too; `None`: nowhere.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept
        self._writer = Writer()

    def run(self, launch: Launch, surroundings: Surroundings) -> int:
        """Until the launch has ended, run over its time, or lost its worker."""
        self._ended(Carrier(launch, surroundings, self._parts).run())
        return 0

    def _parts(self, kind: str, data: bytes) -> None:
        for part in _cut(data):
            self._say(kind, part)

    def _ended(self, outcome: Outcome) -> None:
        result, message = outcome.result, outcome.message
        facts = {
            "code": outcome.code,
            "retryable": outcome.retryable,
            "size": len(result),
            "sha256": hashlib.sha256(result).hexdigest(),
        }
        told = json.dumps({**facts, "message": message, "details": outcome.details or {}}).encode()
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
            self._parts("printed", f"The result volume cannot keep the outcome: {error.strerror}.\n".encode())

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
