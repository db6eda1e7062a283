"""`command` runs one program without a shell and tells everything about how it ended."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.program import TAIL_BYTES
from mcp_pools.task_types import command
from mcp_pools.task_types.programs import COMMAND, CommandResult


def python(context: Any, code: str, **payload: Any) -> dict[str, Any]:
    """The result of running a Python program, which always fits its model."""
    result = command.run({"argv": [sys.executable, "-c", code], **payload}, context)
    CommandResult.model_validate(result)
    return result


def failure(context: Any, code: str) -> PoolsError:
    """The error of a Python program that fails."""
    with pytest.raises(PoolsError) as error:
        python(context, code)
    assert error.value.code == "task_error"
    return error.value


def test_output_is_streamed_and_returned(context: Any) -> None:
    """Both streams reach the context as they come, and the result apart."""
    result = python(context, "import sys; print('out', flush=True); print('err', file=sys.stderr)")
    assert result == {
        "exit_code": 0,
        "stdout": "out\n",
        "stdout_bytes": 4,
        "stdout_truncated": False,
        "stderr": "err\n",
        "stderr_bytes": 4,
        "stderr_truncated": False,
    }
    assert sorted(context.printed.splitlines()) == [b"err", b"out"]


def test_no_shell_parses_the_arguments(context: Any) -> None:
    """They arrive as they were written."""
    words = ["$HOME", "a b", "; exit 1", "*", "'"]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    result = command.run({"argv": [sys.executable, "-c", code, *words]}, context)
    assert result["stdout"] == '["$HOME", "a b", "; exit 1", "*", "\'"]\n'


def test_a_nonzero_exit_is_a_failure_that_keeps_the_output(context: Any) -> None:
    """The error's details hold what the result would have held."""
    error = failure(context, "import sys; print('o'); print('e', file=sys.stderr); sys.exit(3)")
    assert error.message == f"{sys.executable!r} exited with status 3."
    details = error.details
    assert (details["exit_code"], details["stdout"], details["stderr"]) == (3, "o\n", "e\n")


