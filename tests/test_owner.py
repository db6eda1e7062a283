"""The owner: who comes in, what a console's calls do, and when it leaves."""

# ruff: noqa: F811 - fixtures are imported by name

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "doors"))

from processes import HERE, alive, directory, events, home, notes, owner_pid, until  # noqa: F401 - fixtures

from mcp_pools.doors import jsonrpc
from mcp_pools.doors.calls import WITHDRAWN
from mcp_pools.doors.hello import Hello
from mcp_pools.errors import PoolsError
from mcp_pools.home import connect

CONSOLE = Hello.here("console")


class Client:
    """A console's connection."""

    def __init__(self, home, hello=CONSOLE):
        self.door = connect(home, hello)
        self.lines = self.door.makefile("rb")

    def send(self, message):
        self.door.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def call(self, number, name, **arguments):
        params = {"name": name, "arguments": arguments, "_meta": {"progressToken": number}}
        self.send({"id": number, "method": "tools/call", "params": params})

    def receive(self):
        return json.loads(self.lines.readline())

    def close(self):
        self.lines.close()
        self.door.close()


@pytest.fixture
def client(home):
    with closing(Client(home)) as made:
        yield made


def own(home, *arguments):
    """Run an owner in the foreground."""
    command = [*home.owner_command, "--home", str(home.path), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_call_is_answered_with_its_structured_content(client):
    client.call(1, "echo", x=1)
    assert client.receive() == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"structuredContent": {"echo": {"x": 1}}, "isError": False, "content": []},
    }


def test_a_refusal_is_a_result_that_says_what_to_do(client):
    client.call(1, "refuse")
    result = client.receive()["result"]
    assert result["isError"]
    assert result["structuredContent"]["error"]["code"] == "queue_full"
    assert result["structuredContent"]["error"]["next"] == "Try later."
    assert result["content"] == [{"type": "text", "text": "The queue is full. Try later."}]


def test_progress_comes_before_the_answer(client):
    client.call(7, "count")
    said = [client.receive() for _ in range(4)]
    assert [line["params"] for line in said[:3]] == [
        {"progressToken": 7, "progress": step + 1, "total": 3, "message": f"step {step}"} for step in range(3)
    ]
    assert said[3]["id"] == 7


def test_a_bug_in_a_tool_is_one_error_and_the_session_goes_on(home, client):
    client.call(1, "crash")
    answer = client.receive()
    assert answer["error"]["code"] == jsonrpc.INTERNAL_ERROR
    assert "a bug" not in answer["error"]["message"]
    assert "a bug" in events(home, "call.failed")[0]["trace"]
    client.call(2, "echo")
    assert client.receive()["id"] == 2


def test_what_cannot_be_called_is_an_error_each(client):
    client.call(1, "nothing")
    client.send({"id": 2, "method": "tools/list"})
    client.door.sendall(b"nonsense\n[]\n")
    codes = [client.receive()["error"]["code"] for _ in range(4)]
    assert sorted(codes) == sorted(
        [jsonrpc.INVALID_PARAMS, jsonrpc.METHOD_NOT_FOUND, jsonrpc.PARSE_ERROR, jsonrpc.PARSE_ERROR]
    )


def test_calls_run_side_by_side(home, client):
    client.call(1, "wait")
    until(lambda: "waiting" in notes(home))
    client.call(2, "echo")
    assert client.receive()["id"] == 2


def test_a_cancelled_call_knows_that_its_caller_withdrew(home, client):
    client.call(1, "wait")
    until(lambda: "waiting" in notes(home))
    client.send({"method": "notifications/cancelled", "params": {"requestId": 1}})
    until(lambda: f"stopped {(WITHDRAWN,)}" in notes(home))


def test_a_hang_up_ends_the_wait_and_withdraws_nothing(home, client):
    client.call(1, "wait")
    until(lambda: "waiting" in notes(home))
    client.close()
    until(lambda: "stopped ()" in notes(home))


def test_the_socket_is_for_its_user_alone(home, client):
    assert stat.S_IMODE(home.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.socket.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_another_user_is_hung_up_on_even_with_the_doors_open(home, directory, client):
    for path, mode in ((directory, 0o755), (home.path, 0o755), (home.socket, 0o777)):
        path.chmod(mode)
    script = (
        "import os, pathlib, socket, sys; door = pathlib.Path(sys.argv[1]); os.chdir(door.parent);"
        "os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(door.name); print(s.recv(100))"
    )
    command = [sys.executable, "-c", script, str(home.socket)]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.stdout.strip() == "b''", said.stderr
    assert events(home, "connection.refused")[0]["uid"] == 65534


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b"x" * 100_000])
def test_who_does_not_say_hello_is_turned_away(home, client, line):
    with closing(socket.socket(socket.AF_UNIX)) as stranger:
        stranger.connect(str(home.socket))
        stranger.sendall(line)
        with stranger.makefile("rb") as answer:
            try:
                said = answer.read()
            except ConnectionResetError:
                said = b""
    assert said == b"" or json.loads(said)["ok"] is False
    client.call(1, "echo")
    assert client.receive()["id"] == 1


def test_an_unknown_kind_of_client_is_refused(home, client):
    with pytest.raises(PoolsError, match="no session of kind 'telnet'") as refused:
        connect(home, CONSOLE._replace(kind="telnet"))
    assert refused.value.code == "unsupported"


def test_a_second_owner_goes_away_quietly(home, client):
    with own(home) as second:
        assert second.wait(20) == 0
        said = [json.loads(line) for line in second.stderr]
    assert [event["event"] for event in said] == ["owner.unneeded"]
    client.call(1, "echo")
    assert client.receive()["id"] == 1


