"""The built-in task types that run what `allow` permits: programs, functions, agents. Part of `catalog`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, field_validator

from mcp_pools.errors import PoolsError
from mcp_pools.filling import fill_words
from mcp_pools.payload import ItemError, Path, Payload, SecretReference
from mcp_pools.task_type import TaskType

if TYPE_CHECKING:
    from mcp_pools.policy import Judge


class Surroundings(Payload):
    """Where a program runs, and with which variables."""

    cwd: Path | None = Field(
        None,
        description="The directory to run in; none: the caller's.",
        json_schema_extra={"format": "path"},
    )
    env: dict[str, str | SecretReference] = Field(
        default_factory=dict,
        description='Variables to set beside the standard ones; values are text or {"$secret": "NAME"}.',
    )


# --- command -------------------------------------------------------------------------------


class CommandPayload(Surroundings):
    """A program and what it gets."""

    argv: list[str] = Field(
        min_length=1, description="The program and its arguments, as a list; no shell parses them."
    )
    stdin: str | SecretReference | None = Field(
        None, description='Text for its standard input, or {"$secret": "NAME"}; none: empty.'
    )


class CommandResult(BaseModel):
    """How the program ended and what it said."""

    exit_code: int = Field(description="Its exit status; minus the signal's number if one killed it.")
    stdout: str = Field(description="The last 64 KiB of its standard output.")
    stderr: str = Field(description="The last 64 KiB of its standard error.")
    stdout_bytes: int = Field(description="How many bytes it wrote to standard output.")
    stderr_bytes: int = Field(description="How many bytes it wrote to standard error.")
    stdout_truncated: bool = Field(description="Whether `stdout` is only the end.")
    stderr_truncated: bool = Field(description="Whether `stderr` is only the end.")


def _judge_command(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Pin the executable and the directory."""
    cwd = _judged_directory(payload, judge)
    judge.env(payload.get("env") or {})
    return {**payload, "cwd": cwd, "argv": judge.command(payload["argv"], cwd)}


def _judged_directory(payload: dict[str, Any], judge: Judge) -> str:
    """The directory to run in. The caller's own needs no root: what the program may touch is
    for `allow.commands` to say.
    """
    asked = payload.get("cwd") or judge.cwd
    cwd = judge.real(asked)
    return cwd if cwd == judge.real(judge.cwd) else judge.path(asked)


COMMAND = TaskType(
    name="command",
    summary="Run a program without a shell; its output is streamed, a nonzero exit is a failure.",
    handler="mcp_pools.task_types.command:run",
    payload=CommandPayload,
    result=CommandResult,
    check=_judge_command,
    example={"argv": ["ls", "-l"]},
)

# --- process -------------------------------------------------------------------------------


class ProcessPayload(Surroundings):
    """A command and the items to run it for."""

    items: list[Any] = Field(description="Values to run the command for, one after the other.")
    argv: list[str] = Field(
        min_length=1,
        description="The program and its arguments, as a list; no shell parses them. `{item}` stands for "
        "the item, `{item.key}` for a value of it; what is not text is filled in as JSON.",
    )


class ProcessError(ItemError):
    """Why one item's program failed."""

    details: CommandResult | dict[str, Any] = Field(
        default_factory=dict, description="How it ended and what it said, when it ran."
    )


class ProcessOutcome(BaseModel):
    """What became of one item; a nonzero exit is an error."""

    result: CommandResult | None = Field(None, description="How the program ended and what it said.")
    error: ProcessError | None = Field(None, description="Why there is no result.")


class ProcessResult(BaseModel):
    """One outcome for each item. The more items, the less of each output is kept: 1 KiB at least."""

    items: list[ProcessOutcome] = Field(description="One outcome for each item, in their order.")


