"""`process` runs one command for each item and keeps going whatever becomes of one."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import process
from mcp_pools.task_types.programs import PROCESS, ProcessResult

SHOW = "import json, sys; print(json.dumps(sys.argv[1:]))"


def outcomes(context: Any, items: list[Any], *argv: str, **payload: Any) -> list[dict[str, Any]]:
    """The outcomes of a Python program, which always fit their model."""
    result = process.run({"items": items, "argv": [sys.executable, *argv], **payload}, context)
    ProcessResult.model_validate(result)
    return list(result["items"])


def check(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """What is stored of a payload."""
    assert PROCESS.check is not None
    return PROCESS.check(PROCESS.payload.model_validate(payload).model_dump(), judge)


def test_each_item_has_its_own_command(context: Any) -> None:
    """No shell parses what is filled in, and progress counts the items."""
    items: list[Any] = ["a b", "$HOME; exit", "{item}", 7, None, {"k": [1]}]
    found = outcomes(context, items, "-c", SHOW, "{item}", "<{item}>")
    texts = ["a b", "$HOME; exit", "{item}", "7", "null", '{"k":[1]}']
    assert [eval(outcome["result"]["stdout"]) for outcome in found] == [[t, f"<{t}>"] for t in texts]
    assert context.said == [(done, 6, None) for done in range(7)]


def test_values_of_an_item_are_filled_in_by_key(context: Any) -> None:
    """At any depth; other braces are the program's own."""
    found = outcomes(context, [{"a": {"b": "x"}, "n": 1}], "-c", SHOW, "{item.a.b}-{item.n}", "{}", "{items}")
    assert eval(found[0]["result"]["stdout"]) == ["x-1", "{}", "{items}"]


def test_one_failing_item_does_not_fail_the_rest(context: Any) -> None:
    """Its error says how it ended and what it said."""
    first, second, third = outcomes(
        context, [0, 3, 0], "-c", "import sys; sys.exit(int(sys.argv[1]))", "{item}"
    )
    assert first["result"]["exit_code"] == third["result"]["exit_code"] == 0
    assert second["error"]["code"] == "task_error" and "status 3" in second["error"]["message"]
    assert second["error"]["details"]["exit_code"] == 3


def test_no_items_run_nothing(context: Any) -> None:
    """An empty list is a list."""
    assert outcomes(context, [], "-c", "{item}") == []


def test_many_long_outputs_still_make_a_result(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more items, the less of each output is kept; all of it is streamed."""
    monkeypatch.setattr(process, "KEPT_BYTES", 8192)
    found = outcomes(context, [1, 2], "-c", "print('x' * 10_000, end='')")
    for outcome in found:
        assert len(outcome["result"]["stdout"]) == 2048 and outcome["result"]["stdout_truncated"]
    assert len(context.printed) == 20_000


def test_the_judge_sees_every_items_whole_command(tmp_path: Path) -> None:
    """What is filled in is judged; one item that is not allowed refuses the task."""
    judge = Judge(Allow(commands=("echo *.txt",)), (), str(tmp_path))
    payload = {"items": ["a.txt", {"name": "b.txt"}], "argv": ["echo", "{item}"]}
    with pytest.raises(PoolsError, match=r"allow\.commands ") as error:
        check(payload, judge)
    assert "b.txt" in error.value.message
    stored = check({**payload, "items": ["a.txt", "b.txt"]}, judge)
    assert stored["argv"][0].startswith("/") and stored["argv"][1] == "{item}"
    assert check(stored, judge) == stored


def test_the_directory_and_the_variables_are_judged(tmp_path: Path) -> None:
    """As those of `command` are."""
    judge = Judge(Allow(commands=("echo",)), (str(tmp_path.resolve()),), str(tmp_path))
    payload = {"items": [1], "argv": ["echo"]}
    assert check(payload, judge)["cwd"] == str(tmp_path.resolve())
    for more, key in [({"cwd": "/"}, "roots"), ({"env": {"LD_PRELOAD": "x"}}, "env")]:
        with pytest.raises(PoolsError, match=rf"allow\.{key} "):
            check({**payload, **more}, judge)


def test_an_item_that_lacks_a_key_is_refused_before_it_is_queued(tmp_path: Path) -> None:
    """The refusal shows the item."""
    judge = Judge(Allow(commands=("*",)), (), str(tmp_path))
    with pytest.raises(PoolsError, match=r"\{'a': 1\} has no 'b'") as error:
        check({"items": [{"a": 1}], "argv": ["echo", "{item.b}"]}, judge)
    assert error.value.code == "invalid_payload"


def test_a_program_that_depends_on_the_item_is_named_by_its_whole_path(tmp_path: Path) -> None:
    """What was judged is what runs: a name could mean another file by then."""
    judge = Judge(Allow(commands=("*",)), (), str(tmp_path))
    with pytest.raises(PoolsError, match="absolute real path"):
        check({"items": ["echo"], "argv": ["{item}"]}, judge)
    whole = judge.command(["echo"], "/")[0]
    assert check({"items": [whole], "argv": ["{item}"]}, judge)["argv"] == ["{item}"]


@pytest.mark.parametrize("payload", [{"items": [1]}, {"argv": ["ls"]}, {"items": [1], "argv": []}])
def test_items_and_a_command_are_both_needed(payload: dict[str, Any]) -> None:
    """There is nothing to guess them from."""
    with pytest.raises(ValidationError):
        PROCESS.payload.model_validate(payload)
