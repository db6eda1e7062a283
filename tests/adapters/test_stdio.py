"""Pools of type `mcp` at programs that the configuration names: they serve over their pipes."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from far_server import HERE
from served import CONSOLE, Server
from stage import alive, end, lines, until

from mcp_pools import Router, Settings
from mcp_pools.adapter import Surroundings
from mcp_pools.adapters.mcp import McpPool
from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec
from mcp_pools.tools import pool_cancel, pool_execute, pool_health, pool_list, pool_register, pool_task

pytestmark = pytest.mark.anyio

RUN = {"tool": "run", "arguments": {"handler": "{payload.handler}", "payload": "{payload.payload}"}}
TOOLS = {"hostile": RUN, "echo": "about"}
ANY_SERVER = [sys.executable, str(HERE / "any_server.py")]
OLD_SERVER = [sys.executable, str(HERE / "old_server.py")]


def delegating(home, program=ANY_SERVER, **options):
    """A router whose one pool is that program."""
    given = {"command": program, "tools": TOOLS, "env": {"PYTHONPATH": str(HERE)}, **options}
    pools = {"far": {"type": "mcp", "options": given}}
    return Router.open(Settings(home=home, task_modules=["peer_types"], pools=pools))


def hostile(handler, **payload):
    """A task for a handler there."""
    return {"task_type": "hostile", "payload": {"handler": f"hostile:{handler}", "payload": payload}}


@pytest.mark.parametrize("program", [ANY_SERVER, OLD_SERVER], ids=["2026-07-28", "2025-11-25"])
async def test_a_program_serves_as_long_as_the_pool_is_open(home, tmp_path, program) -> None:
    """In both eras; it hears of a cancellation, has the variables of children, and its words are kept."""
    marks, told = tmp_path / "marks", "é😀\u2028" * 40_000
    async with delegating(home, program) as router:
        task = await pool_execute(router, **hostile("echo", text=told))
        assert (task.status, task.result) == ("completed", {"text": told})
        asked = hostile("wait", to=str(marks), word="began", until=str(tmp_path / "never"))
        task = await pool_execute(router, **asked, wait=False)
        await until(lambda: lines(marks))
        assert (await pool_cancel(router, task.task_id)).cancelled
        await until(lambda: lines(marks) == ["began", "stopped"])
        about = (await pool_execute(router, task_type="echo", payload={})).result
        assert alive(about["pid"])
    allowed = {"PATH", "HOME", "LANG", "TMPDIR", "MCP_POOLS_DEPTH", "PYTHONPATH", "LC_CTYPE"}
    assert set(about["environment"]) <= allowed and about["environment"]["MCP_POOLS_DEPTH"] == "1"
    assert not alive(about["pid"]) and Path(about["cwd"]) == home / "run" / "far"
    assert (home / "run" / "far" / "stderr.log").read_text() == "a word\n"


async def test_a_program_that_dies_is_started_again(home, tmp_path) -> None:
    """What it had may have run and is not sent again; what comes later waits for the next one."""
    marks = tmp_path / "marks"
    async with delegating(home) as router:
        about = (await pool_execute(router, task_type="echo", payload={})).result
        asked = hostile("wait", to=str(marks), word="ran", until=str(tmp_path / "never"))
        lost = await pool_execute(router, **asked, wait=False)
        await until(lambda: lines(marks))
        end(about["pid"])
        lost = await pool_task(router, lost.task_id, wait_seconds=20)
        assert (lost.status, lost.error.code, lines(marks)) == ("failed", "interrupted", ["ran"])
        again = (await pool_execute(router, task_type="echo", payload={})).result
        assert again["pid"] != about["pid"]


async def test_a_program_ends_when_its_owner_is_killed(home) -> None:
    """Its input ends, which no owner needs to live for."""
    options = {"command": ANY_SERVER, "tools": TOOLS, "env": {"PYTHONPATH": str(HERE)}}
    pools = json.dumps({"far": {"type": "mcp", "options": options}})
    environment = {**os.environ, "MCP_POOLS_HOME": str(home), "MCP_POOLS_POOLS": pools}
    server = await asyncio.to_thread(Server, home, environment)
    asked = ("execute", "-t", "echo", "--payload", "{}")
    done = await asyncio.to_thread(server.console, *asked)
    program = json.loads(done.stdout)["result"]["pid"]
    assert alive(program)
    await asyncio.to_thread(server.end, signal.SIGKILL)
    server.process.communicate()
    await until(lambda: not alive(program))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/no/such/program"], "does not start: No such file"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "ended with status 3"),
    ],
)
async def test_a_program_that_does_not_serve_says_why(home, command, said) -> None:
    """The pool is unhealthy, and others work."""
    pools = {"far": {"type": "mcp", "options": {"command": command}}, "near": {"type": "local"}}
    async with Router.open(Settings(home=home, pools=pools)) as router:
        while said not in str((await pool_health(router, pool="far")).pools[0].reason):
            await asyncio.sleep(0.02)
        assert (await pool_execute(router, task_type="echo", payload={"x": 1})).result == {"x": 1}


async def test_nobody_can_register_a_program(home) -> None:
    """Not even who may register all else."""
    async with Router.open(Settings(home=home)) as router:
        for options in ({"command": ANY_SERVER}, {"env": {"PATH": "/tmp"}}):
            with pytest.raises(PoolsError) as refused:
                await pool_register(router, name="far", type="mcp", options=options)
            assert refused.value.code == "not_allowed" and "configuration" in str(refused.value)
        assert [pool.name for pool in (await pool_list(router)).pools] == ["local"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"options": {"command": "mcp-pools serve"}}, "no list of words"),
        ({"options": {"command": ["x"]}, "endpoint": "http://localhost:1"}, "endpoint"),
        ({"options": {"command": ["x"], "token_secret": "far"}}, "token"),
        ({"options": {"command": ["x"], "env": {"X": 1}}}, "env of pool"),
        ({"options": {"command": ["x"], "env": {"API_KEY": "abc"}}}, "'API_KEY', which looks like a secret"),
        ({"options": {"env": {"X": "1"}}, "endpoint": "http://localhost:1"}, "without a command"),
    ],
)
def test_a_definition_that_starts_nothing_is_refused(tmp_path, given, said) -> None:
    """Before anything is started."""
    with pytest.raises(PoolsError, match=said) as refused:
        McpPool(PoolSpec(name="far", type="mcp", **given), Surroundings(tmp_path, {}))
    assert "abc" not in str(refused.value)


# `mcp-pools serve` of another home as the program.


@pytest.fixture
def other():
    """A home with a short path, whose owner ends with the test."""
    directory = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield directory
    with suppress(OSError, ValueError):
        os.kill(json.loads((directory / "owner.json").read_text())["pid"], signal.SIGTERM)
    shutil.rmtree(directory, ignore_errors=True)


def served_by(other, **keys):
    """A pool at another home, over the pipes of its bridge."""
    env = {"MCP_POOLS_HOME": str(other), "MCP_POOLS_TASK_MODULES": '["peer_types"]', "PYTHONPATH": str(HERE)}
    env |= {f"MCP_POOLS_{key.upper()}": value for key, value in keys.items()}
    return {"type": "mcp", "options": {"command": [CONSOLE, "serve"], "env": env}}


async def test_a_federation_over_stdio(home, other, tmp_path) -> None:
    """Typed tasks with progress and output; what an owner left there the next one takes up."""
    marks, go = tmp_path / "marks", tmp_path / "go"
    pools = {"far": served_by(other)}
    async with Router.open(Settings(home=home, task_modules=["peer_types"], pools=pools)) as router:
        task = await pool_execute(router, task_type="compute", payload={"expression": "6 * 7"})
        assert (task.status, task.result["value"]) == ("completed", 42)
        asked = hostile("wait", to=str(marks), word="ran", until=str(go))
        left = await pool_execute(router, **asked, wait=False)
        await until(lambda: lines(marks))
    go.touch()
    async with Router.open(Settings(home=home, task_modules=["peer_types"], pools=pools)) as router:
        task = await pool_task(router, left.task_id, wait_seconds=20)
        assert (task.status, task.result, lines(marks)) == ("completed", "waited", ["ran"])


async def test_a_loop_over_stdio_is_refused(other, tmp_path) -> None:
    """Each hop counts, also where there is no header to say so: ours delegates to theirs, theirs to ours."""
    home = tmp_path / "looping"
    environment = {
        **os.environ,
        "MCP_POOLS_HOME": str(home),
        "MCP_POOLS_CONFIG": str(tmp_path / "config.json"),
    }
    probe = Server(home, {**os.environ, "MCP_POOLS_HOME": str(home)})
    probe.process.kill()
    probe.process.communicate()
    back = json.dumps({"back": {"type": "mcp", "endpoint": probe.url}})
    (tmp_path / "config.json").write_text(json.dumps({"pools": {"there": served_by(other, pools=back)}}))
    server = await asyncio.to_thread(Server, home, environment, "--http", f"127.0.0.1:{probe.port}")
    try:
        asked = ("execute", "-t", "echo", "--payload", "{}", "-p", "there", "-T", "30")
        while True:
            done = await asyncio.to_thread(server.console, *asked)
            if "does not run" not in done.stderr:  # the other home has not been asked yet what it runs
                break
        task = json.loads(done.stdout)
        assert (done.returncode, task["status"], task["error"]["code"]) == (1, "failed", "nesting_too_deep")
    finally:
        server.process.kill()
        server.process.communicate()
