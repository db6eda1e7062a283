"""The product as its users have it: MCP clients over stdio and the console, on one home."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from waiting import until

from mcp_pools.processes import is_over
from mcp_pools.tool import TOOLS

pytestmark = pytest.mark.anyio
CONSOLE = str(Path(sys.executable).parent / "mcp-pools")


class Machine:
    """A home, and the ways in: MCP clients, the console, a signal to its owner."""

    def __init__(self, home: Path, directory: Path) -> None:
        self.home = home
        self.directory = directory
        self.environment = {**os.environ, "MCP_POOLS_HOME": str(home), "MCP_POOLS_OWNER_IDLE_SECONDS": "2"}

    def client(self, *flags: str) -> AbstractAsyncContextManager[Client]:
        """The SDK's client on a bridge of its own."""
        return Client(self.bridge(*flags))

    def bridge(self, *flags: str) -> StdioServerParameters:
        """What an MCP client starts."""
        return StdioServerParameters(
            command=CONSOLE, args=["serve", *flags], env=self.environment, cwd=self.directory
        )

    def console(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One console command, as a pipe sees it."""
        return subprocess.run(
            [CONSOLE, *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def answer(self, *arguments: str) -> Any:
        """What a console command prints, read as JSON."""
        done = self.console(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def owner(self) -> dict[str, Any]:
        """Who owns the home."""
        return dict(json.loads((self.home / "owner.json").read_text()))


@pytest.fixture
async def machine(home: Path, tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine whose owner ends with the test."""
    machine = Machine(home, tmp_path)
    yield machine
    if (home / "owner.json").exists() and not is_over(pid := machine.owner["pid"]):
        os.kill(pid, signal.SIGTERM)
        await until(lambda: is_over(pid))


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool's structured content; the call was not refused."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    content = answer.structured_content
    assert isinstance(content, dict)
    return content


async def test_a_client_over_stdio_sees_every_tool_whole(machine: Machine) -> None:
    """Titles, four hints, input and output schemas."""
    async with machine.client() as client:
        listed = (await client.list_tools()).tools
    assert [tool.name for tool in listed] == list(TOOLS)
    for tool in listed:
        hints = tool.annotations
        assert tool.title and tool.output_schema and tool.input_schema["additionalProperties"] is False
        assert hints is not None and None not in (
            hints.read_only_hint,
            hints.destructive_hint,
            hints.idempotent_hint,
            hints.open_world_hint,
        )


async def test_console_and_client_get_the_same_answers(machine: Machine) -> None:
    """`-f json` prints the tool's structured content, for what either of them did."""
    (machine.directory / "code.py").write_text("def f(x):\n    return 1 if x else 2\n")
    printed = machine.answer("execute", "-t", "analyze", "--payload", '{"path": "."}', "-f", "json")
    async with machine.client() as client:
        assert await call(client, "pool_task", task_id=printed["task_id"]) == printed
        theirs = await call(client, "pool_execute", task_type="analyze", payload={"path": "."})
        assert theirs["result"] == printed["result"]
        assert machine.answer("task", theirs["task_id"]) == theirs
        assert (
            machine.answer("get", "local")["name"] == (await call(client, "pool_get", name="local"))["name"]
        )
        assert machine.answer("list") == await call(client, "pool_list")
    assert printed["result"]["files"][0]["functions"] == 1


async def test_two_clients_and_a_command_share_pools_and_tasks(machine: Machine) -> None:
    """And what one of them started goes on when its window closes."""
    async with machine.client() as one:
        async with machine.client() as other:
            await call(one, "pool_register", name="shared", type="local", max_workers=2)
            listed = await call(other, "pool_list")
            assert [pool["name"] for pool in listed["pools"]] == ["shared"]
            left = await call(other, "pool_execute", task_type="sleep", payload={"seconds": 2}, wait=False)
            kept = await call(one, "pool_execute", task_type="sleep", payload={"seconds": 60}, wait=False)
            assert machine.answer("task", kept["task_id"])["status"] in ("queued", "running")
        ended = await call(one, "pool_task", task_id=left["task_id"], wait_seconds=30)
        assert ended["status"] == "completed"
        assert (await call(one, "pool_cancel", task_id=kept["task_id"]))["cancelled"]
        stopped = machine.console("task", kept["task_id"])
        assert (stopped.returncode, json.loads(stopped.stdout)["status"]) == (1, "cancelled")


async def test_a_client_outlives_its_owner(machine: Machine) -> None:
    """The next owner knows what the last one had accepted, and says what may have run."""
    async with machine.client() as client:
        done = await call(client, "pool_execute", task_type="echo", payload={"x": 1})
        running = await call(client, "pool_execute", task_type="sleep", payload={"seconds": 60}, wait=False)
        await until(lambda: machine.answer("task", running["task_id"])["status"] == "running")
        first = machine.owner["pid"]
        os.kill(first, signal.SIGKILL)
        with suppress(MCPError):  # it was on its way when the owner ended: it is answered, not repeated
            await call(client, "pool_list")
        assert (await call(client, "pool_task", task_id=done["task_id"]))["result"] == {"x": 1}
        after = await call(client, "pool_task", task_id=running["task_id"], wait_seconds=20)
        assert (after["status"], after["error"]["code"]) == ("failed", "interrupted")
        assert machine.owner["pid"] != first


async def test_flags_narrow_one_client_and_no_other(machine: Machine) -> None:
    """What is not offered cannot be called."""
    async with machine.client("--read-only") as reader, machine.client() as writer:
        offered = {tool.name for tool in (await reader.list_tools()).tools}
        assert offered == {name for name, tool in TOOLS.items() if tool.effect == "read"}
        assert len((await writer.list_tools()).tools) == len(TOOLS)


async def test_a_directory_can_allow_nothing(machine: Machine) -> None:
    """A stranger's clone may hold an `mcp-pools.yaml`; calls from there are refused until it goes."""
    (file := machine.directory / "mcp-pools.yaml").write_text("allow: {commands: ['*']}\n")
    refused = machine.console("execute", "-t", "command", "--payload", '{"argv": ["id"]}')
    assert refused.returncode == 2 and "allow" in refused.stderr
    async with machine.client() as client:
        answer = await client.call_tool("pool_execute", {"task_type": "echo", "payload": {}})
        assert answer.is_error and "allow" in answer.content[0].text
        file.unlink()
    async with machine.client() as client:
        assert (await call(client, "pool_execute", task_type="echo", payload={}))["status"] == "completed"


async def test_an_interrupted_command_cancels_its_task(machine: Machine) -> None:
    """Ctrl-C is the human's word: exit status 130, and the task is cancelled."""
    machine.answer("list")
    waiting = subprocess.Popen(
        [CONSOLE, "execute", "-t", "sleep", "--payload", "seconds=60"],
        env=machine.environment,
        cwd=machine.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    await until(
        lambda: (machine.home / "owner.json").exists() and machine.answer("get", "local")["workers"]["busy"]
    )
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
    waiting.communicate()
    await until(lambda: machine.answer("get", "local")["workers"]["busy"] == 0)
    assert machine.answer("get", "local")["metrics"]["tasks_completed"] == 0


async def test_nobody_answers_at_a_server_that_is_not_there(machine: Machine) -> None:
    """Every command says so with exit status 4."""
    for name, tool in TOOLS.items():
        words = [f"--{each.name.replace('_', '-')}" for each in tool.parameters if each.required]
        given = [word for flag in words for word in (flag, "{}" if flag == "--payload" else "1")]
        positional = ["1" for _ in tool.positional]
        flags = [word for word in given if word not in {f"--{each}" for each in tool.positional}]
        arguments = positional if tool.positional else flags
        if name == "pool_scale":
            arguments = ["x", "--workers", "1"]
        done = machine.console(tool.command, *arguments, "--server", "http://127.0.0.1:9")
        assert (done.returncode, "http://127.0.0.1:9" in done.stderr) == (4, True), (name, done.stderr)


async def test_an_agent_may_start_agents_only_so_deep(machine: Machine) -> None:
    """It does so through the console, like anybody; how deep it is, its environment says."""
    orders = {"prompt": "console execute -t prompt --payload @orders.json -f json"}
    (machine.directory / "orders.json").write_text(json.dumps(orders))
    program = [sys.executable, str(Path(__file__).parent / "agent_program.py")]
    machine.environment |= {
        "MCP_POOLS_AGENTS": json.dumps({"mine": {"argv": program, "env": ["MCP_POOLS_HOME"]}}),
        "MCP_POOLS_POOLS": json.dumps({"agents": {"worker_type": "mine", "max_workers": 4}}),
        "MCP_POOLS_ALLOW": json.dumps({"prompts": ["mine"]}),
    }
    task = machine.answer("execute", "-t", "prompt", "--payload", "@orders.json", "-f", "json")
    for depth in (1, 2):
        printed, _, status = task["result"]["text"].strip().rpartition("\n")
        assert status == "exit 0", f"{depth}: {task}"
        task = json.loads(printed)
    said = task["result"]["text"]
    assert "would be 3 tasks deep; max_depth is 2" in said and said.endswith("exit 2\n")
    assert len(machine.answer("search", "-f", "json")["tasks"]) == 3