def test_of_two_owners_started_together_one_stays(home):
    owners = [own(home, "--idle-seconds", "60") for _ in range(2)]
    until(lambda: home.read_owner())
    until(lambda: sum(owner.poll() is None for owner in owners) == 1)
    for owner in owners:
        owner.terminate()
        assert owner.wait(20) == 0
        owner.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_the_router_and_removes_what_says_who_owns(home, client, number):
    pid = owner_pid(home)
    os.kill(pid, number)
    until(lambda: not alive(pid))
    assert (home.path / "closed").exists()
    assert not home.socket.exists()
    assert not home.owner_file.exists()
    assert not home.locked()
    assert client.lines.readline() == b""


def test_it_leaves_when_nobody_is_there_and_nothing_is_unfinished(home, monkeypatch):
    monkeypatch.setenv("STANDIN_IDLE", "0.2")
    with closing(Client(home)) as client:
        pid = owner_pid(home)
        client.call(1, "echo")
        client.receive()
        assert alive(pid)
    until(lambda: not alive(pid))
    assert events(home)[-1]["event"] == "owner.left"
    assert (home.path / "closed").exists()


def test_it_stays_while_a_task_is_unfinished(home, monkeypatch):
    monkeypatch.setenv("STANDIN_IDLE", "0.1")
    with closing(Client(home)) as client:
        client.call(1, "accept")
        client.receive()
    with own(home) as other:  # takes longer to start than the idle time is
        assert other.wait(20) == 0
        other.stderr.read()
    assert not events(home, "owner.leaving")


def test_a_starter_finds_its_owner_however_short_the_idle_time_is(home, monkeypatch):
    monkeypatch.setenv("STANDIN_IDLE", "0")
    with closing(Client(home)) as client:
        client.call(1, "echo")
        assert client.receive()["id"] == 1
    assert len(events(home, "owner.listening")) == 1


def test_a_client_that_comes_while_it_leaves_gets_the_next_one(home, monkeypatch):
    monkeypatch.setenv("STANDIN_IDLE", "0.001")
    for number in range(8):
        with closing(Client(home)) as client:
            client.call(number, "echo")
            assert client.receive()["id"] == number


def test_another_configuration_replaces_an_idle_owner(home, directory):
    with closing(Client(home)):
        first = owner_pid(home)
    with closing(Client(home, CONSOLE._replace(config=str(directory / "a.yaml")))):
        assert owner_pid(home) != first
        assert home.read_owner()["config"] == str(directory / "a.yaml")
        with closing(Client(home)):
            pass  # without a configuration any owner will do


def test_another_configuration_conflicts_with_a_busy_owner(home, directory):
    ours, theirs = str(directory / "a.yaml"), str(directory / "b.yaml")
    with closing(Client(home, CONSOLE._replace(config=ours))) as client:
        with pytest.raises(PoolsError) as refused:
            connect(home, CONSOLE._replace(config=theirs))
        assert refused.value.code == "conflict"
        assert ours in refused.value.message
        assert theirs in refused.value.message
        client.call(1, "accept")
        client.receive()
    with pytest.raises(PoolsError, match="1 unfinished task"):
        connect(home, CONSOLE._replace(config=theirs))


def test_a_newer_client_replaces_an_idle_older_owner(home, monkeypatch):
    monkeypatch.setenv("STANDIN_VERSION", "0.0.9")
    with closing(Client(home, CONSOLE._replace(version="0.0.9"))):
        older = owner_pid(home)
    monkeypatch.delenv("STANDIN_VERSION")
    with closing(Client(home)):
        assert owner_pid(home) != older


def test_a_newer_client_uses_a_busy_older_owner(home, monkeypatch):
    monkeypatch.setenv("STANDIN_VERSION", "0.0.9")
    with closing(Client(home, CONSOLE._replace(version="0.0.9"))), closing(Client(home)) as newer:
        newer.call(1, "echo")
        assert newer.receive()["id"] == 1
    assert len(events(home, "owner.listening")) == 1


def test_an_idle_owner_leaves_when_it_is_asked_to(home):
    with closing(Client(home)):
        first = owner_pid(home)
    with closing(socket.socket(socket.AF_UNIX)) as door:
        door.connect(str(home.socket))
        door.sendall(CONSOLE._replace(replace=True).line())
        assert json.loads(door.recv(1000))["code"] == "leaving"
    until(lambda: not alive(first))


async def _sdk_session(home):
    from mcp import Client as SdkClient
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    command = [str(HERE / "standin_bridge.py"), str(home.path)]
    server = StdioServerParameters(
        command=sys.executable, args=command, env={**os.environ, "STANDIN_MCP": "sdk"}
    )
    async with SdkClient(stdio_client(server)) as client:
        answer = await client.call_tool("echo", {"text": "hé\u2028", "times": 2})
        assert answer.structured_content["text"] == "hé\u2028"
        owner = answer.structured_content["pid"]
        os.kill(owner, signal.SIGKILL)
        until(lambda: not alive(owner))
        again = await client.call_tool("echo", {"text": "again"})
        assert again.structured_content["pid"] != owner


def test_an_sdk_client_goes_on_after_the_owner_was_killed(home):
    import anyio

    anyio.run(_sdk_session, home)


def test_a_message_that_is_none_is_answered_by_the_session(home, monkeypatch):
    monkeypatch.setenv("STANDIN_MCP", "sdk")
    with closing(Client(home, CONSOLE._replace(kind="mcp"))) as client:
        client.door.sendall(b"nonsense\n")
        assert client.receive()["error"]["code"] == jsonrpc.PARSE_ERROR
        client.door.sendall(b'{"id": 5, "method": 7}\n')
        answer = client.receive()
        assert answer["id"] == 5
        assert answer["error"]["code"] == jsonrpc.INVALID_REQUEST
