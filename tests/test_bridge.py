"""The bridge between an MCP client's stdio and the owner, as a client sees it."""

# ruff: noqa: F811 - fixtures are imported by name

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "doors"))

from processes import (  # noqa: F401 - fixtures
    HERE,
    alive,
    bridge,
    directory,
    events,
    home,
    notes,
    owner_pid,
    until,
)

from mcp_pools.doors import jsonrpc
from mcp_pools.doors.hello import Hello
from mcp_pools.home import connect


def seen(home, method):
    """The messages of this method that owners got, as (pid, id)."""
    said = [json.loads(note) for note in notes(home) if note.startswith("{")]
    return [(note["pid"], note["id"]) for note in said if note["method"] == method]


def kill_owner(home):
    pid = owner_pid(home)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))
    return pid


def test_a_request_reaches_the_owner_and_its_answer_comes_back(home, bridge):
    client = bridge()
    assert client.shake_hands()["result"]["method"] == "initialize"
    client.ask("echo", "a")
    line = {"jsonrpc": "2.0", "id": "a", "method": "echo", "params": {}}
    result = {"pid": owner_pid(home), "method": "echo", "length": len(json.dumps(line)) + 1}
    assert client.receive() == {"jsonrpc": "2.0", "id": "a", "result": result}
    assert client.leave() == 0


def test_two_bridges_share_one_owner(home, bridge):
    first, second = bridge(), bridge()
    assert first.shake_hands()["result"]["pid"] == second.shake_hands()["result"]["pid"]
    assert len(events(home, "owner.listening")) == 1


def test_after_the_owner_died_the_next_request_works(home, bridge):
    client = bridge()
    client.shake_hands()
    client.ask("hang", 1)
    until(lambda: seen(home, "hang"))
    dead = kill_owner(home)
    error = client.receive()
    assert error["id"] == 1
    assert error["error"]["code"] == jsonrpc.OWNER_GONE
    assert "pool_search" in error["error"]["message"]
    assert "safe" in error["error"]["message"]
    client.ask("echo", 2)
    answer = client.receive()  # the answer to the replayed handshake was swallowed
    assert answer["id"] == 2
    new = answer["result"]["pid"]
    assert new != dead
    assert seen(home, "initialize") == [(dead, 0), (new, 0)]
    assert seen(home, "notifications/initialized") == [(dead, None), (new, None)]
    assert seen(home, "hang") == [(dead, 1)], "a request is never sent twice"


def test_every_request_in_flight_is_answered_once(home, bridge):
    client = bridge()
    client.shake_hands()
    for number in range(1, 6):
        client.ask("hang", number)
    client.tell("notifications/cancelled", requestId=3)
    until(lambda: len(seen(home, "hang")) == 5 and seen(home, "notifications/cancelled"))
    kill_owner(home)
    assert [client.receive()["id"] for _ in range(4)] == [1, 2, 4, 5]
    client.ask("echo", 6)
    assert client.receive()["id"] == 6


def test_an_owner_that_dies_of_the_handshake_is_followed_once(home, bridge, monkeypatch):
    monkeypatch.setenv("STANDIN_DIES_OF", "initialize")
    client = bridge()
    client.ask("initialize", 0)
    assert client.receive()["error"]["code"] == jsonrpc.OWNER_GONE
    assert len(seen(home, "initialize")) == 2


def test_an_owner_that_was_asked_to_leave_is_followed_too(home, bridge):
    client = bridge()
    client.shake_hands()
    pid = owner_pid(home)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid))
    client.ask("echo", 1)
    assert client.receive()["result"]["pid"] != pid