def test_a_signal_is_named(context: Any) -> None:
    """`SIGKILL` is what the kernel sends when memory ends."""
    error = failure(context, f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    assert "killed by SIGKILL (9)" in error.message and error.details["exit_code"] == -9


def test_output_that_is_not_text_never_fails(context: Any) -> None:
    """Bytes that are not UTF-8 are replaced in the result and kept in the stream."""
    result = python(context, "import os; os.write(1, b'a\\xff\\x00b')")
    assert result["stdout"] == "a\ufffd\0b" and context.printed == b"a\xff\x00b"


def test_a_long_output_keeps_its_end(context: Any) -> None:
    """The last 64 KiB, cut between characters, with the full count."""
    result = python(context, "print('é' * 200_000 + '!', end='')")
    assert result["stdout_truncated"] and result["stdout_bytes"] == 400_001
    assert set(result["stdout"]) == {"é", "!"} and result["stdout"].endswith("é!")
    assert 65_000 < len(result["stdout"].encode()) <= TAIL_BYTES


def test_large_input_and_output_do_not_block_each_other(context: Any) -> None:
    """More than any pipe holds goes in while as much comes out."""
    code = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stderr.write(line)"
    result = python(context, code, stdin="0123456789abcde\n" * 200_000)
    assert result["stdout_bytes"] == result["stderr_bytes"] == 3_200_000


def test_a_program_need_not_read_its_input(context: Any) -> None:
    """One that ends, or closes its input, before it read everything has not failed."""
    assert python(context, "", stdin="x" * 1_000_000)["exit_code"] == 0
    assert python(context, "import os; os.close(0); print('on')", stdin="x" * 1_000_000)["stdout"] == "on\n"


@pytest.mark.parametrize("payload", [{}, {"stdin": None}, {"stdin": ""}])
def test_without_text_the_input_is_empty(context: Any, payload: dict[str, Any]) -> None:
    """A program that reads never waits for a terminal."""
    assert python(context, "import sys; print(repr(sys.stdin.read()))", **payload)["stdout"] == "''\n"


def test_the_environment_is_the_contexts_and_the_payloads(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process's own variables stay here."""
    monkeypatch.setenv("OWNERS_CREDENTIAL", "x")
    result = python(context, "import os; print(sorted(os.environ))", env={"APP_MODE": "test"})
    names = set(eval(result["stdout"])) - {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
    assert names == {"PATH", "MCP_POOLS_ATTEMPT", "APP_MODE"}


def test_it_runs_in_the_callers_directory_or_another_allowed_one(context: Any, tmp_path: Path) -> None:
    """`cwd` decides, and is judged once more here."""
    (tmp_path / "sub").mkdir()
    code = "import os; print(os.getcwd())"
    assert python(context, code)["stdout"].strip() == context.cwd
    assert python(context, code, cwd=f"{context.cwd}/sub")["stdout"].strip() == f"{context.cwd}/sub"
    (tmp_path / "sub").rmdir()
    (tmp_path / "sub").symlink_to("/")
    with pytest.raises(PoolsError) as error:
        python(context, code, cwd=f"{context.cwd}/sub")
    assert error.value.code == "not_allowed"


def test_a_process_left_behind_does_not_hold_up_the_result(context: Any) -> None:
    """It keeps the pipes open; the task ends with its program, and what that wrote is there."""
    code = """
import os, signal, sys
child = os.fork()
if child == 0:
    signal.pause()
print(child)
"""
    result = python(context, code)
    os.kill(int(result["stdout"]), signal.SIGKILL)  # it was there until now


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda file: None, "has vanished"),
        (lambda file: file.write_text("#!/does/not/exist\n"), "interpreter"),
        (lambda file: file.write_bytes(b"\x01\x02"), "Exec format error"),
    ],
)
def test_a_program_that_cannot_start_says_why(
    context: Any, tmp_path: Path, prepare: Any, message: str
) -> None:
    """It may have changed since the task was accepted."""
    program = tmp_path / "program"
    prepare(program)
    if program.exists():
        program.chmod(0o755)
    with pytest.raises(PoolsError, match=message) as error:
        command.run({"argv": [str(program)]}, context)
    assert error.value.code == "task_error"


def test_a_directory_that_is_gone_says_so(context: Any, tmp_path: Path) -> None:
    """The program is not blamed for it."""
    with pytest.raises(PoolsError, match=r"directory .* does not exist"):
        python(context, "", cwd=str(tmp_path / "gone"))


def test_the_judge_pins_the_program_and_the_directory(tmp_path: Path) -> None:
    """Relative directories start at the caller's, and outside the roots only that one itself will do."""
    cwd = str(tmp_path.resolve())
    (tmp_path / "sub").mkdir()
    judge = Judge(Allow(commands=("sh",), env=("APP_*",)), (f"{cwd}/sub",), cwd)
    assert COMMAND.check is not None
    stored = COMMAND.check({"argv": ["sh", "-c", ":"], "env": {"APP_A": {"$secret": "S"}}}, judge)
    assert stored["cwd"] == cwd and stored["argv"][0].endswith("/sh") and stored["argv"][0][0] == "/"
    assert COMMAND.check({"argv": ["sh"], "cwd": "sub"}, judge)["cwd"] == f"{cwd}/sub"
    for payload, key in [
        ({"argv": ["sh"], "cwd": "/etc"}, "roots"),
        ({"argv": ["ls"]}, "commands"),
        ({"argv": ["sh"], "env": {"LD_PRELOAD": "x"}}, "env"),
    ]:
        with pytest.raises(PoolsError, match=f"allow.{key} "):
            COMMAND.check(payload, judge)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"argv": []},
        {"argv": "ls -l"},
        {"argv": ["ls"], "shell": True},
        {"argv": ["ls"], "stdin": {"a": "b"}},
    ],
)
def test_a_payload_is_a_list_of_words(payload: dict[str, Any]) -> None:
    """A command line as one text is refused: there is no shell to split it."""
    with pytest.raises(ValidationError):
        COMMAND.payload.model_validate(payload)
