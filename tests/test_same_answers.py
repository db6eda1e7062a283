"""One behaviour: what the console, an MCP client and Python get from the same calls is the same.

Each way in has a home of its own. The same story is told through all of them, with every tool
in it, then the same calls that cannot be accepted; what came back is compared.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from machine import machine_of
from mcp import Client
from waiting import until

from mcp_pools import Router, Settings, tools
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller
from mcp_pools.terminal.refusal import as_commands
from mcp_pools.tool import TOOLS, Parameter, Tool

KEYS: dict[str, Any] = {
    "ecosystem": [{"name": "asleep", "type": "mcp", "endpoint": "http://127.0.0.1:9/mcp"}],
    "allow": {"commands": ["sleep"]},
    "mcp_confirm": "never",
    "owner_idle_seconds": 30,
}
"""The configuration of all three homes."""


class Answered(NamedTuple):
    """What one call came back with: the structured content, and the console's exit status and words."""

    content: dict[str, Any]
    refused: bool
    status: int | None = None
    said: str | None = None


Way = Callable[[str, dict[str, Any], Path], Awaitable[Answered]]
"""A way in: a tool's name, its arguments, the caller's directory."""


# The ways in.


@asynccontextmanager
async def by_console(home: Path, directory: Path) -> AsyncIterator[Way]:
    """Each call is a process: `mcp-pools COMMAND ... -f json`."""
    with machine_of(home, directory) as machine:
        machine.environment |= environment()

        async def call(name: str, arguments: dict[str, Any], where: Path) -> Answered:
            words = [*command_line(TOOLS[name], arguments), "-f", "json"]
            done = await asyncio.to_thread(machine.console, *words, cwd=where)
            content = json.loads(done.stdout) if done.stdout else {}
            return Answered(content, not content, done.returncode, done.stderr)

        yield call


def command_line(tool: Tool, arguments: dict[str, Any]) -> list[str]:
    """A call as it is typed."""
    return [
        tool.command,
        *(word for each in tool.parameters for word in typed(tool, each, arguments.get(each.name))),
    ]


def typed(tool: Tool, parameter: Parameter, value: Any) -> list[str]:
    """One argument as it is typed; none when it is left out."""
    flag = "--" + parameter.name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        return [word for each in value for word in (flag, each)]
    word = json.dumps(value) if isinstance(value, dict) else str(value)
    return [word] if parameter.name in tool.positional else [flag, word]


@asynccontextmanager
async def by_mcp(home: Path, directory: Path) -> AsyncIterator[Way]:
    """Each directory has a client on `mcp-pools serve`, over stdio."""
    clients: dict[Path, Client] = {}
    with machine_of(home, directory) as machine:
        machine.environment |= environment()

        async def call(name: str, arguments: dict[str, Any], where: Path) -> Answered:
            if where not in clients:
                clients[where] = await open_clients.enter_async_context(machine.client(cwd=where))
            answer = await clients[where].call_tool(name, arguments)
            assert isinstance(answer.structured_content, dict), answer
            return Answered(answer.structured_content, bool(answer.is_error))

        async with AsyncExitStack() as open_clients:
            yield call


@asynccontextmanager
async def by_python(home: Path, directory: Path) -> AsyncIterator[Way]:
    """The tools' own functions; the router runs in this process."""
    async with Router.open(Settings(home=home, **KEYS)) as router:

        async def call(name: str, arguments: dict[str, Any], where: Path) -> Answered:
            view, tool = router.bound(Caller(cwd=str(where))), TOOLS[name]
            try:
                if where != directory:  # only what is asked of a tool by its name heeds a directory's file
                    return Answered(await tool.invoke(view, arguments), False)
                result = await getattr(tools, name)(view, **arguments)
            except PoolsError as refused:
                told = {"code": refused.code, "message": refused.message, "next": refused.next}
                return Answered({"error": told}, True)
            return Answered(tool.result.dump_python(result, mode="json"), False)

        yield call


WAYS = {"console": by_console, "mcp": by_mcp, "python": by_python}


def environment() -> dict[str, str]:
    """`KEYS` as variables."""
    return {
        f"MCP_POOLS_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
        for key, value in KEYS.items()
    }


# The story.


