"""A worker of a local pool: two processes, a guard and the executor it watches.

The *executor* takes packets from its channel and runs handlers, one at a time, in its
main thread. The *guard* runs nobody's code, so nobody's code can stop it: it waits until
the executor ends or its own lifeline to the router closes, then kills every descendant,
whatever session or process group it fled to (both are subreapers), drains what was
printed, reports how the executor ended, and ends.

Before it runs a launch, the executor writes the launch's number to its journal. After a
crash of the router, whoever comes next reads there which launches had started.

Standard library only, so that a worker starts fast: `python -m mcp_pools.worker FACTS`
with the JSON object {"channel": fd, "lifeline": fd, "journal": path, "memory": byte limit
or 0, "agent": the fields of the `Agent` that the pool's worker type stands for, or null,
"hide": [names of variables that handlers and their children must not see]}.
"""

import contextlib
import ctypes
import fcntl
import importlib
import io
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp_pools import wire
from mcp_pools.agents import Agent
from mcp_pools.errors import PoolsError
from mcp_pools.processes import descendants, kill
from mcp_pools.task_type import call

SEQ: Final = struct.Struct("=Q")
"""What a journal holds: the number of the latest launch that started."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PIPE_BYTES: Final = 65536
_WORDS: Final = 4096
"""Characters of an error's message at most; whoever has more to say prints it."""
_NESTING: Final = 500
"""How deep a result may be nested, about: whoever reads it has a deeper stack than the worker."""

# Bound now: a handler may put something else in the module `json` later.
_loads: Final = json.JSONDecoder().decode
_dumps: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode


def main() -> None:
    """Split into guard and executor."""
    facts = json.loads(sys.argv[1])
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    out, into = os.pipe2(os.O_CLOEXEC)
    guard_pid = os.getpid()
    executor = os.fork()
    if executor == 0:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(_PR_SET_CHILD_SUBREAPER, 1)  # a fork does not inherit it
        if os.getppid() != guard_pid:
            os._exit(1)
        os.close(facts["lifeline"])
        take_output(into)
        limit_memory(facts["memory"])
        for name in facts["hide"]:
            os.environ.pop(name, None)
        os.set_inheritable(facts["channel"], False)
        agent = None if facts["agent"] is None else Agent(**facts["agent"])
        Executor(socket.socket(fileno=facts["channel"]), (out, into), facts["journal"], agent).run()
    os.close(facts["channel"])
    os.close(into)
    guard(executor, socket.socket(fileno=facts["lifeline"]), out)


def prctl(option: int, value: int) -> None:
    """prctl(2), which Python does not offer."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def take_output(into: int) -> None:
    """Whatever this process prints, in any way, goes into the pipe; nothing is read from anywhere."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(into, 1)
    os.dup2(into, 2)
    os.close(null)
    # The descriptor is not the text layer's own: a handler that closes `sys.stdout` closes no more than that.
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", write_through=True)
    sys.stderr = sys.stdout


def limit_memory(limit: int) -> None:
    """Beyond `limit` bytes (0: none) an allocation fails in this process instead of the machine."""
    if limit:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


# The guard.


def guard(executor: int, lifeline: socket.socket, out: int) -> None:
    """Wait for the end of the executor or of the router, leave nothing behind, report."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pidfd = os.pidfd_open(executor)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    poll.poll()
    status = kill_descendants(executor)
    report = json.dumps({"status": status}).encode()
    with contextlib.suppress(OSError):
        # The router listens once this process has ended, so all must fit the socket's buffer.
        lifeline.sendall(report + b"\n" + drain(out)[-_PIPE_BYTES:])
    os._exit(0)


def kill_descendants(executor: int) -> int:
    """Kill and reap everything below this process; the executor's wait status."""
    status = 0
    while True:
        for pid in descendants(os.getpid()):
            kill(pid)
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == executor:
            status = ended


def drain(out: int) -> bytes:
    """What still lies in the pipe."""
    os.set_blocking(out, False)
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(out, _PIPE_BYTES):
            parts.append(part)
    return b"".join(parts)


# The executor.


