"""A plain function becomes a task type."""

from pathlib import Path

import pytest

from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute

pytestmark = pytest.mark.anyio


async def test_a_marked_function_runs_like_any_other_type(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`task_modules` names its module (here `greeting.py`, beside this file); its signature is checked."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)  # an installed module needs neither line

    async with Router.open(settings.model_copy(update={"task_modules": ["greeting"]})) as router:
        task = await pool_execute(router, task_type="greet", payload={"name": "Ada"})

        assert task.result == "Hello, Ada! "
        assert task.output_tail == "greeting Ada\n"
