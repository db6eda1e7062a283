"""`watch` in a pipe: which of its ways is meant, and a stream that loses nothing and repeats nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import http_peer, ok, owner_peer, refused, rpc
from pseudo_terminal import COMMAND
from samples import answer, event
from waiting import until

from mcp_pools import console
from mcp_pools.terminal import watch

CONTRADICTIONS = [
    (["--follow", "--refresh", "2"], "--follow and --refresh"),
    (["--follow", "--wait-seconds", "1"], "--follow and --wait-seconds"),
    (["--follow", "-f", "table"], "--follow and --format table"),
    (["--follow", "-f", "markdown"], "--follow and --format markdown"),
]


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_POOLS_HOME", str(home))


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "0.09", "soon", ""])
def test_a_refresh_that_is_none_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line that says what would do."""
    assert console.main(["watch", "--refresh", given]) == 2
    said = capsys.readouterr().err
    assert f"{given!r} is no number of seconds from {watch.SHORTEST_REFRESH} up" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("words", "expected"), CONTRADICTIONS)
def test_flags_that_contradict_each_other_are_refused(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is passed over."""
    assert console.main(["watch", *words]) == 2
    assert f"{expected} contradict each other" in capsys.readouterr().err


def test_a_pipe_gets_one_answer(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With or without a refresh, which is for people."""
    with owner_peer(home, lambda *_: ok(answer(events=[event(1)]))) as peer:
        assert console.main(["watch", "--refresh", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out) == answer(events=[event(1)])
    assert peer.called() == [("pool_watch", {})]


class Following:
    """`watch --follow` in a process of its own: its lines, as they come."""

    def __init__(self, surroundings: dict[str, str], *words: str) -> None:
        self.process = subprocess.Popen(
            [COMMAND, "watch", "--follow", *words],
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> dict[str, Any]:
        """The next event."""
        assert self.process.stdout
        read: dict[str, Any] = json.loads(self.process.stdout.readline())
        return read

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it said on standard error."""
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def follow(surroundings: dict[str, str]) -> Iterator[Any]:
    """`follow("--cursor", "c")`; what still runs is ended with the test."""
    started: list[Following] = []

    def start(*words: str) -> Following:
        started.append(Following(surroundings, *words))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


class Log:
    """An owner's events: each call is answered from its cursor on, or left waiting."""

    def __init__(self, events: int, most: int = 2) -> None:
        self.events = [event(number) for number in range(1, events + 1)]
        self.most = most
        self.asked: list[dict[str, Any]] = []

    def __call__(self, name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any] | None:
        self.asked.append(arguments)
        after = int(arguments.get("cursor", 0))
        found = self.events[after : after + self.most]
        return ok(answer(events=found, cursor=str(after + len(found)))) if found else None


@pytest.mark.anyio
async def test_each_event_is_a_line_and_a_wait_is_long(home: Path, follow: Any) -> None:
    """Answers hold some events each; the stream goes on where one ended."""
    log = Log(5)
    with owner_peer(home, log):
        following = follow()
        assert [following.line() for _ in range(5)] == log.events
        await until(lambda: len(log.asked) == 4)
        following.process.send_signal(signal.SIGINT)
        assert following.end() == (130, "mcp-pools: interrupted.\n")
    assert [each.get("cursor") for each in log.asked] == [None, "2", "4", "5"]
    assert {each["wait_seconds"] for each in log.asked} == {30}


def test_it_goes_on_from_a_cursor(home: Path, follow: Any) -> None:
    """The one that an earlier answer gave."""
    with owner_peer(home, Log(5)):
        assert follow("--cursor", "3").line()["cursor"] == 4


def test_no_event_is_lost_or_doubled_when_the_owner_is_replaced(home: Path, follow: Any) -> None:
    """The next owner is asked from the last whole answer on; one line says that there was a gap."""
    log = Log(4)
    cut = threading.Event()

    def until_cut(name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any] | None:
        given = log(name, arguments, say)
        if given is None:
            cut.set()
        return given

    with owner_peer(home, until_cut) as peer:
        following = follow()
        before = [following.line()["cursor"] for _ in range(4)]
        assert cut.wait(20)
        peer.hang_up()
        log.events += [event(5), event(6), event(7)]
        after = [following.line()["cursor"] for _ in range(3)]
        assert before + after == [1, 2, 3, 4, 5, 6, 7]
        following.process.send_signal(signal.SIGINT)
        status, said = following.end()
    assert status == 130
    assert said.splitlines()[0].startswith("mcp-pools: the connection was lost")


def test_events_of_a_real_owner_go_on_after_it_was_killed(
    home: Path, follow: Any, surroundings: dict[str, str]
) -> None:
    """The log is on disk: the owner that is started next continues it."""

    def echo() -> str:
        words = [COMMAND, "execute", "-t", "echo", "--payload", "a=1"]
        done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=True)
        task_id: str = json.loads(done.stdout)["task_id"]
        return task_id

    one = echo()
    following = follow()
    seen = [following.line()]
    while seen[-1]["kind"] != "task.completed":
        seen.append(following.line())
    os.kill(json.loads((home / "owner.json").read_text())["pid"], signal.SIGKILL)
    two = echo()
    while (seen[-1]["kind"], seen[-1]["task_id"]) != ("task.completed", two):
        seen.append(following.line())
    cursors = [each["cursor"] for each in seen]
    assert cursors == sorted(set(cursors))
    assert [each["task_id"] for each in seen if each["kind"] == "task.completed"] == [one, two]


def test_a_reader_that_leaves_ends_it_without_a_word(home: Path, follow: Any) -> None:
    """Like `| head -1`."""
    log, left = Log(2), threading.Event()

    def later(name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any] | None:
        if "cursor" in arguments:
            assert left.wait(20)
        return log(name, arguments, say)

    with owner_peer(home, later):
        following = follow()
        following.line()
        following.process.stdout.close()
        following.process.stdout = None
        log.events += [event(3)]
        left.set()
        assert following.end() == (0, "")


def test_a_cursor_of_another_home_is_refused(home: Path, follow: Any) -> None:
    """At once, with the refusal's exit status."""
    with owner_peer(home, lambda *_: refused("invalid_payload", "The cursor 'x' is not of this home.")):
        assert follow("--cursor", "x").end() == (2, "mcp-pools: The cursor 'x' is not of this home.\n")


def test_nobody_there_at_all_is_exit_4(follow: Any) -> None:
    """Only a connection that was there once is waited for."""
    status, said = follow("--server", "http://127.0.0.1:1").end()
    assert status == 4
    assert "nothing answers at http://127.0.0.1:1" in said


def test_a_server_is_followed_over_http(follow: Any) -> None:
    """The same question, again and again."""
    log = Log(3)

    def reply(body: dict[str, Any]) -> tuple[int, str, bytes]:
        given = log("pool_watch", body["params"]["arguments"], None) or ok(answer(cursor="3"))
        return 200, "application/json", rpc(body, given)

    with http_peer(reply) as server:
        following = follow("--server", server.url)
        assert [following.line()["cursor"] for _ in range(3)] == [1, 2, 3]
