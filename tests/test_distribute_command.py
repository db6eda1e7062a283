"""`mcp-pools distribute` as its users have it: real processes and workers, what is printed, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import Machine, machine_of
from parts import require
from rich.cells import cell_len
from waiting import until

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parent.parent
DIVISION = ["distribute", "-t", "compute", "-s", "map_reduce", "--payload"]
LONG = ["distribute", "-t", "sleep", "--payload", '{"seconds": 600, "items": [1, 2, 3, 4]}']
"""Nobody waits so long: it is cancelled."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    """A machine with the implied pool, for all that leaves its pools as they are."""
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as base:
        (directory := Path(base, "work")).mkdir()
        with machine_of(Path(base, "home"), directory) as machine:
            yield machine


@pytest.fixture
def machine(home: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine of the test's own."""
    with machine_of(home, tmp_path) as machine:
        yield machine


def payload(expression: str, items: Any) -> str:
    """A payload of `compute`."""
    return json.dumps({"expression": expression, "items": items})


def outcomes(whole: dict[str, Any]) -> list[Any]:
    """The items' results, or the codes of their errors."""
    return [item["error"]["code"] if item["error"] else item["result"] for item in whole["results"]]


# Results.


def test_a_pipe_gets_the_reduced_results_in_order(shared: Machine) -> None:
    """The example of the README, as JSON."""
    whole = shared.answer(*DIVISION, payload("x**2", [1, 2, 3, 4, 5]))
    assert whole["reduced"] == outcomes(whole) == [1, 4, 9, 16, 25]
    assert (whole["status"], whole["succeeded"], whole["next"]) == ("completed", 5, None)


def test_an_item_that_fails_is_exit_1_and_the_rest_stand(shared: Machine) -> None:
    """Nothing is said on standard error: what was accepted answers with its outcome."""
    done = shared.console(*DIVISION, payload("10/x", [1, 2, 0, 4, 5]))
    assert (done.returncode, done.stderr) == (1, "")
    whole = json.loads(done.stdout)
    assert outcomes(whole) == [10.0, 5.0, "task_error", 2.5, 2.0]
    assert (whole["status"], whole["succeeded"], whole["failed"]) == ("completed", 4, 1)
    assert whole["reduced"] == [10.0, 5.0, 2.5, 2.0]


def test_the_lines_of_every_file_of_this_repository(shared: Machine) -> None:
    """`wc -l` for each of them, where the configuration allows it; a link to a directory has no lines."""
    (config := shared.directory / "wc.yaml").write_text("allow: {commands: [wc]}\n")
    files = tracked()
    work = json.dumps({"argv": ["wc", "-l", "{item}"], "items": files})
    words = ["distribute", "-t", "command", "--payload", "-", "--config", str(config)]
    done = shared.console(*words, cwd=REPOSITORY, input=work)
    whole = json.loads(done.stdout)
    assert whole["total"] == len(files) > 100
    assert [lines(item) for item in whole["results"]] == [counted(REPOSITORY / file) for file in files]
    assert done.returncode == int(whole["failed"] > 0)


def tracked() -> list[str]:
    """What git keeps of this repository."""
    git = require("git", "apt install git")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"needs a checkout of the repository: {listed.stderr.strip()}")
    return [name for name in listed.stdout.split("\0") if (REPOSITORY / name).exists()]


def counted(file: Path) -> int | str:
    """What a file's outcome must be."""
    return "task_error" if file.is_dir() else file.read_bytes().count(b"\n")


def lines(item: dict[str, Any]) -> int | str:
    """What came of `wc -l`."""
    return str(item["error"]["code"]) if item["error"] else int(item["result"]["stdout"].split()[0])


def test_what_was_not_allowed_is_refused_whole(shared: Machine) -> None:
    """With the key to set; no item has run."""
    before = shared.answer("search", "-t", "command", "--limit", "1")
    work = json.dumps({"argv": ["touch", "{item}"], "items": ["x"]})
    done = shared.console("distribute", "-t", "command", "--payload", work)
    assert (done.returncode, done.stdout) == (2, "") and "allow.commands" in done.stderr
    assert shared.answer("search", "-t", "command", "--limit", "1") == before
    assert not (shared.directory / "x").exists()


# Payloads.


def test_relative_items_are_files_of_the_callers_directory(shared: Machine) -> None:
    """Wherever the owner stands, and whichever directory the owner's first caller was in."""
    for name, functions in (("one", 1), ("two", 2)):
        (directory := shared.directory / name).mkdir()
        source = "".join(f"def f{at}():\n    pass\n" for at in range(functions))
        for file in ("a.py", "b.py"):
            (directory / file).write_text(source)
        words = ["distribute", "-t", "analyze", "--payload", '{"items": ["a.py", "b.py"]}']
        whole = shared.answer(*words, cwd=directory)
        rows = [item["result"]["files"][0] for item in whole["results"]]
        assert [(row["path"], row["functions"]) for row in rows] == [("a.py", functions), ("b.py", functions)]


