"""The program of a Job's container, run as a container would: by a stock Python, from the bundle."""

import json
import os
import subprocess
import sys

import pytest

from mcp_pools.kube.bundle import bundle
from mcp_pools.kube.frames import Reader

FACTS = {
    "attempt_id": "t_1.1",
    "task_id": "t_1",
    "attempt": 1,
    "timeout": 60.0,
    "depth": 0,
    "worker": "cloud-1",
    "seq": 1,
    "cwd": "/nowhere/at/all",
    "roots": [],
    "traceparent": None,
    "environment": {},
    "agent": None,
    "parts": ["payload-0"],
}
STOCK = getattr(sys, "_base_executable", sys.executable)


@pytest.fixture
def container(tmp_path):
    """Runs the program; its exit status, and the frames of its log."""
    code = tmp_path / "code.zip"
    code.write_bytes(bundle()[1])

    def run(*arguments):
        done = subprocess.run(
            [STOCK, str(code), *map(str, arguments)],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
            capture_output=True,
            timeout=30,
        )
        reader = Reader()
        frames = [reader.line(line) for line in done.stdout.splitlines()]
        return done.returncode, [frame for frame in frames if frame is not None]

    return run


@pytest.fixture
def inputs(tmp_path):
    """Writes a launch as its Secret brings it."""

    def write(task_type, handler, payload):
        directory = tmp_path / "input"
        directory.mkdir()
        facts = {**FACTS, "task_type": task_type, "handler": f"mcp_pools.task_types.{handler}"}
        (directory / "launch.json").write_text(json.dumps(facts))
        (directory / "payload-0").write_text(json.dumps(payload))
        return directory

    return write


def told(frames):
    """The outcome that frames tell: its code, and the result."""
    result = b"".join(frame.data for frame in frames if frame.kind == "part")
    ended = [frame.fields["code"] for frame in frames if frame.kind == "ended"]
    return ended, json.loads(result) if result else None


def test_a_program_is_found_by_its_name_where_the_owner_has_it_elsewhere(container, inputs) -> None:
    """The policy has judged it, and written down where it is on another machine."""
    payload = {"argv": ["/opt/owner/bin/printf", "%s", "$HOME"], "stdin": None, "env": {}}
    _, frames = container(inputs("command", "command:run", payload))
    codes, result = told(frames)
    assert codes == [None] and result["stdout"] == "$HOME"


def test_a_program_that_no_image_has_is_named(container, inputs) -> None:
    """With the place it was expected at."""
    payload = {"argv": ["/opt/owner/bin/no-such-thing"], "stdin": None, "env": {}}
    _, frames = container(inputs("command", "command:run", payload))
    ended = next(frame.fields for frame in frames if frame.kind == "ended")
    assert ended["code"] is not None and "/opt/owner/bin/no-such-thing" in ended["message"]


def test_an_outcome_is_kept_and_told_again(container, inputs, tmp_path) -> None:
    """The same, and nothing else lies there; what is a week old has been removed."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "old").write_text("x")
    os.utime(volume / "old", (0, 0))
    status, frames = container(inputs("echo", "echo:run", {"x": "y" * 20_000}), volume / "job")
    assert status == 0 and told(frames) == ([None], {"x": "y" * 20_000})
    assert [path.name for path in volume.iterdir()] == ["job"]
    status, again = container("--recover", volume / "job")
    assert (status, told(again)) == (0, told(frames))


def test_nothing_kept_is_an_exit_status(container, tmp_path) -> None:
    """There is no outcome to tell."""
    assert container("--recover", tmp_path / "none") == (1, [])


def test_a_volume_that_cannot_keep_it_costs_only_that(container, inputs, tmp_path) -> None:
    """The outcome comes by the log, and what went wrong in the output."""
    status, frames = container(inputs("echo", "echo:run", {"x": 1}), tmp_path / "none" / "job")
    assert status == 0 and told(frames) == ([None], {"x": 1})
    printed = b"".join(frame.data for frame in frames if frame.kind == "printed")
    assert b"result volume" in printed
