"""MCP over HTTP: a real server in a process of its own, and what reaches it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR
from served import CONSOLE, HEADERS, LEGACY, Server, modern
from waiting import until

from mcp_pools import Router, Settings
from mcp_pools.doors.http_address import Address, bound, listen
from mcp_pools.doors.http_door import HttpDoor
from mcp_pools.doors.http_guard import ENVELOPE_BYTES
from mcp_pools.errors import PoolsError
from mcp_pools.processes import is_over
from mcp_pools.tool import TOOLS

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """A tool's structured content; the call was not refused."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer
    assert isinstance(answer.structured_content, dict)
    return answer.structured_content


# Clients


@ERAS
async def test_a_client_has_every_tool_and_its_work_done(one_server: Server, mode: Any) -> None:
    """In both protocol eras, with the schemas and hints that stdio has."""
    async with one_server.client(mode) as client:
        assert client.server_info.name == "mcp-pools"
        assert [tool.name for tool in (await client.list_tools()).tools] == list(TOOLS)
        task = await call(client, "pool_execute", task_type="echo", payload={"x": "é"})
        assert (task["status"], task["result"], task["caller"]) == ("completed", {"x": "é"}, "local")
        with pytest.raises(MCPError, match="Did you mean 'pool_list'") as unknown:
            await client.call_tool("pool_lst", {})
    assert unknown.value.error.code == INVALID_PARAMS


@ERAS
async def test_progress_arrives_before_the_result(one_server: Server, mode: Any) -> None:
    """Over the response's own stream."""
    seen: list[float] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        seen.append(done)

    async with one_server.client(mode) as client:
        nap = {"task_type": "sleep", "payload": {"seconds": 0.6}}
        await client.call_tool("pool_execute", nap, progress_callback=on_progress)
    assert len(seen) > 1 and seen == sorted(seen) and seen[-1] == 0.6


@ERAS
async def test_cancelling_a_call_cancels_its_task(one_server: Server, gate: Any, mode: Any) -> None:
    """The message of one era and the closed response of the other."""
    async with one_server.client(mode) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: client.call_tool("pool_execute", gate.task))
            await gate.entered()
            group.cancel_scope.cancel()
        await until(lambda: ended(client, "cancelled"))


async def ended(client: Client, status: str) -> bool:
    """Whether the newest task that was held has ended so."""
    [task] = (await call(client, "pool_search", task_type="hold", limit=1))["tasks"]
    return bool(task["status"] == status)


