"""Task types for tests: work that waits for a sign, fails when told to, and leaves traces."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from mcp_pools.task_type import Context, task_type


@task_type(summary="Say that it runs, then wait until a file is there")
def hold(gate: str, context: Context) -> int:
    """Writes `GATE.N` when attempt N has begun; returns N."""
    Path(f"{gate}.{context.attempt}").touch()
    while not os.path.exists(gate):
        time.sleep(0.005)
    return context.attempt


@task_type(summary="Append a word to a file")
def note(file: str, word: str, context: Context) -> int:
    """Returns the attempt that did it."""
    with open(file, "a") as opened:
        opened.write(f"{word}\n")
    return context.attempt


@task_type(summary="Fail until an attempt")
def fail_until(attempt: int, context: Context) -> int:
    """Returns the attempt that succeeded."""
    if context.attempt < attempt:
        raise RuntimeError(f"attempt {context.attempt}")
    return context.attempt


@task_type(summary="Kill the worker until an attempt")
def die_until(attempt: int, context: Context) -> int:
    """Returns the attempt that survived."""
    if context.attempt < attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt


@task_type(summary="Return a long text")
def long_text(size: int) -> str:
    """Of `size` characters."""
    return "x" * size


@task_type(summary="Return a text that is no Unicode")
def surrogate() -> str:
    """JSON cannot hold it."""
    return "\ud800"


@task_type(summary="Note each item; some fail in their first attempt", takes_items=True)
def note_items(items: list[int], file: str, fail: list[int], context: Context) -> dict[str, Any]:
    """One outcome for each item; those in `fail` fail until the second attempt."""
    with open(file, "a") as opened:
        opened.write("".join(f"{item}\n" for item in items))
    bad = {"error": {"code": "task_error", "message": "not yet"}}
    failing = fail if context.attempt == 1 else []
    return {"items": [bad if item in failing else {"result": item * 10} for item in items]}


@task_type(summary="Sum of squares", takes_items=True)
def sum_of_squares(items: list[float]) -> float:
    """What a fold of one's own may be."""
    return sum(item * item for item in items)


@task_type(summary="Fail at once, or wait for a sign")
def fail_or_hold(fail: bool, gate: str) -> None:
    """Those that hold go on when the gate is there."""
    if fail:
        raise RuntimeError("told to")
    while not os.path.exists(gate):
        time.sleep(0.005)


@task_type(summary="Say which trace it belongs to")
def whose_trace(context: Context) -> dict[str, Any]:
    """As its environment says, as that of its children would, and its process."""
    return {
        "own": os.environ.get("TRACEPARENT"),
        "children": context.env.get("TRACEPARENT"),
        "pid": os.getpid(),
    }
