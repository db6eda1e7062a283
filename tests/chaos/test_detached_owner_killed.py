"""SIGKILL of the real detached owner while a console's connection submits through its socket."""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

from stage import alive, lines, until

from mcp_pools.doors.hello import Hello
from mcp_pools.home import Home, connect

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent

TASKS = 400


@pytest.fixture
def owned(home, monkeypatch):
    """A home whose owners know the appending task type; the last one is killed at the end."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("MCP_POOLS_TASK_MODULES", '["appending"]')
    monkeypatch.setenv("MCP_POOLS_POOL_DEFAULT_MAX_WORKERS", "2")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.delenv("MCP_POOLS_DEPTH", raising=False)
    made = Home(home / "state")
    yield made
    owner = made.read_owner()
    if owner and alive(owner["pid"]):
        os.kill(owner["pid"], signal.SIGKILL)


class Console:
    """A console's connection: calls go out at once, answers are read when they come."""

    def __init__(self, home):
        self.door = connect(home, Hello.here("console"))
        self.answers = self.door.makefile("rb")
        self.number = 0

    def call(self, name, **arguments):
        """Ask for a tool."""
        self.number += 1
        asked = {"name": name, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": asked}
        self.door.sendall(json.dumps(message).encode() + b"\n")

    def answer(self):
        """The next answer's result; `None` when the owner is gone."""
        try:
            line = self.answers.readline()
        except ConnectionResetError:
            return None
        while line and "id" not in json.loads(line):
            line = self.answers.readline()
        return json.loads(line)["result"] if line.endswith(b"\n") else None

    def close(self):
        """Hang up."""
        self.answers.close()
        self.door.close()


def value(answer):
    """What a tool returned."""
    return answer.get("structuredContent", answer)


@pytest.mark.parametrize("answered", [1, 150, TASKS])
async def test_tasks_survive_the_death_of_a_detached_owner(owned, home, answered) -> None:
    """What was acknowledged is there and over; what completed ran once; none ran twice."""
    marks = home / "marks"
    console = Console(owned)
    for _ in range(TASKS):
        console.call("pool_execute", task_type="append", payload={"to": str(marks)}, wait=False)
    ids = [value(console.answer())["task_id"] for _ in range(answered)]
    first = owned.read_owner()["pid"]
    os.kill(first, signal.SIGKILL)
    while (answer := console.answer()) is not None:
        ids.append(value(answer)["task_id"])
    console.close()
    await until(lambda: not alive(first))

    console = Console(owned)
    tasks = []
    for task_id in ids:
        console.call("pool_task", task_id=task_id, wait_seconds=30)
        tasks.append(value(console.answer()))
    assert owned.read_owner()["pid"] != first
    console.close()
    ran = Counter(lines(marks))
    assert max(ran.values()) == 1
    for task in tasks:
        if task["status"] != "completed":
            assert task["error"]["code"] == "interrupted"
        else:
            assert ran[task["task_id"]] == 1