class Executor:
    """Runs launches, one at a time, until the channel closes.

    Args:
        channel: where packets come from and go to.
        pipe: both ends of the pipe that holds what is printed.
        journal: path of the file that keeps the number of the latest launch started.
        agent: what runs prompts here.
    """

    def __init__(
        self, channel: socket.socket, pipe: tuple[int, int], journal: str, agent: Agent | None
    ) -> None:
        self.channel = channel
        self.agent = agent
        self.attempt_id = ""
        self.environment = dict(os.environ)
        self._out, self._into = pipe
        self._printer = sys.stdout
        self._home = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._pid = os.getpid()
        self._latest = 0
        self._journal = os.open(journal, os.O_WRONLY | os.O_CLOEXEC)
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._sending = threading.Lock()
        self._pumping = threading.Lock()

    def run(self) -> None:
        """Serve until nobody is on the other side any more."""
        threading.Thread(target=self._pump, daemon=True).start()
        self.send(["ready"])
        while True:
            try:
                header, payload = wire.receive(self.channel)
            except wire.ChannelClosed:
                os._exit(0)
            self._serve(header, payload)

    def send(self, header: list[Any], body: bytes = b"") -> None:
        """Tell the router; when it is gone, end."""
        try:
            with self._sending:
                wire.send(self.channel, header, body)
        except wire.ChannelClosed:
            os._exit(0)

    def _serve(self, header: list[Any], payload: bytes) -> None:
        attempt_id, seq, handler, facts = header
        # Launches may come out of order; the journal must not take back that a later one started.
        self._latest = max(self._latest, seq)
        os.pwrite(self._journal, SEQ.pack(self._latest), 0)
        self.attempt_id = attempt_id
        # Children that a handler starts without a word on their environment get these too.
        os.environ["MCP_POOLS_DEPTH"] = str(facts["depth"] + 1)
        os.environ["MCP_POOLS_ATTEMPT"] = attempt_id
        self._continue(facts.get("traceparent"))
        started = time.time()
        code, body, rest = self._outcome(handler, payload, facts)
        ended = time.time()
        if os.getpid() != self._pid:
            os._exit(0)  # a fork of the handler's: only the original may speak
        self._end_strays()
        self._flush()
        self._restore()
        if facts.get("traceparent", "").endswith("1"):
            self.send(["ran", attempt_id, started, ended, self._pid])
        self.send(["ended", attempt_id, code, *rest], body)

    def _continue(self, traceparent: str | None) -> None:
        """What a handler starts goes on with its launch's trace, and with no other's."""
        given = traceparent or self.environment.get("TRACEPARENT")
        if given is None:
            os.environ.pop("TRACEPARENT", None)
        else:
            os.environ["TRACEPARENT"] = given

    def _restore(self) -> None:
        """The next launch finds the directory and the output as this one did."""
        os.fchdir(self._home)
        if sys.stdout is not self._printer or self._printer.closed or sys.stderr is not self._printer:
            take_output(self._into)
            self._printer = sys.stdout

    def _outcome(
        self, name: str, payload: bytes, facts: dict[str, Any]
    ) -> tuple[str | None, bytes, list[Any]]:
        try:
            result = call(self._handler(name), _loads(payload.decode()), Running(self, facts))
            return None, encode(result), []
        except PoolsError as error:
            return error.code, b"", [words(error), bool(error.retryable), facts_of(error)]
        except MemoryError:
            return (
                "out_of_memory",
                b"",
                ["The task asked for more memory than its worker may use.", False, {}],
            )
        except SystemExit as exit:
            return "task_error", b"", [f"The handler called sys.exit({words(exit)}).", False, {}]
        except BaseException as error:
            if os.getpid() == self._pid:
                with contextlib.suppress(Exception):
                    traceback.print_exc()
            return "task_error", b"", [f"{type(error).__name__}: {words(error)}", False, {}]

    def _handler(self, name: str) -> Callable[..., Any]:
        handler = self._handlers.get(name)
        if handler is None:
            module, _, attribute = name.partition(":")
            handler = importlib.import_module(module)  # type: ignore[assignment]
            for part in attribute.split("."):
                handler = getattr(handler, part)
            assert callable(handler), name
            self._handlers[name] = handler
        return handler

    def _end_strays(self) -> None:
        """What a handler left running ends with its task: nobody would ever cancel it."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                for stray in descendants(self._pid):
                    kill(stray)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(-1, 0)

    def _pump(self) -> None:
        """Send on what is printed while a handler runs."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        while True:
            poll.poll()
            try:
                self._flush()
            except MemoryError:
                time.sleep(0.01)  # the handler has it all, but not for long

    def _flush(self) -> None:
        """Send all that was printed so far, as this launch's; what a thread goes on printing can wait."""
        with self._pumping:
            left = self._printed_bytes()
            while left > 0:
                part = os.read(self._out, min(left, _PIPE_BYTES))
                left -= len(part)
                self.send(["printed", self.attempt_id], part)

    def _printed_bytes(self) -> int:
        """How much lies in the pipe."""
        count = fcntl.ioctl(self._out, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)


class Running:
    """The `Context` of a running handler (`mcp_pools.task_type`)."""

    def __init__(self, executor: Executor, facts: dict[str, Any]) -> None:
        self._executor = executor
        self.attempt_id = executor.attempt_id
        self.task_id: str = facts["task_id"]
        self.attempt: int = facts["attempt"]
        self.cwd: str = facts["cwd"]
        self.roots: tuple[str, ...] = tuple(facts["roots"])
        self.agent = executor.agent
        self.env: Mapping[str, str] = {
            **executor.environment,
            "MCP_POOLS_DEPTH": str(facts["depth"] + 1),
            "MCP_POOLS_ATTEMPT": self.attempt_id,
            **({"TRACEPARENT": facts["traceparent"]} if "traceparent" in facts else {}),
        }

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work is."""
        numbers = [float(done), None if total is None else float(total)]
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"progress takes finite numbers, not {done!r} of {total!r}")
        said = None if message is None else text(str(message))
        self._executor.send(["progress", self.attempt_id, *numbers, said])

    def output(self, data: bytes | str) -> None:
        """Stream output."""
        raw = data.encode(errors="backslashreplace") if isinstance(data, str) else data
        self._executor.send(["printed", self.attempt_id], raw)


def encode(result: Any) -> bytes:
    """A handler's result as JSON, or `PoolsError` saying where it is none."""
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(_NESTING)
        return _dumps(result).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PoolsError(
            "task_error",
            f"The handler returned something JSON cannot hold: {words(error)}.",
            "Return only None, bool, finite numbers, text, lists and dicts with text keys.",
        ) from None
    finally:
        sys.setrecursionlimit(before)


def words(error: BaseException) -> str:
    """What an exception says, as text, whatever it does when asked."""
    try:
        return text(str(error))
    except Exception:
        return "(it cannot be put in words)"


def text(said: str) -> str:
    """Text that can be written anywhere: no lone surrogates, and of a length somebody reads."""
    short = said if len(said) <= _WORDS else said[:_WORDS] + " ..."
    return short.encode(errors="backslashreplace").decode()


def facts_of(error: PoolsError) -> dict[str, Any]:
    """A refusal's details, if JSON can hold them."""
    try:
        details: dict[str, Any] = _loads(encode(error.details).decode())
    except PoolsError:
        return {"unreadable": text(ascii(error.details))}
    return details


if __name__ == "__main__":
    main()