def test_the_answer_to_a_dead_owners_question_reaches_nobody(home, bridge):
    client = bridge()
    client.shake_hands()
    client.ask("ask", 1)
    assert client.receive()["method"] == "elicitation/create"
    kill_owner(home)
    revoked = client.receive()
    assert revoked["method"] == "notifications/cancelled"
    assert revoked["params"]["requestId"] == 1
    assert client.receive()["id"] == 1  # the request in flight
    client.send({"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}})
    client.ask("echo", 2)
    assert client.receive()["id"] == 2
    assert seen(home, None) == []


def test_an_answer_to_the_present_owner_reaches_it(home, bridge):
    client = bridge()
    client.shake_hands()
    client.ask("ask", 1)
    client.receive()
    client.send({"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}})
    until(lambda: seen(home, None))


@pytest.mark.parametrize("line", [b"nonsense", b'{"jsonrpc": ', b"\xff\xfe", b"[" * 2000, b"{" + b"x" * 5000])
def test_a_line_that_is_no_json_is_answered_and_goes_no_further(home, bridge, line):
    client = bridge()
    client.shake_hands()
    client.send(line)
    answer = client.receive()
    assert answer["id"] is None
    assert answer["error"]["code"] == jsonrpc.PARSE_ERROR
    client.ask("echo", 1)
    assert client.receive()["id"] == 1


def test_a_batch_is_an_invalid_request(home, bridge):
    client = bridge()
    client.send(b'[{"jsonrpc":"2.0","id":1,"method":"echo"}]')
    assert client.receive()["error"]["code"] == jsonrpc.INVALID_REQUEST


def test_blank_lines_are_passed_over(home, bridge):
    client = bridge()
    client.send(b"", b"  ", b"\r")
    client.ask("echo", 1)
    assert client.receive()["id"] == 1


def test_a_line_in_pieces_is_put_together(home, bridge):
    client = bridge()
    line = b'{"jsonrpc":"2.0","id":1,"method":"echo"}\r\n{"jsonrpc":"2.0","id":2,"method":"echo"}\n'
    for byte in (line[index : index + 1] for index in range(len(line))):
        os.write(client.process.stdin.fileno(), byte)
    assert [client.receive()["id"] for _ in range(2)] == [1, 2]


def test_a_huge_request_arrives_whole(home, bridge):
    client = bridge()
    text = "x" * (100 << 20)
    line = json.dumps({"method": "echo", "params": {"text": text}, "jsonrpc": "2.0", "id": 1}).encode()
    client.send(line)
    assert client.receive()["result"]["length"] == len(line) + 1


def test_a_huge_answer_arrives_whole_while_its_reader_is_slow(home, bridge):
    client = bridge()
    client.ask("big", 1, size=100 << 20)
    client.ask("echo", 2)
    until(lambda: seen(home, "big"))
    assert len(client.receive()["result"]["text"]) == 100 << 20
    assert client.receive()["id"] == 2


def test_a_client_that_does_not_read_cannot_fill_the_bridge(home, bridge):
    client = bridge()
    for number in range(200):
        client.ask("big", number, size=1 << 20)
    until(lambda: len(seen(home, "big")) > 1)
    for number in range(200):
        assert client.receive()["id"] == number
    status = Path(f"/proc/{client.process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 64 << 10, f"{peak} kB at the most"


def test_a_socket_for_stdout_works_as_a_pipe_does(home):
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", str(HERE / "standin_bridge.py"), str(home.path)]
    with ours, theirs, subprocess.Popen(command, stdin=theirs, stdout=theirs) as client:
        theirs.close()
        ours.sendall(b'{"jsonrpc":"2.0","id":1,"method":"big","params":{"size":3000000}}\n')
        with ours.makefile("rb") as lines:
            assert len(lines.readline()) > 3_000_000
        ours.shutdown(socket.SHUT_WR)
        assert client.wait(10) == 0


def test_the_end_of_stdin_ends_the_bridge_at_once_and_not_the_owner(home, bridge):
    client = bridge()
    client.shake_hands()
    client.ask("hang", 1)
    until(lambda: seen(home, "hang"))
    assert client.leave() == 0
    assert alive(owner_pid(home))


def test_what_was_said_before_the_end_arrives(home, bridge):
    client = bridge()
    out, _ = client.process.communicate(b'{"jsonrpc":"2.0","id":1,"method":"echo"}', timeout=20)
    assert client.process.returncode == 0
    assert json.loads(out)["id"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_bridge_cleanly(home, bridge, number):
    client = bridge()
    client.shake_hands()
    client.process.send_signal(number)
    assert client.process.wait(10) == 0
    assert client.process.stderr.read() == b""
    assert alive(owner_pid(home))


def test_an_owner_that_cannot_start_is_told_to_the_client_and_to_stderr(home, bridge, monkeypatch):
    monkeypatch.setenv("STANDIN_FAILS", "No such pool type: dsk.")
    client = bridge()
    client.ask("initialize", 0)
    answer = client.receive()
    assert answer["id"] == 0
    assert "No such pool type: dsk." in answer["error"]["message"]
    assert client.process.wait(10) == 1
    assert len(client.process.stderr.read().splitlines()) == 1


def test_when_no_next_owner_starts_each_request_is_told_why(home, bridge, directory):
    client = bridge()
    client.shake_hands()
    # The next owner finds a file where its home was.
    kill_owner(home)
    home.path.rename(directory / "away")
    home.path.touch()
    for number in (1, 2):
        client.ask("echo", number)
        answer = client.receive()
        assert answer["id"] == number
        assert "is not a directory" in answer["error"]["message"]
    home.path.unlink()
    (directory / "away").rename(home.path)
    client.ask("echo", 3)
    assert client.receive()["id"] == 3


def test_killing_a_bridge_with_its_children_does_not_kill_the_owner(home, bridge):
    client = bridge(start_new_session=True)
    client.shake_hands()
    os.killpg(client.process.pid, signal.SIGKILL)
    client.process.wait()
    with closing(connect(home, Hello.here("console"), start=False)):
        assert alive(owner_pid(home))


LINES = [
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"x":"%s"}}', "tools/call", 1),
    (b'{"method":"tools/call","params":{"x":"%s","id":5},"jsonrpc":"2.0","id":2}', "tools/call", 2),
    (b'{"method":"tools/call","params":{"x":"%s","id":5}, "id" : "a\\"b" }', "tools/call", 'a"b'),
    (b'{"params":{"x":"%s"},"id":3,"method":"m","last":{"id":9}}', "m", 3),
    (b'{"jsonrpc":"2.0","method":"m","params":{"x":"%s","id":9}}', "m", None),
    (b'{"jsonrpc":"2.0","id":4,"result":{"x":"%s","method":"m"}}', None, 4),
]


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(("line", "method", "number"), LINES)
def test_a_message_is_known_by_its_own_members_wherever_they_stand(line, method, number, size):
    about = jsonrpc.envelope(line % (b'\\",\\"id\\":7}' * size))
    assert (about.method, about.id) == (method, number)