def _judge_process(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Judge the command of every item as it will be run, and pin the executable."""
    cwd = _judged_directory(payload, judge)
    judge.env(payload.get("env") or {})
    argv, items = payload["argv"], payload["items"]
    # Without items nothing runs; a program that depends on the item cannot be pinned for all.
    if items and "{item" not in argv[0]:
        argv = [judge.command(fill_words(argv, items[0]), cwd)[0], *argv[1:]]
    for item in items:
        asked = fill_words(argv, item)
        if (judged := judge.command(asked, cwd)) != asked:
            raise PoolsError(
                "invalid_payload",
                f"The program {asked[0]!r} stands for {judged[0]!r}.",
                "Give programs that depend on the item by their absolute real path.",
            )
    return {**payload, "cwd": cwd, "argv": argv}


PROCESS = TaskType(
    name="process",
    summary="Run a program for each item, without a shell; exit code and output each.",
    handler="mcp_pools.task_types.process:run",
    payload=ProcessPayload,
    result=ProcessResult,
    check=_judge_process,
    takes_items=True,
    example={"items": ["README.md", "LICENSE"], "argv": ["wc", "-l", "{item}"]},
)

# --- python --------------------------------------------------------------------------------


class PythonPayload(Payload):
    """A function and its arguments."""

    function: str = Field(
        description='The function, as "package.module:name", of a module installed beside mcp-pools.'
    )
    kwargs: dict[str, Any] = Field(default_factory=dict, description="Its arguments, by name.")


def _judge_python(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    return {**payload, "function": judge.python(payload["function"])}


PYTHON = TaskType(
    name="python",
    summary="Call a function of an installed module; what it returns is the result.",
    handler="mcp_pools.task_types.python:run",
    payload=PythonPayload,
    check=_judge_python,
    example={"function": "statistics:mean", "kwargs": {"data": [1, 2, 4]}},
)

# --- prompt --------------------------------------------------------------------------------


Branch = Annotated[str, Field(pattern=r"^[^\x00-\x20\x7f-][^\x00-\x20\x7f]*$", max_length=200)]


class PromptPayload(Payload):
    """What an agent is asked, and where it works."""

    prompt: str = Field(
        min_length=1,
        description="What the agent is to do. It can ask nothing: say all that it needs to know.",
    )
    cwd: Path | None = Field(
        None,
        description="The directory it works in; none: the caller's.",
        json_schema_extra={"format": "path"},
    )
    worktree: bool | Branch = Field(
        False,
        description="Work in a fresh git worktree of the checkout that holds `cwd`, at its last commit, on a "
        "new branch: true, or the branch's name. It lies beside the checkout, and goes if nothing changed.",
    )

    @field_validator("prompt")
    @classmethod
    def _without_nul(cls, prompt: str) -> str:
        if "\0" in prompt:
            raise ValueError("must hold no NUL character")
        return prompt


class PromptWorktree(BaseModel):
    """A worktree that holds what the agent did."""

    path: str = Field(description="Its directory.")
    branch: str = Field(description="Its branch.")
    base: str = Field(description="The commit it started at.")
    commits: int = Field(description="Commits since then.")
    changed_files: list[str] = Field(
        description="The files that differ from `base`, committed or not; the first 1,000."
    )
    changed: int = Field(description="How many files differ.")


class PromptResult(BaseModel):
    """What the agent said and left."""

    text: str = Field(description="The last MiB of its standard output.")
    exit_code: int = Field(description="Its exit status.")
    text_truncated: bool = Field(description="Whether `text` is only the end.")
    stderr: str = Field(description="The last MiB of its standard error.")
    stderr_truncated: bool = Field(description="Whether `stderr` is only the end.")
    worktree: PromptWorktree | None = Field(
        description="The worktree with its changes; null when there was none, or nothing changed in it."
    )


def _judge_prompt(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Pin the directory. Which agent may be used was judged when its pool was opened."""
    judge.prompts()
    return {**payload, "cwd": _judged_directory(payload, judge)}


PROMPT = TaskType(
    name="prompt",
    summary="Give an agent CLI a prompt, headless; a pool's worker_type picks the agent.",
    handler="mcp_pools.task_types.prompt:run",
    payload=PromptPayload,
    result=PromptResult,
    check=_judge_prompt,
    example={"prompt": "Say in one sentence what this directory holds."},
)
