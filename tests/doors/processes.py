"""Fixtures and probes for tests that run real owners and bridges. Each process is ended by its id."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from standin import StandInHome

HERE = Path(__file__).parent


def until(holds, seconds=20.0):
    """Look again until `holds()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        os.sched_yield()
    return value


def events(home, name=None):
    """What the home's owners said, oldest first."""
    with suppress(FileNotFoundError, NotADirectoryError):
        said = [json.loads(line) for line in home.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in said if name in (None, event["event"])]
    return []


def alive(pid):
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def running_with(argument):
    """The processes whose command line holds `argument`, this one excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def notes(home):
    """What the stand-in router wrote down."""
    file = home.path / "notes"
    return file.read_text().splitlines() if file.exists() else []


def owner_pid(home):
    """The process that says it owns the home."""
    return until(lambda: home.read_owner())["pid"]


@pytest.fixture
def directory():
    """A directory whose path is short enough for a socket's."""
    made = Path(tempfile.mkdtemp(prefix="doors-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def home(directory, monkeypatch):
    """A home whose owners are stand-ins; those still alive at the end are killed."""
    monkeypatch.delenv("MCP_POOLS_DEPTH", raising=False)
    made = StandInHome(directory / "home")
    yield made
    # Also an owner that has said nothing yet: it lost a race, and would win a new home.
    for pid in running_with(str(made.path)):
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not alive(pid))
    if made.socket.parent != made.path:
        shutil.rmtree(made.socket.parent, ignore_errors=True)


class BridgeProcess:
    """A bridge as an MCP client runs it: lines on its stdin and stdout."""

    def __init__(self, home, **options):
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(HERE / "standin_bridge.py"), str(home.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def send(self, *messages):
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def ask(self, method, number, **params):
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def tell(self, method, **params):
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def receive(self):
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.process.stderr.read()!r}"
        return json.loads(line)

    def shake_hands(self):
        self.ask("initialize", 0, protocolVersion="2025-11-25")
        answer = self.receive()
        self.tell("notifications/initialized")
        return answer

    def leave(self):
        self.process.stdin.close()
        return self.process.wait(10)


@pytest.fixture
def bridge(home):
    """Starts bridges to `home`; all are gone at the end."""
    started = []

    def start(**options):
        started.append(BridgeProcess(home, **options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
        for pipe in (each.process.stdin, each.process.stdout, each.process.stderr):
            with suppress(BrokenPipeError):
                pipe.close()
