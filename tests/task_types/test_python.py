"""`python` calls a function that the configuration allows, in the worker."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import python
from mcp_pools.task_types.programs import PYTHON
from mcp_pools.tools import pool_execute

MODULE = """
import sys
LIMIT = 3
class Kind: pass
async def later(): return 1
def add(a, b=1): return {"sum": a + b}
def paths(): return sys.path
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that can be imported, by a name of its own."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/sums_of_test.py").write_text(MODULE)
    (tmp_path / "lib/broken_of_test.py").write_text("raise KeyError('at import')")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield "sums_of_test"
    sys.modules.pop("sums_of_test", None)


def call(context: Any, function: str, **kwargs: Any) -> Any:
    """The result of a function."""
    return python.run({"function": function, "kwargs": kwargs}, context)


def test_the_result_is_what_the_function_returns(context: Any, module: str) -> None:
    """Its arguments are given by name; functions written in C are functions, too."""
    assert call(context, f"{module}:add", a=1, b=2) == {"sum": 3}
    assert call(context, "statistics:mean", data=[1, 2, 3]) == 2
    assert call(context, "os:getpid") > 0


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("broken_of_test:f", "KeyError: 'at import'"),
        ("sums_of_test:missing", "has no 'missing'"),
        ("sums_of_test:LIMIT", "a value of type int"),
        ("sums_of_test:Kind", "class"),
        ("sums_of_test:later", "coroutine function"),
        ("sums_of_test:add", "missing a required argument: 'a'"),
    ],
)
def test_what_cannot_be_called_says_why(context: Any, module: str, function: str, reason: str) -> None:
    """And what to correct."""
    with pytest.raises(PoolsError, match=reason) as error:
        call(context, function)
    assert error.value.code == "task_error" and error.value.next


def test_the_functions_own_failure_is_not_dressed_up(context: Any, module: str) -> None:
    """The worker reports it, with its traceback in the output."""
    with pytest.raises(TypeError, match="can only concatenate"):
        call(context, f"{module}:add", a="x", b=1)


@pytest.mark.anyio
async def test_a_worker_runs_it_and_does_not_look_in_the_callers_directory(
    home: Path, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that lies where the agent was started is not found."""
    (tmp_path / "stranger_of_test.py").write_text("def f(): return 'ran'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    async with Router.open(Settings(home=home, allow=Allow(python=("*",)))) as router:
        task = await pool_execute(
            router, task_type="python", payload={"function": f"{module}:add", "kwargs": {"a": 1}}
        )
        assert task.result == {"sum": 2}
        task = await pool_execute(router, task_type="python", payload={"function": "stranger_of_test:f"})
        assert task.error is not None and "No module named 'stranger_of_test'" in task.error.message
        task = await pool_execute(router, task_type="python", payload={"function": f"{module}:paths"})
        assert isinstance(task.result, list) and str(tmp_path) not in task.result and "" not in task.result


def test_the_configuration_says_which_modules() -> None:
    """Nothing else is queued."""
    assert PYTHON.check is not None
    judge = Judge(Allow(python=("statistics",)), (), "/")
    payload = {"function": "statistics:mean", "kwargs": {"data": [1]}}
    assert PYTHON.check(payload, judge) == payload
    with pytest.raises(PoolsError, match=r"allow\.python "):
        PYTHON.check({"function": "os:getpid", "kwargs": {}}, judge)
    with pytest.raises(PoolsError, match=r"package\.module:name"):
        PYTHON.check({"function": "statistics.mean", "kwargs": {}}, judge)
