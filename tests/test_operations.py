"""What docs/operations.md has an operator do is done here, as it stands there."""

import re
import subprocess
from pathlib import Path

import pytest

from mcp_pools import Router, Settings
from mcp_pools.errors import CODES
from mcp_pools.tools import pool_execute, pool_register, pool_task

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
BACK_UP, RESTORE, CALL_OFF = re.findall(r"^```sh\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)


def typed(command: str, home: Path, where: Path) -> None:
    """A command of the page, typed by an operator of this home."""
    done = subprocess.run(
        ["sh", "-c", command],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "MCP_POOLS_HOME": str(home)},
        cwd=where,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("called_off", [False, True])
async def test_a_backup_taken_while_the_owner_works_is_restored(
    home: Path, tmp_path: Path, called_off: bool
) -> None:
    """What had ended is there as it was; what waited runs, or is cancelled where the operator said so."""
    old, new = home / "old", home / "new"
    limits = {"pools": {"one": {"concurrency": 1}}}  # what waits is not handed out ahead
    async with Router.open(Settings(home=old, limits=limits)) as router:
        await pool_register(router, name="one", type="local", max_workers=2)
        ended = await pool_execute(router, task_type="echo", payload={"x": 1})
        long = await pool_execute(router, task_type="sleep", payload={"seconds": 600}, wait=False)
        waits = await pool_execute(router, task_type="echo", payload={"x": 2}, wait=False)
        typed(BACK_UP, old, tmp_path)
    typed(RESTORE, new, tmp_path)
    if called_off:
        typed(CALL_OFF, new, tmp_path)
    async with Router.open(Settings(home=new, limits=limits)) as router:
        assert await pool_task(router, ended.task_id) == ended
        assert (await pool_task(router, long.task_id, wait_seconds=20)).status != "running"
        after = await pool_task(router, waits.task_id, wait_seconds=20)
    assert (after.status, after.result) == (("cancelled", None) if called_off else ("completed", {"x": 2}))


def test_every_error_has_its_line() -> None:
    """And none that there is not."""
    table = PAGE.partition("## What each error means")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row)} - {"error"}
    assert named == CODES
