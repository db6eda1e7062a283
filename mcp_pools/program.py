"""One program run to its end, its output streamed as it comes.

The program is an argv list; no shell ever sees it. It needs no session of its own,
because the worker ends whatever a task leaves behind. Standard library only.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mcp_pools.errors import PoolsError
from mcp_pools.policy import inside

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

TAIL_BYTES = 64 * 1024
"""How much of the end of each stream the result keeps, unless it is said."""
CHUNK_BYTES = 64 * 1024
CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes that go on with a UTF-8 character."""
LEFTOVER_BYTES = 1024 * 1024
"""The most that is read from a stream after the program ended: what a pipe can hold. More
comes only from a process it left behind, which may never stop."""


def run_program(
    argv: list[str],
    context: Context,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    tail_bytes: int = TAIL_BYTES,
    within: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Run `argv` in `cwd` (none: the caller's directory) with `stdin` and the variables of `env`.

    `within`: the real paths of directories that `cwd` must lie in, if not the task's roots.

    Returns:
        `{"exit_code", "stdout", "stderr", "stdout_bytes", "stderr_bytes",
        "stdout_truncated", "stderr_truncated"}`: the last `tail_bytes` of each stream as
        text (what is not UTF-8 replaced), and how many bytes there were.

    Raises:
        PoolsError: `task_error` when it cannot start, exits with another status than 0 or
            is killed; `details` then holds the same facts. `not_allowed` when its
            directory left the allowed ones since it was judged.
    """
    _judge_again(cwd or context.cwd, context, context.roots if within is None else within)
    process = _start(argv, cwd or context.cwd, env or {}, stdin, context)
    with process:
        tails = _Streams(process, context, (stdin or "").encode(), tail_bytes).run()
    code = process.returncode
    result = {"exit_code": code, **tails}
    if code:
        raise PoolsError(
            "task_error", _how_it_ended(argv[0], code), "Read stderr in the error's details.", details=result
        )
    return result


def _how_it_ended(program: str, code: int) -> str:
    if code > 0:
        return f"{program!r} exited with status {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "a signal"
    return f"{program!r} was killed by {name} ({-code})."


def _judge_again(cwd: str, context: Context, roots: Sequence[str]) -> None:
    """It was judged when the task was accepted; a symlink may have changed since."""
    if os.path.realpath(cwd) != os.path.realpath(context.cwd) and not inside(cwd, roots):
        raise PoolsError(
            "not_allowed",
            f"The directory {cwd!r} is no longer inside the allowed directories.",
            "Add it to allow.roots in the configuration file.",
        )


def _start(
    argv: list[str], cwd: str, env: Mapping[str, str], stdin: str | None, context: Context
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env={**context.env, **env},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
    except OSError as error:
        raise PoolsError("task_error", _why_not_started(argv[0], cwd, error), "Submit it again.") from error


def _why_not_started(program: str, cwd: str, error: OSError) -> str:
    if not Path(cwd).is_dir():
        return f"The directory {cwd!r} does not exist."
    if not Path(program).exists():
        return f"The program {program!r} has vanished since the task was accepted."
    if isinstance(error, FileNotFoundError):
        return f"{program!r} could not start: the interpreter its first line names does not exist."
    return f"{program!r} could not start: {error.strerror}."


class _Streams:
    """Feeds and drains a process without deadlock until it has ended and its pipes are empty."""

    def __init__(
        self, process: subprocess.Popen[bytes], context: Context, text: bytes, tail_bytes: int
    ) -> None:
        assert process.stdout is not None and process.stderr is not None
        self.process = process
        self.context = context
        self.unsent = memoryview(text)
        self.tails = {"stdout": _Tail(tail_bytes), "stderr": _Tail(tail_bytes)}
        self.outputs = {"stdout": process.stdout, "stderr": process.stderr}
        self.selector = selectors.DefaultSelector()

    def run(self) -> dict[str, Any]:
        """The result's fields, when the process has ended."""
        for name, pipe in self.outputs.items():
            self._register(pipe, selectors.EVENT_READ, name)
        if self.process.stdin is not None:
            self._register(self.process.stdin, selectors.EVENT_WRITE, "stdin")
        ended = self._when_ended()
        with self.selector:
            while self._step(ended):
                pass
            self._drain()
        os.close(ended)
        return {key: value for name, tail in self.tails.items() for key, value in tail.fields(name).items()}

    def _register(self, pipe: IO[bytes], event: int, name: str) -> None:
        os.set_blocking(pipe.fileno(), False)
        self.selector.register(pipe, event, name)

    def _when_ended(self) -> int:
        """A descriptor that becomes readable when the process ends: its pipes may stay open in
        a process it left behind, so their end is not to be waited for.
        """
        readable, writable = os.pipe()

        def wait() -> None:
            self.process.wait()
            os.close(writable)

        threading.Thread(target=wait, daemon=True).start()
        self.selector.register(readable, selectors.EVENT_READ, "ended")
        return readable

    def _step(self, ended: int) -> bool:
        """Serve what is ready; `False` once the process has ended."""
        ready = {key.data: key.fileobj for key, _ in self.selector.select()}
        for name, pipe in ready.items():
            if name == "stdin":
                self._send(pipe)
            elif name != "ended":
                self._receive(name)
        return "ended" not in ready

    def _send(self, pipe: Any) -> None:
        try:
            sent = os.write(pipe.fileno(), self.unsent[:CHUNK_BYTES])
        except BlockingIOError:
            return
        except BrokenPipeError:
            sent = len(self.unsent)  # it does not want the rest, which is its right
        self.unsent = self.unsent[sent:]
        if not self.unsent:
            self.selector.unregister(pipe)
            pipe.close()

    def _receive(self, name: str) -> int:
        """Take what one stream holds now; how many bytes that was, 0 at its end or when it is empty."""
        pipe = self.outputs[name]
        if pipe.closed:
            return 0
        try:
            data = os.read(pipe.fileno(), CHUNK_BYTES)
        except BlockingIOError:
            return 0
        if data:
            self.tails[name].add(data)
            self.context.output(data)
        else:
            self.selector.unregister(pipe)
            pipe.close()
        return len(data)

    def _drain(self) -> None:
        for name in self.outputs:
            left = LEFTOVER_BYTES
            while left > 0 and (taken := self._receive(name)):
                left -= taken


class _Tail:
    """The end of a stream, and how long the whole was."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.kept = bytearray()

    def add(self, data: bytes) -> None:
        self.total += len(data)
        self.kept += data
        del self.kept[: -self.limit]

    def fields(self, name: str) -> dict[str, Any]:
        truncated = self.total > len(self.kept)
        # A cut inside a character would show as garbage at the start.
        text = self.kept[:3].lstrip(CONTINUATION) + self.kept[3:] if truncated else self.kept
        return {
            name: text.decode(errors="replace"),
            f"{name}_bytes": self.total,
            f"{name}_truncated": truncated,
        }