class Teller:
    """Calls through one way in. `answers` are each tool's, in order; `refusals` are in the order of `BAD`."""

    def __init__(self, way: Way, directory: Path) -> None:
        self.answers: dict[str, list[Answered]] = defaultdict(list)
        self.refusals: list[Answered] = []
        self._way = way
        self._directory = directory

    async def __call__(self, tool: str, /, *, exits: int = 0, **arguments: Any) -> dict[str, Any]:
        """Call a tool; the console's exit status is to be `exits`."""
        answer = await self._way(tool, arguments, self._directory)
        assert not answer.refused and answer.status in (None, exits), (tool, arguments, answer)
        self.answers[tool].append(answer)
        return answer.content

    async def aside(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool for something else than its answer."""
        return (await self._way(tool, arguments, self._directory)).content

    async def wrongly(self, bad: Bad) -> None:
        """Call a tool as it cannot be accepted."""
        where = self._directory.parent / "clone" if bad.from_a_clone else self._directory
        self.refusals.append(await self._way(bad.tool, bad.arguments, where))


async def story(tell: Teller) -> None:
    """Every tool, on a home that nobody has used yet."""
    await given_pools(tell)
    await done_work(tell)
    await looked_at(tell)
    await waiting_work(tell)
    await parted(tell)


async def given_pools(tell: Teller) -> None:
    """A pool of one worker, which has run something: its worker is there, and idle."""
    for _ in range(2):
        await tell("pool_register", name="bench", type="local", max_workers=1, labels={"disk": "fast"})
    await tell("pool_discover")
    await until(lambda: is_alone(tell, "bench"))


async def is_alone(tell: Teller, name: str) -> bool:
    """Whether a pool is the only one: the implied one goes by itself once there is another.

    Its last event comes a moment after it has gone.
    """
    told = await tell.aside("pool_watch")
    gone = any((event["kind"], event["pool"]) == ("pool.closed", "local") for event in told["events"])
    return gone and [pool["name"] for pool in told["pools"]] == [name]


async def done_work(tell: Teller) -> None:
    """Tasks and distributions that have ended, well and badly, and what is said of them afterwards."""
    begun = (await tell.aside("pool_watch"))["cursor"]
    good = await tell(
        "pool_execute",
        task_type="transform",
        payload={"data": {"rows": [1, 2, 3]}, "expression": "rows"},
        selector={"disk": "fast"},
    )
    await tell("pool_watch", cursor=begun, wait_seconds=1)
    bad = {"expression": "10 / x", "variables": {"x": 0}}
    await tell("pool_execute", task_type="compute", payload=bad, exits=1)
    await tell("pool_task", task_id=good["task_id"])
    await tell("pool_task", task_id=good["task_id"], select="[1:]", limit=1)
    spread = {"task_type": "compute", "payload": {"expression": "10 / x", "items": [1, 2, 0, 4, 5]}}
    whole = await tell(
        "pool_distribute", **spread, strategy="map_reduce", reduce="sum", chunk_size=2, exits=1
    )
    await tell("pool_distribute", **spread, pools=["bench"], on_error="fail_fast", chunk_size=5, exits=1)
    await tell("pool_task", task_id=whole["distribution_id"], offset=1, limit=3, exits=1)


async def looked_at(tell: Teller) -> None:
    """What is told of all of that."""
    for name in ("pool_list", "pool_health", "pool_stats", "pool_search"):
        await tell(name)
    await tell("pool_list", active_only=True, by_type="mahavishnu")
    await tell("pool_get", name="bench")
    await tell("pool_health", pool="bench")
    await tell("pool_stats", by_type=True)
    await tell("pool_search", status="failed", task_type="compute", limit=1)
    await until(lambda: found(tell, "rows"))
    await tell("pool_search", query="rows")


async def found(tell: Teller, word: str) -> bool:
    """Whether the index has come so far."""
    return bool((await tell.aside("pool_search", query=word))["tasks"])


async def waiting_work(tell: Teller) -> None:
    """One task holds the pool's worker, three wait behind it; a second pool could take two of them."""
    long = {"task_type": "command", "payload": {"argv": ["sleep", "600"]}, "wait": False}
    held = [await tell("pool_execute", **long, pool="bench")]
    held += [await tell.aside("pool_execute", **long, strategy="round_robin") for _ in range(3)]
    await until(lambda: three_wait(tell))
    for task in held:
        await tell("pool_task", task_id=task["task_id"])
    await tell("pool_register", name="other", type="local", min_workers=0, max_workers=1, region="north")
    await tell("pool_rebalance", dry_run=True)
    await tell("pool_rebalance")
    for task in held:
        await tell("pool_cancel", task_id=task["task_id"])
    await tell("pool_cancel", task_id=held[0]["task_id"])
    await tell("pool_task", task_id=held[0]["task_id"], exits=1)


async def three_wait(tell: Teller) -> bool:
    """Whether none is in the worker's hands any more; for a moment they may lie there behind the first."""
    return bool((await tell.aside("pool_get", name="bench"))["queue_size"] == 3)


async def parted(tell: Teller) -> None:
    """Pools that change their size, and go."""
    await tell("pool_register", name="small", type="mahavishnu", min_workers=0, max_workers=3)
    await tell("pool_scale", name="small", workers=0)
    await tell("pool_scale", name="small", workers="auto")
    await tell("pool_close", name="small")
    await tell("pool_close", name="other", force=True)
    await tell("pool_close", name="bench", drain_timeout=1.5)


# What is compared.

ID = re.compile(r"\b[tdp]_[0-9a-f]{24,}\b|\b(bench|other|local)-\d+-[0-9a-f]{8}\b")
MEASURED = re.compile(r"at|\w+_at|\w+_seconds|pid|memory_bytes|cursor|next_cursor")
"""Keys of times, durations, and of what one home's processes and cursors happen to be."""


def comparable(answer: Any) -> Any:
    """An answer whose ids are numbered as they come, and of what was measured only its kind.

    Everything else stands: which ids are the same, and which values are null.
    """
    seen: dict[str, str] = {}

    def told(value: Any, key: str = "") -> Any:
        if MEASURED.fullmatch(key):
            return type(value).__name__
        if isinstance(value, dict):
            return {ID.sub(numbered, name): told(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [told(each) for each in value]
        return ID.sub(numbered, value) if isinstance(value, str) else value

    def numbered(id: re.Match[str]) -> str:
        return seen.setdefault(id[0], f"<{id[0][:2]}{len(seen)}>")

    return told(answer)


# The calls that cannot be accepted.


class Bad(NamedTuple):
    """A call that is refused, with its code and the console's exit status."""

    tool: str
    arguments: dict[str, Any]
    code: str
    exits: int
    from_a_clone: bool = False
    """Called from a directory whose `mcp-pools.yaml` wants to allow something. That refuses any call;
    it is for the tools of whose arguments no value is wrong by itself."""


BAD = [
    Bad("pool_list", {}, "invalid_payload", 2, from_a_clone=True),
    Bad("pool_get", {"name": "keep"}, "unknown_pool", 3),
    Bad("pool_register", {"name": "kept", "type": "local", "max_workers": 2}, "conflict", 1),
    Bad("pool_register", {"name": "no name", "type": "local"}, "invalid_payload", 2),
    Bad("pool_register", {"name": "new", "type": "lokal"}, "invalid_payload", 2),
    Bad("pool_scale", {"name": "keep", "workers": 1}, "unknown_pool", 3),
    Bad("pool_scale", {"name": "kept", "workers": 5000}, "invalid_payload", 2),
    Bad("pool_close", {"name": "keep"}, "unknown_pool", 3),
    Bad("pool_execute", {"task_type": "ecko", "payload": {}}, "unknown_task_type", 2),
    Bad("pool_execute", {"task_type": "compute", "payload": {"x": 1}}, "invalid_payload", 2),
    Bad("pool_execute", {"task_type": "command", "payload": {"argv": ["id"]}}, "not_allowed", 2),
    Bad("pool_execute", {"task_type": "echo", "payload": {}, "pool": "keep"}, "unknown_pool", 3),
    Bad("pool_execute", {"task_type": "echo", "payload": {}, "selector": {"gpu": "1"}}, "unsupported", 2),
    Bad("pool_distribute", {"task_type": "echo", "payload": {"items": []}}, "invalid_payload", 2),
    Bad(
        "pool_distribute",
        {"task_type": "echo", "payload": {"items": [1]}, "pools": ["keep"]},
        "unknown_pool",
        3,
    ),
    Bad(
        "pool_distribute",
        {"task_type": "echo", "payload": {"items": [1]}, "reduce": "summ"},
        "invalid_payload",
        2,
    ),
    Bad("pool_rebalance", {}, "invalid_payload", 2, from_a_clone=True),
    Bad("pool_discover", {}, "invalid_payload", 2, from_a_clone=True),
    Bad("pool_health", {"pool": "keep"}, "unknown_pool", 3),
    Bad("pool_stats", {}, "invalid_payload", 2, from_a_clone=True),
    Bad("pool_watch", {"cursor": "nowhere"}, "invalid_payload", 2),
    Bad("pool_task", {"task_id": "t_0"}, "unknown_task", 3),
    Bad("pool_cancel", {"task_id": "d_0"}, "unknown_task", 3),
    Bad("pool_search", {"cursor": "nowhere"}, "invalid_payload", 2),
]


async def wrong_calls(tell: Teller) -> None:
    """Each of `BAD`, while there is one pool, `kept`."""
    await tell.aside("pool_register", name="kept", type="local", max_workers=1)
    await until(lambda: is_alone(tell, "kept"))
    for bad in BAD:
        await tell.wrongly(bad)


# The tests.


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, Teller]]:
    """All that there is to tell, told through every way in at the same time."""
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as base, pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "KUBECONFIG", "DASK_SCHEDULER_ADDRESS", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(Path(base, "user")))
        yield asyncio.run(tell_all(Path(base)))


