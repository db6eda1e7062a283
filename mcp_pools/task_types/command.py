"""`command`: one program, its output streamed as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_pools.program import run_program

if TYPE_CHECKING:
    from mcp_pools.task_type import Context


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run `argv` in `cwd` with `stdin` and the variables of `env`.

    Returns:
        What `run_program` returns: the exit code and the last 64 KiB of each stream.

    Raises:
        PoolsError: as `run_program` does; a nonzero exit is a `task_error`.
    """
    return run_program(
        payload["argv"],
        context,
        cwd=payload.get("cwd"),
        env=payload.get("env"),
        stdin=payload.get("stdin"),
    )
