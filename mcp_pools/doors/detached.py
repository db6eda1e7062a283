"""A process of nobody's: how an owner is started so that it outlives its starter.

Two forks: the first child starts the program and ends, so the program belongs to init.
A starter that lives for hours leaves no zombie, and whoever kills a client together
with all its children does not kill the owner of other clients.

Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any, Final

from mcp_pools.errors import CODES, PoolsError

LONGEST_LOG: Final = 1 << 20
"""Bytes. A longer log is set aside as `owner.log.1` when an owner is started."""
NO_FAILURE: Final = frozenset({"owner.unneeded", "owner.left"})
"""Last words of an owner that ended as it should: somebody else owns the home, or nobody came."""
_TAIL_BYTES: Final = 65536
_DEFAULT_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


class Starting:
    """A detached process that was started a moment ago: its `pid`, and where its log begins."""

    def __init__(self, pid: int, log: Path, offset: int) -> None:
        self.pid = pid
        self._log = log
        self._offset = offset

    def ended(self) -> bool:
        """Whether the process is gone; a zombie that init has not taken yet counts as gone."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return status.rpartition(b") ")[2][:1] in (b"Z", b"X")

    def require_no_failure(self) -> None:
        """Check the last words of an ended process.

        Raises:
            PoolsError: it failed; the message holds what it said last.
        """
        said = self._last_words()
        if said.get("event") in NO_FAILURE:
            return
        why = said.get("message") or "it said nothing"
        raise PoolsError(
            said["code"] if said.get("code") in CODES else "conflict",
            f"The owner could not be started: {why}",
            said.get("next") or f"See {self._log}.",
        )

    def _last_words(self) -> dict[str, Any]:
        """The last line this process wrote; plain text (a traceback's end) as `message`."""
        for line in reversed(self._lines()):
            try:
                said = json.loads(line)
            except ValueError:
                return {"message": line.strip()}
            if isinstance(said, dict) and said.get("pid") == self.pid:
                return said
        return {}

    def _lines(self) -> list[str]:
        try:
            with self._log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._offset, end - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []  # the log went with its home
        return [line for line in text.splitlines() if line.strip()]


def start(command: list[str], log: Path) -> Starting:
    """Run `command` in a session of its own, in `/`, with no descriptor but the log's.

    Raises:
        OSError: the log cannot be written, or no process can be started.
    """
    _set_aside(log)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        offset = os.fstat(written).st_size
        return Starting(_twice_forked(command, written), log, offset)
    finally:
        os.close(written)


def _set_aside(log: Path) -> None:
    try:
        if log.stat().st_size > LONGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
    except FileNotFoundError:
        pass


def _twice_forked(command: list[str], log: int) -> int:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_middle(command, log, tell)
    os.close(tell)
    with os.fdopen(told, "rb") as answer:
        word = answer.read().decode()
    os.waitpid(child, 0)
    number = int(word or -errno.EIO)
    if number < 0:
        raise OSError(-number, os.strerror(-number))
    return number


def _be_the_middle(command: list[str], log: int, tell: int) -> None:
    """Start the program, report its process id (or the error's number, negative), and end."""
    try:
        os.chdir("/")
        nothing = os.open(os.devnull, os.O_RDONLY)
        # Above the standard three, which the caller may have closed and `os.open` then reuses.
        log, tell, nothing = (fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3) for low in (log, tell, nothing))
        # What comes from the caller's parents is not close-on-exec: a client's pipes, say.
        _close_all_but({log, tell, nothing})
        actions = [
            (os.POSIX_SPAWN_DUP2, nothing, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
        os.write(tell, str(pid).encode())
    except OSError as failure:
        os.write(tell, str(-(failure.errno or 1)).encode())
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    """Close every descriptor above the standard three, except `kept`."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, max(low, descriptor))
        low = max(low, descriptor + 1)
    os.closerange(low, max(low, os.sysconf("SC_OPEN_MAX")))