def test_a_payload_comes_from_a_file_or_from_standard_input(shared: Machine) -> None:
    """Both say the same as the words themselves."""
    (shared.directory / "work.json").write_text(payload("x + 1", [1, 2]))
    read = shared.answer(*DIVISION, "@work.json", "--reduce", "sum")
    piped = shared.answer(*DIVISION, "-", "--reduce", "sum", input=payload("x + 1", [1, 2]))
    assert read["reduced"] == piped["reduced"] == 5


REFUSED = [
    (["-t", "compute", "--payload", payload("x", [])], 2, "'items' is empty"),
    (["-t", "compute", "--payload", payload("x", None)], 2, "no 'items'"),
    (["-t", "compute", "--payload", payload("x", "abc")], 2, "a str, not a list"),
    (["-t", "compute", "--payload", payload("x +", [1])], 2, "'x +'"),
    (["-t", "compute", "--payload", "items"], 2, "not JSON"),
    (["-t", "compute"], 2, "--payload"),
    (["-t", "ecko", "--payload", payload("x", [1])], 2, "'echo'"),
    (["-t", "compute", "--payload", payload("x", [1]), "-s", "broadkast"], 2, "'broadcast'"),
    (["-t", "compute", "--payload", payload("x", [1]), "--chunk-size", "0"], 2, "chunk_size"),
    (["-t", "compute", "--payload", payload("x", [1]), "--reduce", "summ"], 2, "'sum'"),
    (["-t", "compute", "--payload", payload("x", [1]), "--on-error", "stop"], 2, "'fail_fast'"),
    (["-t", "compute", "--payload", payload("x", [1]), "--pools", "locale"], 3, "'local'"),
    (["-t", "echo", "--payload", '{"x": "{item.y}", "items": [{"z": 1}]}'], 2, "Item 0"),
    (["-t", "analyze", "--payload", '{"items": ["/etc/hosts"]}'], 2, "allow.roots"),
]


