"""Processes as the kernel knows them: who is who, who is below whom, and ending them.

A pid alone names a process only for as long as it lives; with its start time it names
one process for ever. Standard library only.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def boot_id() -> str:
    """This boot of the machine: files that were not synced do not outlive it."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def started_ticks(pid: int) -> int | None:
    """A process's start time in clock ticks since boot; `None` when there is no such process."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def resident_bytes(pid: int) -> int:
    """The memory a process holds in RAM; 0 when it is gone."""
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    """The living children of all threads of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def descendants(root: int) -> Iterator[int]:
    """Every living process below `root`, parents first."""
    pending = [root]
    while pending:
        below = children(pending.pop())
        yield from below
        pending.extend(below)


def kill(pid: int) -> None:
    """SIGKILL, whether or not the process still lives, or has become somebody else's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def marked(belongs: Callable[[str, str], bool]) -> Iterator[int]:
    """Processes of ours whose environment, as it was when they started, has a variable that belongs.

    A fork keeps its parent's environment here, whatever it did to itself since.
    """
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            block = (entry / "environ").read_bytes()
        except OSError:
            continue
        pairs = (pair.partition("=") for pair in block.decode(errors="replace").split("\0"))
        if any(belongs(name, value) for name, _, value in pairs):
            yield int(entry.name)


def kill_marked(belongs: Callable[[str, str], bool]) -> int:
    """Kill every process that `marked` finds, and all below it, until none is left; how many there were."""
    killed = 0
    for _ in range(100):
        found = [pid for pid in marked(belongs) if not is_over(pid)]
        if not found:
            break
        end({*found, *(below for root in found for below in descendants(root))} - {os.getpid()})
        killed += len(found)
    return killed


def end(pids: Iterable[int], seconds: float = 5.0) -> None:
    """Kill processes and wait, at most `seconds` for all of them, until they are over.

    Between the signal and its end a process has no environment any more and yet may still
    write a file: whoever only looked for marks would think it gone.
    """
    ending = []
    for pid in pids:
        with contextlib.suppress(OSError):
            ending.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(ending[-1], signal.SIGKILL)
    deadline = time.monotonic() + seconds
    for pidfd in ending:
        watch = select.poll()
        watch.register(pidfd, select.POLLIN)
        watch.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(pidfd)


def is_over(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot."""
    try:
        lines = (_PROC / "vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
