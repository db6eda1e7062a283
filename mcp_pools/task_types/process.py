"""`process`: one command for each item, exit code and output each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_pools.errors import PoolsError
from mcp_pools.filling import fill_words
from mcp_pools.program import TAIL_BYTES, run_program

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

KEPT_BYTES = 8 * 1024 * 1024
"""About how much output all items together may leave in the result, both streams counted."""
LEAST_TAIL_BYTES = 1024


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run `argv`, filled with each of `items`, one after the other.

    Returns:
        `{"items": [outcome]}` in their order, an outcome being `{"result": {"exit_code",
        "stdout", ...}}` or `{"error": {"code", "message", "details"}}`; the details of a
        program that ended badly hold what its result would have held.
    """
    items = payload["items"]
    # Many long outputs would make a result that is refused as a whole.
    tail_bytes = max(LEAST_TAIL_BYTES, min(TAIL_BYTES, KEPT_BYTES // (2 * len(items) or 1)))
    outcomes = []
    for done, item in enumerate(items):
        context.progress(done, len(items))
        outcomes.append(_outcome(item, payload, tail_bytes, context))
    context.progress(len(items), len(items))
    return {"items": outcomes}


def _outcome(item: Any, payload: dict[str, Any], tail_bytes: int, context: Context) -> dict[str, Any]:
    try:
        argv = fill_words(payload["argv"], item)
        cwd, env = payload.get("cwd"), payload.get("env")
        return {"result": run_program(argv, context, cwd=cwd, env=env, tail_bytes=tail_bytes)}
    except PoolsError as error:
        return {"error": {"code": error.code, "message": error.message, "details": error.details}}
