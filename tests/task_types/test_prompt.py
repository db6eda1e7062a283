"""`prompt`: a real program that behaves like an agent CLI, run by real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from parts import require
from pydantic import ValidationError
from waiting import until

from mcp_pools import Router
from mcp_pools.agents import Agent
from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow, Caller, Task
from mcp_pools.policy import Judge
from mcp_pools.task_types import prompt
from mcp_pools.task_types.programs import PROMPT, PromptResult
from mcp_pools.tools import pool_cancel, pool_execute, pool_task

PROGRAM = [sys.executable, str(Path(__file__).parent.parent / "agent_program.py")]
AGENTS = {
    "mine": {"argv": PROGRAM, "env": ["KEY_OF_MINE"]},
    "by-argument": {"argv": [*PROGRAM, "--argument", "{prompt}"], "stdin": False},
    "verbatim": {"argv": [*PROGRAM, "--verbatim"]},
    "verbatim-by-argument": {"argv": [*PROGRAM, "--verbatim", "--argument", "{prompt}"], "stdin": False},
    "missing": {"argv": ["no-such-agent"]},
}


@pytest.fixture
def open_agents(open_router: Any) -> Any:
    """`async with open_agents() as router`: a router with a pool for each of `AGENTS`, called like it."""

    def opened(**keys: Any) -> AbstractAsyncContextManager[Router]:
        pools = {name: {"worker_type": name, "max_workers": 2} for name in AGENTS}
        opened: AbstractAsyncContextManager[Router] = open_router(
            **{"agents": AGENTS, "pools": pools, "allow": Allow(prompts=("*",))} | keys
        )
        return opened

    return opened


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    require("git", "install git")
    made = tmp_path / "shop"
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "-q", str(made)], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        made.mkdir(exist_ok=True)
        subprocess.run(["git", *words], cwd=made, check=True)
    return made


def listed(checkout: Path) -> int:
    """How many worktrees a repository has, besides the checkout itself."""
    done = subprocess.run(["git", "worktree", "list"], cwd=checkout, check=True, capture_output=True)
    return done.stdout.count(b"\n") - 1


async def told(router: Router, *orders: str, pool: str = "mine", **rest: Any) -> Task:
    """The task of an agent that was given these orders."""
    arguments = {key: rest.pop(key) for key in ("wait", "max_attempts", "timeout") if key in rest}
    payload = {"prompt": "\n".join(orders), **rest}
    return await pool_execute(router, task_type="prompt", payload=payload, pool=pool, **arguments)


def text(task: Task) -> str:
    """What the agent of a completed task said; its result fits the model."""
    assert task.status == "completed", task.error
    return PromptResult.model_validate(task.result).text


# What it says, and how it ends.


@pytest.mark.anyio
async def test_what_the_agent_says_is_the_result(open_agents: Any) -> None:
    """Its two streams apart; there is no worktree unless one is asked for."""
    async with open_agents() as router:
        task = await told(router, "say one", "mutter two", "say three")
    assert task.result == {
        "text": "one\nthree\n",
        "text_truncated": False,
        "stderr": "two\n",
        "stderr_truncated": False,
        "exit_code": 0,
        "worktree": None,
    }


@pytest.mark.anyio
async def test_it_is_heard_while_it_works(open_agents: Any, gate: Any) -> None:
    """What it has said so far shows in the running task."""
    async with open_agents() as router:
        task = await told(router, "say first", f"wait {gate.path}", "say last", wait=False)

        async def heard() -> bool:
            now = await pool_task(router, task.task_id, output=True)
            return now.status == "running" and now.output_tail == "first\n"

        await until(heard)
        gate.open()
        assert text(await pool_task(router, task.task_id, wait_seconds=20)) == "first\nlast\n"


@pytest.mark.anyio
@pytest.mark.parametrize("pool", ["mine", "by-argument"])
async def test_a_question_finds_no_answer_and_waits_for_none(open_agents: Any, pool: str) -> None:
    """There is no terminal, and its input has ended."""
    async with open_agents() as router:
        assert text(await told(router, "ask Really?", pool=pool, timeout=30)) == "Really? ''\n"


@pytest.mark.anyio
@pytest.mark.parametrize(("order", "status"), [("exit 3", 3), ("die now", -9)])
async def test_an_agent_that_fails_fails_its_task(open_agents: Any, order: str, status: int) -> None:
    """With all that it said, in the shape of a result."""
    async with open_agents() as router:
        task = await told(router, "say so far", "mutter no further", order)
    assert task.status == "failed" and task.error is not None and task.error.code == "task_error"
    assert "Read text and stderr" in task.error.message
    said = PromptResult.model_validate(task.error.details)
    assert (said.exit_code, said.text, said.stderr) == (status, "so far\n", "no further\n")


@pytest.mark.anyio
async def test_an_agent_that_is_not_installed_says_what_to_do(open_agents: Any) -> None:
    """The pool is well: the program may come later."""
    async with open_agents() as router:
        task = await told(router, "say hello", pool="missing")
    assert task.error is not None and task.error.code == "task_error"
    assert "'no-such-agent'" in task.error.message and "Install it" in task.error.message


@pytest.mark.anyio
async def test_it_works_where_it_is_told_to(open_agents: Any, tmp_path: Path) -> None:
    """In the caller's directory, or in another allowed one."""
    here = str(tmp_path.resolve())
    (tmp_path / "sub").mkdir()
    async with open_agents() as router:
        router = router.bound(Caller(cwd=here))
        assert text(await told(router, "where")) == f"{here}\n"
        assert text(await told(router, "where", cwd="sub")) == f"{here}/sub\n"
        with pytest.raises(PoolsError, match=r"allow\.roots"):
            await told(router, "where", cwd="/usr")