@pytest.mark.parametrize(("words", "status", "said"), REFUSED)
def test_what_cannot_be_accepted_is_one_line(
    shared: Machine, words: list[str], status: int, said: str
) -> None:
    """On standard error; standard output stays empty, and no pool has a task more."""
    before = shared.answer("stats")["totals"]["tasks"]
    done = shared.console("distribute", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("mcp-pools: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
    assert shared.answer("stats")["totals"]["tasks"] == before


# How it is shown.


@pytest.mark.parametrize("width", [80, 40])
def test_no_line_of_a_table_is_wider_than_the_terminal(shared: Machine, width: int) -> None:
    """Long words, wide letters and failures included; what counts is there at any width."""
    items = ["x" * 100, "寿司" * 30, {"key": "value " * 20}, 0]
    work = payload("x if x else 1 / x", items)
    shared.environment["COLUMNS"] = str(width)
    done = shared.console(*DIVISION, work, "-f", "table")
    del shared.environment["COLUMNS"]
    assert done.returncode == 1
    assert max(map(cell_len, done.stdout.splitlines())) <= width
    words = " ".join(done.stdout.split())
    assert "3 of 4 succeeded, 1 failed" in words and "division by" in words


def test_markdown_is_a_page_with_a_row_for_each_item(shared: Machine) -> None:
    """For a comment or a report."""
    done = shared.console(*DIVISION, payload("10/x", [1, 0]), "-f", "markdown")
    assert done.returncode == 1
    assert done.stdout.startswith("**completed · d_") and "1 of 2 succeeded, 1 failed**" in done.stdout
    assert "| 0 | completed | local | 10.0 |" in done.stdout
    assert (
        "| 1 | failed | local | task_error: '10/x' could not be computed: division by zero. |" in done.stdout
    )


def test_progress_goes_to_standard_error_and_the_result_to_the_other(shared: Machine) -> None:
    """The last word is that all items are done."""
    done = shared.console(*DIVISION, payload("10/x", [1, 0, 2]), "-f", "progress")
    assert outcomes(json.loads(done.stdout)) == [10.0, "task_error", 5.0]
    first, *_, last = done.stderr.splitlines()
    assert first == "distribute …"
    assert "100%" in last and "3/3" in last and last.endswith("1 failed")


# Without waiting, cancelled, interrupted.


async def test_one_that_nobody_waits_for_is_looked_at_later(shared: Machine, home: Path) -> None:
    """Exit status 0 while it runs; its results are there when it has ended."""
    gate = home / "gate"
    program = (
        "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\nprint(sys.argv[2])"
    )
    config = shared.directory / "python.yaml"
    config.write_text("allow: {commands: ['python3*']}\n")
    work = {"argv": ["python3", "-c", program, str(gate), "{item}"], "items": [1, 2]}
    words = ["distribute", "-t", "command", "--payload", json.dumps(work), "--no-wait"]
    begun = shared.answer(*words, "--config", str(config))
    assert begun["status"] in ("queued", "running") and begun["reduced"] is None
    assert begun["next"] == f'pool_task(task_id="{begun["distribution_id"]}", wait_seconds=30)'
    seen = shared.answer("task", begun["distribution_id"])
    assert (seen["finished_at"], seen["succeeded"]) == (None, 0)
    gate.touch()
    whole = shared.answer("task", begun["distribution_id"], "--wait-seconds", "30")
    assert [item["result"]["stdout"] for item in whole["results"]] == ["1\n", "2\n"]
    part = shared.answer("task", begun["distribution_id"], "--select", "exit_code", "--offset", "1")
    assert [(item["index"], item["result"]) for item in part["results"]] == [(1, 0)]


def test_a_cancelled_one_has_ended_when_the_command_returns(shared: Machine) -> None:
    """A second time it has ended already; to look at it is exit status 1."""
    begun = shared.answer(*LONG, "--no-wait")
    answer = {"id": begun["distribution_id"], "cancelled": True, "already_finished": False}
    assert shared.answer("cancel", begun["distribution_id"]) == answer
    again = answer | {"cancelled": False, "already_finished": True}
    assert shared.answer("cancel", begun["distribution_id"]) == again
    whole = shared.answer("task", begun["distribution_id"], status=1)
    assert (whole["status"], whole["cancelled"]) == ("cancelled", 4)
    assert outcomes(whole) == ["cancelled"] * 4


@pytest.mark.parametrize("format", ["json", "progress"])
async def test_an_interrupted_command_cancels_all_of_it(shared: Machine, format: str) -> None:
    """Ctrl-C is the human's word: exit status 130, and no part is left running."""
    waiting = shared.started(*LONG, "-f", format)
    running = ["search", "-t", "sleep", "--status", "running"]
    [task, *_] = await until(lambda: len(found := shared.answer(*running)["tasks"]) == 4 and found)
    waiting.send_signal(signal.SIGINT)
    printed, said = waiting.communicate(timeout=30)
    assert (waiting.returncode, printed) == (130, "")
    assert said.splitlines()[-1] == "mcp-pools: interrupted; what it waited for is being cancelled."
    whole = shared.answer("task", task["distribution_id"], "--wait-seconds", "30", status=1)
    assert (whole["status"], whole["cancelled"]) == ("cancelled", 4)
    assert shared.answer(*running)["tasks"] == []


# Several pools.


def test_only_the_pools_that_were_named_get_items(machine: Machine) -> None:
    """Each by a flag of its own."""
    for name in "abc":
        machine.answer("register", "-n", name, "-t", "local", "-w", "1")
    work = payload("x", list(range(6)))
    whole = machine.answer("distribute", "-t", "compute", "--payload", work, "--pools", "a", "--pools", "b")
    assert set(whole["pools"]) <= {"a", "b"} and sum(whole["pools"].values()) == 6
    broadcast = machine.answer("distribute", "-t", "echo", "--payload", "x=1", "-s", "broadcast")
    assert broadcast["pools"] == {"a": 1, "b": 1, "c": 1}


async def test_a_dry_run_moves_nothing(machine: Machine) -> None:
    """It says what the same command without it then does."""
    machine.answer("register", "-n", "a", "-t", "local", "-w", "1")
    begun = machine.answer(*LONG, "--no-wait")
    await until(lambda: machine.answer("get", "a")["queue_size"] == 3)
    machine.answer("register", "-n", "b", "-t", "local", "-w", "1")
    dry = machine.answer("rebalance", "--dry-run")
    assert {(move["from"], move["to"]) for move in dry["moved"]} == {("a", "b")}
    assert machine.answer("task", begun["distribution_id"])["pools"] == {"a": 4}
    moved = machine.answer("rebalance")
    assert moved["moved"] == dry["moved"] and dry["why"] == f"Dry run. {moved['why']}"
    assert machine.answer("task", begun["distribution_id"])["pools"] == {"a": 2, "b": 2}
    machine.answer("cancel", begun["distribution_id"])
