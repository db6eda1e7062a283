"""Processes as the kernel knows them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mcp_pools import processes

CODE = "import os, sys, time; [os.fork() for _ in range(2)]; print(flush=True); time.sleep(600)"


@pytest.fixture
def family():
    """A process with a child and grandchildren, four in all, marked `MARK=family`."""
    environment = {**os.environ, "MARK": f"family-{os.urandom(4).hex()}"}
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        process.mark = environment["MARK"]
        below = list(processes.descendants(process.pid))
        yield process
        for pid in [process.pid, *below]:
            processes.kill(pid)


def until(holds):
    """Look again until `holds()` is true."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_everything_below_a_process_is_found(family) -> None:
    """Children and their children, parents first."""
    found = list(processes.descendants(family.pid))
    assert len(set(found)) == 3
    assert set(processes.children(family.pid)) < set(found)
    assert found[0] in processes.children(family.pid)


def test_a_process_that_is_gone_has_nothing() -> None:
    """No children, no memory, no start; ending it again is no error."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert processes.children(process.pid) == []
    assert list(processes.descendants(process.pid)) == []
    assert processes.resident_bytes(process.pid) == 0
    assert processes.started_ticks(process.pid) is None
    processes.kill(process.pid)


def test_a_process_is_known_by_its_start(family) -> None:
    """It stays the same for as long as it lives, and differs from an older one's."""
    assert processes.started_ticks(family.pid) == processes.started_ticks(family.pid)
    assert processes.started_ticks(family.pid) >= processes.started_ticks(os.getpid())


def test_memory_is_measured(family) -> None:
    """An interpreter takes some megabytes."""
    assert 1 << 20 < processes.resident_bytes(family.pid) < 1 << 30


def test_forks_are_found_by_the_mark_they_began_with(family) -> None:
    """All four, and nobody else."""
    found = set(processes.marked(lambda name, value: (name, value) == ("MARK", family.mark)))
    assert found == {family.pid, *processes.descendants(family.pid)}


def test_killing_the_marked_leaves_none(family) -> None:
    """Nor anything below them."""
    before = [family.pid, *processes.descendants(family.pid)]
    killed = processes.kill_marked(lambda name, value: (name, value) == ("MARK", family.mark))
    assert killed >= 1
    until(lambda: family.poll() is not None)
    assert family.returncode == -signal.SIGKILL
    assert not [pid for pid in before if processes.started_ticks(pid) and not processes.is_over(pid)]


def test_killing_when_nobody_is_marked_kills_nobody() -> None:
    """And takes one look."""
    assert processes.kill_marked(lambda name, value: (name, value) == ("MARK", "nobody")) == 0


def test_this_boot_has_a_name_that_stays() -> None:
    """Journals of another boot are not trusted."""
    assert len(processes.boot_id()) == 36 and processes.boot_id() == processes.boot_id()
    assert processes.out_of_memory_kills() >= 0