async def test_a_client_of_the_handshake_era_that_goes_away_cancels_nothing(
    one_server: Server, gate: Any
) -> None:
    """Its connection breaks in the middle of a call, and the task goes on."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    connection = http.client.HTTPConnection("127.0.0.1", one_server.port, timeout=20)
    headers = {key.replace("_", "-"): value for key, value in HEADERS.items()}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    connection.request("POST", "/mcp", json.dumps(opening), headers)
    answer = connection.getresponse()
    headers |= {"Mcp-Session-Id": answer.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
    answer.read()
    request = {"name": "pool_execute", "arguments": gate.task}
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": request}
    connection.request("POST", "/mcp", json.dumps(message), headers)
    await gate.entered()
    connection.close()
    gate.open()
    async with one_server.client() as client:
        await until(lambda: ended(client, "completed"))


async def test_http_stdio_and_the_console_share_one_home(one_server: Server) -> None:
    """One owner serves them all."""
    stdio = StdioServerParameters(command=CONSOLE, args=["serve"], env=one_server.environment)
    async with one_server.client() as one, Client(stdio) as other:
        task = await call(one, "pool_execute", task_type="echo", payload={"x": 1})
        assert await call(other, "pool_task", task_id=task["task_id"]) == task
    assert json.loads(one_server.run("task", task["task_id"]).stdout) == task
    assert json.loads((one_server.home / "owner.json").read_text())["pid"] == one_server.process.pid


async def test_flags_narrow_every_client(serve: Callable[..., Server]) -> None:
    """What is not offered is neither listed nor called."""
    server = serve("--read-only", "--exclude-tools", "pool_watch")
    async with server.client() as client:
        offered = {tool.name for tool in (await client.list_tools()).tools}
        assert offered == {name for name, tool in TOOLS.items() if tool.effect == "read"} - {"pool_watch"}
        with pytest.raises(MCPError, match="pool_execute is switched off"):
            await client.call_tool("pool_execute", {"task_type": "echo", "payload": {}})


async def test_there_are_no_default_roots(one_server: Server) -> None:
    """A client over HTTP has no directory here, so no file is read that was not allowed."""
    async with one_server.client() as client:
        answer = await client.call_tool("pool_execute", {"task_type": "analyze", "payload": {"path": "/etc"}})
    assert answer.is_error and answer.structured_content["error"]["code"] == "not_allowed"


# Requests


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]:9"}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Host": "pools.example.org"}, 200),
        ({"Origin": "https://pools.example.org"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:8680"}, 421),
        ({"Host": "pools.example.org:1"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_only_allowed_hosts_and_origins_are_answered(
    one_server: Server, headers: dict[str, str], status: int
) -> None:
    """A page that a browser shows here cannot use the server, whatever name it found for it."""
    message, own = modern("tools/list", {})
    assert one_server.post(message, **own, **headers)[0] == status
    assert one_server.post(initialize(), **headers)[0] == status


def initialize() -> dict[str, Any]:
    """The first request of 2025-11-25."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that many tests may ask, because none of them changes it."""
    environment = {
        **os.environ,
        "MCP_POOLS_HOME": str(tmp_path_factory.mktemp("one") / "state"),
        "MCP_POOLS_HTTP_ALLOWED_HOSTS": '["pools.example.org"]',
        "MCP_POOLS_HTTP_ALLOWED_ORIGINS": '["https://pools.example.org"]',
        "MCP_POOLS_MAX_PAYLOAD_BYTES": "1000",
        "MCP_POOLS_TASK_MODULES": '["workloads"]',
        "PYTHONPATH": str(Path(__file__).parent),
    }
    server = Server(Path(environment["MCP_POOLS_HOME"]), environment)
    yield server
    assert server.end() == 0
    server.process.communicate()


