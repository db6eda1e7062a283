"""Two homes on one store in PostgreSQL: the owner is killed, or stopped for longer than its lease."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from stores.postgres_server import own_schema, served
from waiting import until

sys.path.insert(0, str(Path(__file__).parent))

from owning_postgres import settings, standing

from mcp_pools import Router
from mcp_pools.errors import PoolsError
from mcp_pools.tools import pool_task

pytestmark = pytest.mark.anyio

SCRIPT = Path(__file__).with_name("owning_postgres.py")


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    """A server for both."""
    with served() as url:
        yield url


class Owner:
    """The script, which owns the store; `ids` are of the task that runs and of those that wait."""

    def __init__(self, home: Path, url: str) -> None:
        (home / "first").mkdir()
        self.notes = home / "notes"
        command = [sys.executable, SCRIPT, home / "first", url, home / "gate", self.notes]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.line() == "open"
        self.ids = self.line().split()

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self) -> tuple[str, list[str]]:
        """What becomes of a new task, and how the others stand: `STATUS/WORKER/END`."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line(), self.line().split()

    def end(self) -> None:
        """No trace of it is left."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owner(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    """One whose first task runs."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    owner = Owner(home, own_schema(home))
    yield owner
    owner.end()


@asynccontextmanager
async def heir(home: Path) -> AsyncIterator[Router]:
    """A router of another home, as soon as the store lets it be one."""
    (home / "second").mkdir()
    tried = Router.open(settings(home / "second", own_schema(home)))

    async def entered() -> Router | None:
        nonlocal tried
        try:
            return await tried.__aenter__()
        except PoolsError as refused:
            assert refused.code == "conflict" and refused.retryable
            tried = Router.open(settings(home / "second", own_schema(home)))
            return None

    router = await until(entered, "the lease has run out")
    try:
        yield router
    finally:
        await tried.__aexit__(None, None, None)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_the_work_of_an_owner_goes_on_at_another_home(home: Path, owner: Owner, how: int) -> None:
    """What ran may have run, and says so; what waited runs, once. The former owner, once it goes on,
    changes nothing, is refused, and sees its tasks as they stand.
    """
    await until((home / "gate.1").exists, "the first task runs")
    owner.process.send_signal(how)
    async with heir(home) as router:
        tasks = [await pool_task(router, task_id=task_id, wait_seconds=20) for task_id in owner.ids]
        assert [task.status for task in tasks] == ["failed"] + ["completed"] * 5
        assert tasks[0].error is not None and tasks[0].error.code == "interrupted"
        (home / "gate").touch()
        if how == signal.SIGSTOP:
            owner.process.send_signal(signal.SIGCONT)
            refused, seen = owner.ask()
            assert refused == "conflict"
            assert seen == list(map(standing, tasks))
        assert [await pool_task(router, task_id=task_id) for task_id in owner.ids] == tasks
    assert owner.notes.read_text().split() == ["ran"] * 5
