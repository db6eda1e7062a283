"""A worker on its own: what it says of results and errors, its journal, how its end is put in words."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_pools import processes, worker
from mcp_pools.adapter import Launch, Surroundings
from mcp_pools.errors import PoolsError
from mcp_pools.worker_process import MARK, Exit, Journal, WorkerProcess, end_strangers

HANDLERS = Path(__file__).parent / "adapters"


class Silent(Exception):
    """Has no words."""

    def __str__(self):
        raise ValueError


@pytest.mark.parametrize("result", [None, True, 0, 1.5, "é\n", [], {}, [[{"a": None}]], {"1": [2]}])
def test_what_json_holds_is_a_result(result) -> None:
    """As it was."""
    assert json.loads(worker.encode(result)) == result


@pytest.mark.parametrize("result", [{1}, float("inf"), b"", "\ud800", {(1,): 2}, object(), 1j])
def test_what_json_cannot_hold_is_a_task_error(result) -> None:
    """With the next step."""
    with pytest.raises(PoolsError) as refused:
        worker.encode(result)
    assert refused.value.code == "task_error" and refused.value.next


def test_nesting_has_a_bound_that_leaves_the_interpreters_own_as_it_was() -> None:
    """Deep, and circular."""
    before, circle = sys.getrecursionlimit(), []
    circle.append(circle)
    deep: list[object] = []
    for _ in range(2000):
        deep = [deep]
    for result in (circle, deep):
        with pytest.raises(PoolsError):
            worker.encode(result)
    assert sys.getrecursionlimit() == before


def test_words_of_an_error_are_text_of_some_length() -> None:
    """Whatever the error does when it is asked."""
    assert worker.words(ValueError("é")) == "é"
    assert worker.words(ValueError("\ud800")) == "\\ud800"
    assert len(worker.words(ValueError("x" * 10**6))) < 5000
    assert worker.words(Silent()) == "(it cannot be put in words)"


def test_details_that_are_no_json_are_shown_as_they_are() -> None:
    """The others are kept."""
    assert worker.facts_of(PoolsError("task_error", "", details={"a": [1]})) == {"a": [1]}
    assert "unreadable" in worker.facts_of(PoolsError("task_error", "", details={"a": {1}}))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "was killed from outside"),
        (0, "exited with status 0"),
        (3 << 8, "exited with status 3"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (40, "was killed by signal 40"),
    ],
)
def test_every_end_of_a_worker_has_words(status, words) -> None:
    """Also one by a signal without a name."""
    assert Exit(status, b"", False).words == words


def test_a_journal_knows_what_has_not_started(tmp_path) -> None:
    """It is believed only when it is there, and of this boot."""
    journal = Journal.create(tmp_path / "w")
    assert not journal.started(1)
    journal.path.write_bytes(worker.SEQ.pack(2) + processes.boot_id().encode())
    assert journal.started(1) and journal.started(2) and not journal.started(3)
    journal.path.write_bytes(worker.SEQ.pack(2) + b"another boot")
    assert journal.started(3)
    journal.remove()
    assert journal.started(3)


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A worker whose channel this test reads, blocking."""
    monkeypatch.setenv("PYTHONPATH", str(HANDLERS))
    made = WorkerProcess("w-1", Surroundings(tmp_path, {"PATH": os.environ["PATH"]}), 0)
    made.channel.setblocking(True)
    made.channel.settimeout(20)
    assert next(made.receive(1))[0] == ["ready"]
    yield made
    made.kill()
    made.reap()
    made.close()
    assert not list(tmp_path.iterdir())


def launch(seq, handler="echo"):
    """A launch of `hostile`."""
    return Launch(f"t_{seq}.1", f"t_{seq}", 1, "x", f"hostile:{handler}", b"{}", 9.0, "/", (), 0, "w-1", seq)


def test_a_launch_is_in_the_journal_before_it_ends(process) -> None:
    """And a later one is not taken back by an earlier one that came late."""
    for seq, latest in ((1, 1), (5, 5), (3, 5), (6, 6)):
        process.run(launch(seq))
        assert next(process.receive(1))[0] == ["ended", f"t_{seq}.1", None]
        assert process.journal.started(latest) and not process.journal.started(latest + 1)


def test_what_was_recalled_never_runs(process) -> None:
    """Each launch is either taken or taken back."""
    for seq in range(1, 31):
        process.run(launch(seq))
    recalled = process.recall()
    ran = [header[1] for header, _ in process.receive(30 - len(recalled))]
    assert ran + recalled == [f"t_{seq}.1" for seq in range(1, 31)]


def test_strangers_are_those_of_this_directory_and_of_these_attempts(tmp_path) -> None:
    """Nobody else's are ended."""
    (tmp_path / "w-7").touch()
    attempt = f"t_{os.urandom(4).hex()}.1"
    marks = [{MARK: "w-7"}, {"MCP_POOLS_ATTEMPT": attempt}, {MARK: "w-8", "MCP_POOLS_ATTEMPT": "t_other.1"}]
    running = [subprocess.Popen(["sleep", "60"], env={**os.environ, **mark}) for mark in marks]
    end_strangers(tmp_path, frozenset({attempt}))
    assert [process.wait(20) for process in running[:2]] == [-signal.SIGKILL] * 2
    assert running[2].poll() is None
    running[2].kill()
    running[2].wait()