@pytest.mark.anyio
async def test_it_gets_the_standard_variables_and_its_own(
    open_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that its definition names; no other agent gets them, and nobody gets the rest."""
    monkeypatch.setenv("KEY_OF_MINE", "k")
    monkeypatch.setenv("OWNERS_CREDENTIAL", "c")
    standard = {"PATH", "HOME", "LANG", "TMPDIR"} & set(os.environ)
    ours = {"MCP_POOLS_DEPTH", "MCP_POOLS_ATTEMPT", "KEY_OF_MINE"}
    async with open_agents() as router:
        names = set(eval(text(await told(router, "environment"))))
        assert names - {"LC_CTYPE"} == standard | ours
        assert text(await told(router, "variable MCP_POOLS_DEPTH")) == "1\n"
        assert text(await told(router, "variable KEY_OF_MINE", pool="by-argument")) == "(unset)\n"


HOSTILE = {
    "quotes": "\"'`\\",
    "substitutions": "$(touch /tmp/x) `id` ${HOME} %PATH% {prompt} {item}",
    "operators": "; rm -rf / && | > < & * ? ~ ! #",
    "dashes": "--help\n-p\n--",
    "lines": "\n\r\n\ttwo\n\n",
    "controls": "\x01\x03\x04\x1a\x1b[31m\x7f",
    "unicode": "ž é 漢字 \u202e \U0001f600 \ufeff",
    "slash": "/exit",
}


@pytest.mark.anyio
@pytest.mark.parametrize("pool", ["verbatim", "verbatim-by-argument"])
async def test_every_prompt_arrives_byte_for_byte(open_agents: Any, pool: str) -> None:
    """Whatever a shell, a terminal or a parser of flags would make of it."""
    async with open_agents() as router:
        for name, hostile in HOSTILE.items():
            task = await pool_execute(router, task_type="prompt", payload={"prompt": hostile}, pool=pool)
            assert text(task) == hostile, name


@pytest.mark.anyio
async def test_a_long_prompt_arrives_by_standard_input_alone(open_agents: Any) -> None:
    """As an argument it would be longer than Linux passes."""
    long = "0123456789" * 20_000
    async with open_agents() as router:
        task = await pool_execute(router, task_type="prompt", payload={"prompt": long}, pool="verbatim")
        assert text(task) == long
        task = await pool_execute(
            router, task_type="prompt", payload={"prompt": long}, pool="verbatim-by-argument"
        )
        assert task.error is not None and "200000 bytes" in task.error.message


def test_no_program_of_the_directory_itself_is_run(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though PATH has relative parts: it may be a stranger's."""
    program = tmp_path / "agent-here"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    context.agent = Agent(argv=("agent-here",))
    context.env = {"PATH": f"{tmp_path}"}
    assert prompt.run({"prompt": "hello"}, context)["text"] == "ran\n"
    for path in (".", ":/bin"):
        context.env = {"PATH": path}
        with pytest.raises(PoolsError, match="There is no program"):
            prompt.run({"prompt": "hello"}, context)


def test_a_long_answer_keeps_its_end(context: Any) -> None:
    """Its last MiB."""
    context.agent = Agent(argv=("cat",))
    result = prompt.run({"prompt": "x" * (prompt.KEPT_BYTES + 1) + "end"}, context)
    assert result["text_truncated"] and result["text"].endswith("xend")
    assert len(result["text"]) == prompt.KEPT_BYTES


# In a worktree.


@pytest.mark.anyio
async def test_a_worktree_with_work_is_kept_and_told(open_agents: Any, checkout: Path) -> None:
    """It lies beside the checkout, which stays as it was; its branch carries the task's id."""
    async with open_agents() as router:
        router = router.bound(Caller(cwd=str(checkout)))
        orders = ("where", "write a new", "git add a", "git commit -qm work", "write b/c new")
        task = await told(router, *orders, worktree=True)
    worktree = task.result["worktree"]
    assert text(task) == worktree["path"] + "\n" == f"{checkout}.worktrees/mcp-pools-{task.task_id}\n"
    assert worktree["branch"] == f"mcp-pools-{task.task_id}"
    assert (worktree["commits"], worktree["changed_files"]) == (1, ["a", "b/c"])
    assert Path(worktree["path"], "b/c").read_text() == "new"
    assert sorted(os.listdir(checkout)) == [".git"]


@pytest.mark.anyio
@pytest.mark.parametrize("order", ["say nothing to do", "exit 1"])
async def test_an_unchanged_worktree_is_removed(open_agents: Any, checkout: Path, order: str) -> None:
    """Also when the agent failed."""
    async with open_agents() as router:
        router = router.bound(Caller(cwd=str(checkout)))
        task = await told(router, order, worktree="named")
    said = task.result or (task.error and task.error.details)
    assert said["worktree"] is None and said["exit_code"] == int(order == "exit 1")
    assert listed(checkout) == 0 and not Path(f"{checkout}.worktrees").exists()


@pytest.mark.anyio
async def test_no_symlink_leads_out_of_the_worktree(open_agents: Any, checkout: Path) -> None:
    """Not one that the commit has where the checkout has a directory; then there is no worktree either."""
    (checkout / "sub").symlink_to("/")
    async with open_agents() as router:
        router = router.bound(Caller(cwd=str(checkout)))
        await told(router, "git add sub", "git commit -qm link", cwd=str(checkout))
        (checkout / "sub").unlink()
        (checkout / "sub").mkdir()
        task = await told(router, "where", cwd="sub", worktree=True)
    assert task.error is not None and task.error.code == "not_allowed"
    assert listed(checkout) == 0


@pytest.mark.anyio
async def test_each_attempt_has_a_worktree_of_its_own(open_agents: Any, checkout: Path) -> None:
    """What the first one left is not in the second one's way."""
    async with open_agents() as router:
        router = router.bound(Caller(cwd=str(checkout)))
        task = await told(router, "write a text", "exit 1", worktree="fix", max_attempts=2)
        assert task.status == "failed" and task.attempt == 2 and task.error is not None
        assert task.error.details["worktree"]["branch"] == "fix-2"
    assert listed(checkout) == 2


@pytest.mark.anyio
async def test_an_agent_that_is_stopped_leaves_its_worktree(
    open_agents: Any, checkout: Path, gate: Any
) -> None:
    """With what it did so far; the task's last progress says where."""
    async with open_agents() as router:
        router = router.bound(Caller(cwd=str(checkout)))
        task = await told(
            router, "write a text", "say ready", f"wait {gate.path}", worktree="fix", wait=False
        )

        async def ready() -> bool:
            return (await pool_task(router, task.task_id, output=True)).output_tail == "ready\n"

        await until(ready)
        await pool_cancel(router, task.task_id)
        ended = await pool_task(router, task.task_id)
    assert ended.status == "cancelled" and ended.progress is not None
    assert ended.progress.message == f"in {checkout}.worktrees/fix, branch fix"
    assert Path(f"{checkout}.worktrees/fix/a").read_text() == "text"


@pytest.mark.anyio
async def test_without_a_repository_there_is_no_worktree(open_agents: Any, tmp_path: Path) -> None:
    """And the agent is not asked to do without."""
    async with open_agents() as router:
        router = router.bound(Caller(cwd=str(tmp_path)))
        task = await told(router, "write ran x", worktree=True)
    assert task.error is not None and task.error.code == "task_error"
    assert "lies in no git checkout" in task.error.message
    assert not (tmp_path / "ran").exists()


# What is refused.


@pytest.mark.anyio
async def test_while_no_agent_is_allowed_no_prompt_is_accepted(open_agents: Any) -> None:
    """The refusal names the key."""
    async with open_agents(allow=Allow()) as router:
        for pool in ("mine", None):
            with pytest.raises(PoolsError, match=r"allow\.prompts") as refused:
                await told(router, "say hello", pool=pool)
            assert refused.value.code == "not_allowed"


def test_a_worker_that_is_no_agents_runs_no_prompt(context: Any) -> None:
    """Routing sends none there; whoever calls the handler all the same is told."""
    context.agent = None
    with pytest.raises(PoolsError) as refused:
        prompt.run({"prompt": "hello"}, context)
    assert refused.value.code == "unsupported"


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"prompt": ""},
        {"prompt": "a\0b"},
        {"prompt": ["a"]},
        {"prompt": "a", "worktree": 1.5},
        {"prompt": "a", "worktree": ""},
        {"prompt": "a", "worktree": "-d"},
        {"prompt": "a", "worktree": "a b"},
        {"prompt": "a", "worktree": "a\nb"},
        {"prompt": "a", "worktree": "a" * 201},
        {"prompt": "a", "agent": "claude"},
    ],
)
def test_a_payload_is_a_prompt_and_where(payload: dict[str, Any]) -> None:
    """No NUL, which no program takes; no branch that git could take for a flag."""
    with pytest.raises(ValidationError):
        PROMPT.payload.model_validate(payload)


def test_the_judge_pins_the_directory(tmp_path: Path) -> None:
    """Like that of a command."""
    cwd = str(tmp_path.resolve())
    (tmp_path / "sub").mkdir()
    judge = Judge(Allow(prompts=("mine",)), (f"{cwd}/sub",), cwd)
    assert PROMPT.check is not None
    assert PROMPT.check({"prompt": "a"}, judge) == {"prompt": "a", "cwd": cwd}
    assert PROMPT.check({"prompt": "a", "cwd": "sub"}, judge)["cwd"] == f"{cwd}/sub"
    with pytest.raises(PoolsError, match=r"allow\.roots"):
        PROMPT.check({"prompt": "a", "cwd": "/etc"}, judge)
    assert PROMPT.path_fields == ("cwd",)


def test_its_result_is_json(context: Any) -> None:
    """Also of an agent whose output is no text."""
    context.agent = Agent(argv=(sys.executable, "-c", "import os; os.write(1, b'\\xff')"))
    assert json.loads(json.dumps(prompt.run({"prompt": "hello"}, context)))["text"] == "\ufffd"