async def tell_all(base: Path) -> dict[str, Teller]:
    """Each way's teller, when it has told all."""
    for name in ("user", "here", "clone"):
        (base / name).mkdir()
    (base / "clone" / "mcp-pools.yaml").write_text("allow: {commands: ['*']}\n")

    async def tell(way_in: Callable[..., AbstractAsyncContextManager[Way]], name: str) -> Teller:
        async with way_in(base / name, base / "here") as way:
            teller = Teller(way, base / "here")
            await story(teller)
            await wrong_calls(teller)
            return teller

    tellers = await asyncio.gather(*(tell(way_in, name) for name, way_in in WAYS.items()))
    return dict(zip(WAYS, tellers, strict=True))


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_answers_the_same_everywhere(told: dict[str, Teller], name: str) -> None:
    """No tool is exempt: a new one fails here until the story has it."""
    console, mcp, python = ([comparable(each.content) for each in told[way].answers[name]] for way in WAYS)
    assert console, f"{name} is not in the story"
    assert console == mcp
    assert console == python


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_refuses_the_same_everywhere(told: dict[str, Teller], name: str) -> None:
    """The code, the words, the way out. The console says it in one line, with the exit status of its code."""
    calls = [(at, bad) for at, bad in enumerate(BAD) if bad.tool == name]
    assert calls, f"no call of {name} is refused here"
    for at, bad in calls:
        console, mcp, python = (told[way].refusals[at] for way in WAYS)
        assert console.refused and mcp.refused and python.refused, bad
        error = refusal(mcp)
        assert error == refusal(python)
        assert (error["code"], console.status) == (bad.code, bad.exits)
        line = f"mcp-pools: {error['message']} {as_commands(error['next'])}"
        assert console.said == " ".join(line.split()) + "\n"


def refusal(answer: Answered) -> dict[str, str]:
    """Why a call was refused, without what only programs read."""
    error = answer.content["error"]
    return {key: error[key] or "" for key in ("code", "message", "next")}


def test_a_comparison_notices_what_differs() -> None:
    """Ids and measurements may differ; which ids are the same, kinds and all other values may not."""
    one, other = f"t_{'1' * 24}", f"t_{'2' * 24}"
    first = {"task_id": one, "next": f'pool_task(task_id="{one}")', "run_seconds": 0.1, "result": 1}
    assert comparable(first) == comparable(
        {"task_id": other, "next": f'pool_task(task_id="{other}")', "run_seconds": 0.2, "result": 1}
    )
    for wrong in ({"next": f'pool_task(task_id="{other}")'}, {"run_seconds": None}, {"result": 2}):
        assert comparable(first | wrong) != comparable(first)
