"""`prompt`: an agent CLI, run headless, in the caller's directory or in a git worktree of its own.

The agent reads its prompt from a pipe that then ends, and has no terminal: a question it
asks finds no answer, so it cannot wait for one.

When the task is cancelled or timed out, its worker is killed, and a worktree stays as it
was then: the task's last progress names it. A worktree's branch carries the task's id and, from
the second attempt on, the attempt's number, so no attempt finds another's in its way.
"""

from __future__ import annotations

import os.path
import shutil
from typing import TYPE_CHECKING, Any, Final

from mcp_pools.agents import installing
from mcp_pools.errors import PoolsError
from mcp_pools.program import run_program
from mcp_pools.worktree import Worktree

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

KEPT_BYTES: Final = 1 << 20
"""How much of the end of each stream the result keeps."""
ARGUMENT_BYTES: Final = 131_071
"""The longest argument that Linux passes to a program."""


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Give `prompt` to the agent of this worker, in `cwd` or in a `worktree` of its repository.

    Returns:
        `{"text", "exit_code", "text_truncated", "stderr", "stderr_truncated", "worktree"}`:
        the last MiB of what it printed on each stream; `worktree` as `Worktree.finish` says.

    Raises:
        PoolsError: `task_error` when the agent is not installed or exits with another
            status than 0 (`details` then holds the same facts), or when there can be no
            worktree; `unsupported` when this worker is no agent's.
    """
    argv, stdin = _command(payload["prompt"], context)
    cwd, tree = payload.get("cwd") or context.cwd, _worktree(payload, context)
    within = None
    if tree is not None:
        cwd, within = tree.directory, (os.path.realpath(tree.path),)
        context.progress(0, message=f"in {tree.path}, branch {tree.branch}")
    try:
        said = run_program(argv, context, cwd=cwd, within=within, stdin=stdin, tail_bytes=KEPT_BYTES)
    except PoolsError as error:
        if "exit_code" in error.details:
            error.next = "Read text and stderr in the error's details."
        error.details = _result(error.details, tree)
        raise
    return _result(said, tree)


def _command(prompt: str, context: Context) -> tuple[list[str], str | None]:
    """What to run, its program found, and what it reads."""
    agent = context.agent
    if agent is None:
        raise PoolsError("unsupported", "This worker is no agent's.", "Use a pool whose worker_type is one.")
    (program, *arguments), stdin = agent.command(prompt)
    found = shutil.which(program, path=context.env.get("PATH", os.defpath))
    if found is None or not os.path.isabs(found):  # a relative PATH leads into whatever cwd holds
        raise PoolsError(
            "task_error", f"There is no program {program!r}, which this pool runs.", installing(program)
        )
    longest = max((len(word.encode()) for word in arguments), default=0)
    if longest > ARGUMENT_BYTES:
        message = (
            f"The prompt makes an argument of {longest} bytes; {ARGUMENT_BYTES} is the most there can be."
        )
        raise PoolsError("task_error", message, "Shorten it, or let the agent read it: stdin under agents.")
    return [found, *arguments], stdin


def _worktree(payload: dict[str, Any], context: Context) -> Worktree | None:
    wanted = payload.get("worktree")
    if not wanted:
        return None
    name = wanted if isinstance(wanted, str) else f"mcp-pools-{context.task_id}"
    branch = name if context.attempt == 1 else f"{name}-{context.attempt}"
    return Worktree.add(payload.get("cwd") or context.cwd, branch, context.env)


def _result(said: dict[str, Any], tree: Worktree | None) -> dict[str, Any]:
    """What the agent printed, if it ran, and what it left."""
    result = {"worktree": tree.finish() if tree is not None else None}
    if "exit_code" not in said:
        return {**said, **result}
    streams = {
        "text": said["stdout"],
        "text_truncated": said["stdout_truncated"],
        "stderr": said["stderr"],
        "stderr_truncated": said["stderr_truncated"],
    }
    return {"exit_code": said["exit_code"], **streams, **result}