def initialized(server: Server) -> dict[str, str]:
    """The headers of a session of 2025-11-25."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {key.replace("_", "-"): value for key, value in HEADERS.items()}
    connection.request("POST", "/mcp", json.dumps(initialize()), headers)
    session = connection.getresponse().headers["mcp-session-id"]
    connection.close()
    return LEGACY | {"Mcp_Session_Id": session}


MALFORMED = [
    ("{", PARSE_ERROR),
    ("[" * 100_000, PARSE_ERROR),
    ("[]", INVALID_REQUEST),
    ("7", INVALID_REQUEST),
    ('{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}', INVALID_REQUEST),
    ('{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}', INVALID_REQUEST),
]


@pytest.mark.parametrize(("body", "code"), MALFORMED)
async def test_what_is_no_message_gets_a_clear_answer(one_server: Server, body: str, code: int) -> None:
    """A JSON-RPC error with status 400, and no trace of the inside."""
    status, answer = one_server.post(body, **modern("tools/list", {})[1])
    assert (status, answer["error"]["code"]) == (400, code)
    status, answer = one_server.post(body, **initialized(one_server))
    # The earlier era's transport takes a request whose id is none for a notification.
    assert status == (202 if "{}" in body else 400) and "Traceback" not in str(answer)


async def test_unknown_names_are_protocol_errors(one_server: Server) -> None:
    """A tool that is not there is an invalid parameter, a method that is not there is not found."""
    message, headers = modern("tools/call", {"name": "pool_lst", "arguments": {}})
    _, answer = one_server.post(message, **headers)
    assert answer["error"]["code"] == INVALID_PARAMS and "pool_list" in answer["error"]["message"]
    message, headers = modern("tools/shout", {})
    _, answer = one_server.post(message, **headers)
    assert answer["error"]["code"] == METHOD_NOT_FOUND


async def test_a_body_beyond_the_limit_is_refused_unread(one_server: Server) -> None:
    """By what it declares, or as soon as too much has come."""
    most = 1000 + ENVELOPE_BYTES
    headers = modern("tools/list", {})[1]
    assert one_server.post("x" * 100, **headers, Content_Length=str(most + 1))[0] == 413
    assert one_server.post(" " * (most + 1), **headers)[0] == 413
    done = one_server.console("execute", "-t", "echo", "--payload", json.dumps({"x": "y" * 1001}))
    assert done.returncode == 2 and "max_payload_bytes" in done.stderr
    with socket.create_connection(("127.0.0.1", one_server.port), timeout=20) as raw:
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        raw.sendall(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            for _ in range(most // 0x10000 + 2):
                raw.sendall(chunk)
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


async def test_other_paths_and_methods_are_not_there(one_server: Server) -> None:
    """Nothing but the three routes."""
    assert one_server.ask("GET", "/")[0] == 404
    assert one_server.ask("POST", "/healthz")[0] == 405
    assert one_server.ask("PUT", "/mcp", "{}", **modern("tools/list", {})[1])[0] == 405
    assert one_server.ask("GET", "/healthz") == (200, "Alive.\n")
    assert one_server.ask("GET", "/readyz") == (200, "Ready.\n")


# Opening and leaving


async def test_while_the_router_opens_nothing_is_accepted(home: Path, user: Path) -> None:
    """The process lives, and says what it waits for."""
    settings = Settings(home=home)
    opens = anyio.Event()

    @asynccontextmanager
    async def slowly() -> AsyncIterator[Router]:
        await opens.wait()
        async with Router.open(settings) as router:
            yield router

    address = Address("127.0.0.1", 0)
    listening = listen(address)
    url = bound(address, listening).url.removesuffix("/mcp")
    door = HttpDoor(listening, address, settings, {})
    leaves = anyio.Event()

    async def run() -> None:
        async with door.beside(slowly()):
            await leaves.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        assert await answered(f"{url}/healthz") == (200, "Alive.\n")
        assert await answered(f"{url}/readyz") == (503, "The router is opening.\n")
        status, text = await answered(f"{url}/mcp", "{}")
        assert status == 503 and json.loads(text)["error"]["message"].startswith("The router is opening.")
        opens.set()
        with anyio.fail_after(20):
            while await answered(f"{url}/readyz") != (200, "Ready.\n"):
                await anyio.lowlevel.checkpoint()
        leaves.set()


async def answered(url: str, body: str | None = None) -> tuple[int, str]:
    """The status and the text of one answer, asked for beside the event loop that gives it."""

    def ask() -> tuple[int, str]:
        host, _, path = url.removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("POST" if body else "GET", f"/{path}", body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    return await anyio.to_thread.run_sync(ask)


@ERAS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_runs_may_end_before_the_server_leaves(
    server: Server, gate: Any, mode: Any, number: int
) -> None:
    """Its client is answered, and so is who asks meanwhile; the process says that it is leaving."""
    async with server.client(mode) as client, anyio.create_task_group() as group:
        answers: list[dict[str, Any]] = []

        async def wait() -> None:
            answers.append(await call(client, "pool_execute", **gate.task))

        group.start_soon(wait)
        await gate.entered()
        server.process.send_signal(number)
        await until(lambda: server.ask("GET", "/readyz") == (503, "The router is leaving.\n"))
        assert server.ask("GET", "/healthz")[0] == 200
        running = await call(client, "pool_search", status="running")
        assert len(running["tasks"]) == 1
        gate.open()
    assert answers[0]["status"] == "completed"
    assert server.process.wait(30) == 0


async def test_it_leaves_in_bounded_time(serve: Callable[..., Server], gate: Any) -> None:
    """Whatever runs, waits or listens; the next owner judges what ran, and keeps what waits."""
    server = serve(http_drain_seconds="0.2", pool_default_max_workers="1")
    begun = json.loads(server.console("execute", *words(gate), "--no-wait").stdout)
    await gate.entered()
    waits = json.loads(server.console("execute", "-t", "echo", "--payload", "x=1", "--no-wait").stdout)
    with socket.create_connection(("127.0.0.1", server.port)) as stream:
        headers = {key.replace("_", "-"): value for key, value in initialized(server).items()}
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        stream.sendall(
            f"GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{lines}\r\n".encode()
        )
        assert stream.recv(100).startswith(b"HTTP/1.1 200")
        assert server.end() == 0
    after = serve()
    ran = json.loads(after.console("task", begun["task_id"]).stdout)
    assert (ran["status"], ran["error"]["code"]) == ("failed", "interrupted")
    kept = json.loads(after.console("task", waits["task_id"], "--wait-seconds", "20").stdout)
    assert kept["status"] == "completed"


def words(gate: Any) -> list[str]:
    """A `hold` task as the console takes it."""
    return ["-t", "hold", "--payload", json.dumps(gate.task["payload"])]


# One owner


def refused(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The exit status and the words of a `serve` that does not come up."""
    done = subprocess.run(
        [CONSOLE, "serve", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("mcp-pools: ")
    return done.returncode, done.stderr


async def test_a_second_server_of_one_home_is_refused(one_server: Server) -> None:
    """The first stays, also when it has nothing to do: somebody asked for it."""
    status, words = refused(one_server.environment, "--http", ":0")
    assert status == 1 and f"owned by process {one_server.process.pid}" in words
    assert one_server.ask("GET", "/readyz")[0] == 200


async def test_another_configuration_does_not_replace_it(one_server: Server, tmp_path: Path) -> None:
    """Neither a console's nor a server's; the refusal names the process to end."""
    (other := tmp_path / "other.yaml").write_text("max_queue: 7\n")
    status, words = refused(one_server.environment, "--http", ":0", "--config", str(other))
    assert status == 1 and str(other) in words and f"end process {one_server.process.pid}" in words
    done = one_server.run("execute", "-t", "echo", "--payload", "x=1", "--config", str(other))
    assert done.returncode == 1 and str(other) in done.stderr


async def test_an_idle_owner_makes_room(serve: Callable[..., Server], environment: dict[str, str]) -> None:
    """The server finds what the other had done."""
    done = subprocess.run(
        [CONSOLE, "execute", "-t", "echo", "--payload", "x=1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    task = json.loads(done.stdout)
    before = json.loads(Path(environment["MCP_POOLS_HOME"], "owner.json").read_text())["pid"]
    server = serve()
    assert is_over(before)
    assert json.loads(server.console("task", task["task_id"]).stdout) == task


async def test_a_busy_owner_stays(environment: dict[str, str], gate: Any) -> None:
    """Its work is worth more than the new server."""
    execute = [CONSOLE, "execute", *words(gate), "--no-wait"]
    subprocess.run(execute, env=environment, capture_output=True, timeout=60, check=True)
    owner = json.loads(Path(environment["MCP_POOLS_HOME"], "owner.json").read_text())["pid"]
    try:
        status, said = refused(environment, "--http", ":0")
        assert status == 1 and f"owned by process {owner}" in said
        assert not is_over(owner)
    finally:
        os.kill(owner, signal.SIGTERM)
        await until(lambda: is_over(owner))


async def test_a_port_in_use_is_a_conflict(environment: dict[str, str]) -> None:
    """Said before anything else was touched."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = refused(environment, "--http", f":{port}")
    assert status == 1 and f"127.0.0.1:{port} is in use" in said
    assert not Path(environment["MCP_POOLS_HOME"]).exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--http", "0.0.0.0:8680"], "can be reached from other machines"),
        (["--http", "nowhere.invalid:1"], "'nowhere.invalid'"),
        (["--http", ":0", "--tools", "pool_lst"], "Did you mean 'pool_list'"),
        (["--http", ":0", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
async def test_what_cannot_be_served_is_one_line(
    environment: dict[str, str], arguments: list[str], expected: str
) -> None:
    """With exit status 2, because it was asked for wrongly."""
    status, said = refused(environment, *arguments)
    assert status == 2 and expected in said


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8680", ("127.0.0.1", 8680)),
        ("8681", ("127.0.0.1", 8681)),
        (":8681", ("127.0.0.1", 8681)),
        ("localhost", ("localhost", 8680)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_an_address_may_leave_out_what_is_usual(text: str, address: tuple[str, int]) -> None:
    """The host or the port."""
    assert Address.read(text) == address


@pytest.mark.parametrize(
    "text", ["::1:8680", "a:b", "127.0.0.1:99999", "http://localhost:1", "localhost:-1", "a b:1/"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """A URL is none either."""
    with pytest.raises(PoolsError, match="no HOST:PORT"):
        Address.read(text)


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """A connection sends its packets at once: else each answer of two packets takes 40 ms longer."""
    with listen(Address("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The console


async def test_a_command_with_server_answers_as_on_the_owner(one_server: Server) -> None:
    """Every reading command, and work with its exit status."""
    task = json.loads(one_server.console("execute", "-t", "echo", "--payload", "x=1").stdout)
    for words in (["list"], ["task", task["task_id"]]):
        over, here = one_server.console(*words), one_server.run(*words)
        assert over.returncode == here.returncode == 0, over.stderr
        assert steady(json.loads(over.stdout)) == steady(json.loads(here.stdout))
    assert one_server.console("register", "-n", "more", "-t", "local", "-m", "0", "-w", "1").returncode == 0
    assert one_server.console("scale", "more", "--workers", "auto").returncode == 0
    items = json.dumps({"x": "{item}", "items": [1, 2]})
    spread = json.loads(one_server.console("distribute", "-t", "echo", "--payload", items).stdout)
    assert (spread["succeeded"], spread["failed"]) == (2, 0)
    assert one_server.console("rebalance", "--dry-run").returncode == 0
    assert one_server.console("watch").returncode == 0
    assert one_server.console("close", "more").returncode == 0
    assert one_server.console("get", "nowhere").returncode == 3
    assert one_server.console("cancel", task["task_id"]).returncode == 0
    failed = one_server.console("execute", "-t", "compute", "--payload", "expression=1 / 0")
    assert failed.returncode == 1


def steady(value: Any) -> Any:
    """A result without what changes from one moment to the next."""
    if isinstance(value, list):
        return [steady(each) for each in value]
    if not isinstance(value, dict):
        return value
    moving = {"latency_seconds", "memory_bytes", "last_seen_at"}
    return {key: steady(each) for key, each in value.items() if key not in moving}


async def test_a_command_waits_longer_than_the_server_lets_it(serve: Callable[..., Server]) -> None:
    """It goes on with `pool_task`, and shows progress all the while."""
    server = serve(mcp_wait_seconds="0.1")
    nap = ["execute", "-t", "sleep", "--payload", "seconds=1.5", "-f", "progress"]
    done = server.console(*nap)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    assert "execute" in done.stderr


@pytest.mark.parametrize("seconds", ["45", "0.05"], ids=["in the first call", "in a later one"])
async def test_an_interrupted_command_cancels_its_task(
    serve: Callable[..., Server], gate: Any, seconds: str
) -> None:
    """Wherever it waits just then."""
    server = serve(mcp_wait_seconds=seconds)
    waiting = subprocess.Popen(
        [CONSOLE, "execute", *words(gate), "--server", server.url],
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    await gate.entered()
    async with server.client() as client:
        [task] = (await call(client, "pool_search"))["tasks"]
        for _ in range(10 if seconds != "45" else 0):  # as long as the command's first call, and longer
            await call(client, "pool_task", task_id=task["task_id"], wait_seconds=30)
        waiting.send_signal(signal.SIGINT)
        _, said = await anyio.to_thread.run_sync(waiting.communicate)
        assert waiting.returncode == 130, said
        await until(lambda: ended(client, "cancelled"))
