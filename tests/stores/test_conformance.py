"""Every store, through the same suite; and each against a model of the contract in memory."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from stores.conformance import *  # noqa: F403
from stores.conformance import NOW, a_task, an_event, keep, opened
from stores.distribution_conformance import *  # noqa: F403
from stores.implementations import IMPLEMENTATIONS, SQLITE, Make
from stores.search_conformance import *  # noqa: F403

from mcp_pools.states import TERMINAL
from mcp_pools.store import Accept, RequestCancel, TaskRow, Update

pytestmark = pytest.mark.anyio
CHANGING = ("status", "attempt", "launch", "worker", "finished_at", "result")


@pytest.fixture(params=SQLITE)
def implementation(request: pytest.FixtureRequest) -> str:
    """A store's name."""
    return str(request.param)


@pytest.fixture
def make(implementation: str) -> Make:
    """Makes that store for a home."""
    return IMPLEMENTATIONS[implementation]


@pytest.fixture
async def store(make: Make, home: Path) -> AsyncIterator[Any]:
    """It, open."""
    async with opened(make, home) as store:
        yield store


class AgainstAModel(RuleBasedStateMachine):
    """Random changes to a store and to a dict; both must tell the same, always.

    1. An update is kept when its fence is the task's launch and the task has not ended.
    2. Repeating a change that was kept is answered `True` and changes nothing.
    3. Exactly the changes that were kept have their event, in their order.
    """

    make: Make

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp(prefix="mp-"))
        self.model: dict[str, TaskRow] = {}
        self.events: list[int] = []
        self.keys: dict[str, str] = {}
        self.last: Accept | Update | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def event(self) -> Any:
        self.count = getattr(self, "count", 0) + 1
        return an_event(data={"n": self.count})

    @initialize()
    def open(self) -> None:
        """A first owner."""
        self.store = self.make(self.home)
        self.run(self.store.open())

    @rule(key=st.none() | st.sampled_from("abc"), size=st.sampled_from([0, 5, 5000]))
    def accept(self, key: str | None, size: int) -> None:
        """A new task; refused when its key is taken."""
        row = a_task(f"t_{len(self.model):04}", idempotency_key=key, payload=b"p" * size)
        change = Accept(row, self.event())
        free = key is None or key not in self.keys
        assert self.run(keep(self.store, change)) is free
        if free:
            self.model[row.task_id] = replace(row)
            self.kept(change)
            if key is not None:
                self.keys[key] = row.task_id

    @rule(
        number=st.integers(0, 4),
        off=st.sampled_from([0, 0, 0, -1, 1]),
        relaunch=st.booleans(),
        status=st.sampled_from(["queued", "running", "running", "completed", "failed"]),
        worker=st.sampled_from("xy"),
    )
    def update(self, number: int, off: int, relaunch: bool, status: Any, worker: str) -> None:
        """Any update of any task, under any fence."""
        task_id = f"t_{number:04}"
        known = self.model.get(task_id, a_task(task_id))
        end = NOW if status in TERMINAL else None
        row = replace(known, status=status, worker=worker, finished_at=end, launch=known.launch + relaunch)
        change = Update(row, known.launch + off, self.event())
        if task_id in self.model and row == known:
            return  # what is there already: whether it is a repetition depends on who wrote it
        may = task_id in self.model and off == 0 and known.status not in TERMINAL
        assert self.run(keep(self.store, change)) is may
        if may:
            self.model[task_id] = row
            self.kept(change)

    @rule()
    def repeat(self) -> None:
        """The latest change that was kept, once more."""
        if self.last is not None:
            assert self.run(keep(self.store, self.last)) is True

    @rule(number=st.integers(0, 4))
    def request_cancel(self, number: int) -> None:
        """An intent to cancel; the first time counts."""
        task_id = f"t_{number:04}"
        at = NOW + len(self.events)
        self.run(keep(self.store, RequestCancel(task_id, at)))
        known = self.model.get(task_id)
        if known is not None and known.cancel_requested_at is None:
            known.cancel_requested_at = at

    @rule()
    def reopen(self) -> None:
        """The next owner."""
        self.run(self.store.close())
        self.open()
        self.last = None

    def kept(self, change: Accept | Update) -> None:
        assert change.event is not None
        self.events.append(change.event.data["n"])
        self.last = change

    @invariant()
    def both_tell_the_same(self) -> None:
        """Tasks, those that have not ended, and events."""
        if not hasattr(self, "store"):
            return
        for task_id, row in self.model.items():
            assert self.run(self.store.task(task_id)) == row
        open_ids = [task_id for task_id, row in sorted(self.model.items()) if row.finished_at is None]
        assert [row.task_id for row in self.run(self.store.unfinished())] == open_ids
        told = [event.data["n"] for _, event in self.run(self.store.events(limit=10_000))]
        assert told == self.events

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.home)


@pytest.fixture
def examples() -> int:
    """How many sequences of changes are tried."""
    return 20


def test_a_store_tells_what_a_model_of_the_contract_tells(make: Make, examples: int) -> None:
    """After any sequence of changes, refusals, repetitions and owners."""
    machine = type("Machine", (AgainstAModel,), {"make": staticmethod(make)})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25))
