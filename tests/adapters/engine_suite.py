"""The suite of all pool types, as it applies to pools on an engine, and what their tests share."""

import json
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest
from conformance import Conformance
from stage import children, lines, until

from mcp_pools.adapter import Waits

pytestmark = pytest.mark.anyio

ALONE = "a task of an engine is one launch: no other lies behind it"


ORDINARY = (
    "test_a_result_comes_back_as_it_was",
    "test_a_launch_is_started_before_it_ends",
    "test_an_exception_is_a_task_error_with_its_words",
    "test_a_handler_that_is_not_there_is_a_task_error",
    "test_progress_and_output_arrive_in_order_before_the_end",
    "test_a_running_launch_can_be_cancelled",
    "test_cancelling_what_is_unknown_or_over_does_nothing",
    "test_a_launch_that_runs_over_its_timeout_is_ended",
    "test_slots_given_back_are_free_again",
    "test_a_pool_never_reserves_more_than_it_may_hold",
    "test_a_fresh_pool_is_healthy",
    "test_a_burst_of_short_launches_all_end_and_run_once",
    "test_a_long_launch_does_not_hold_up_short_ones",
)
"""Cases for any pool that has just been opened with room for two; the same one does for all of them."""


class Opened:
    """Stands for a fixture `stage` whose pools are all the same one, which is open already."""

    def __init__(self, pool):
        self.pool = pool

    def __call__(self, **_):
        """The pool."""
        return self

    @asynccontextmanager
    async def open(self):
        """The pool, as it is."""
        yield self.pool


class EngineConformance(Conformance):
    """Tasks of a cluster with room for two, as any other launches."""

    ahead = 1
    burst = 4
    short = 4
    warm = 1

    async def test_the_ordinary_cases(self, stage, tmp_path) -> None:
        """On one pool: a link takes the better part of a second to have its library."""
        async with stage(size=(2, 2)).open() as pool:
            for name in ORDINARY:
                case = getattr(Conformance, name)
                given = {"tmp_path": tmp_path / name} if "tmp_path" in signature(case).parameters else {}
                (tmp_path / name).mkdir()
                await case(self, Opened(pool), **given)

    async def test_a_launch_that_has_not_started_can_be_cancelled(self, stage, tmp_path) -> None:
        """The cluster has no thread for it, so it never runs."""
        payload = {"until": str(tmp_path / "go"), "to": str(tmp_path / "taken"), "word": "taken"}
        async with stage().open() as other, stage(size=(1, 1)).open() as pool:
            for _ in range(2):
                await other.start("wait", payload)
            await until(lambda: len(lines(tmp_path / "taken")) == 2)
            pool.pool.patience = 0.01
            attempt = await pool.start("echo", {"to": str(tmp_path / "marks"), "word": "ran"})
            await until(lambda: pool.of(attempt, Waits))
            await pool.pool.cancel(attempt)
            assert (await pool.end(attempt)).code == "cancelled"
            (tmp_path / "go").touch()
            for launch in other.launched:
                await other.end(launch.attempt_id)
            assert not lines(tmp_path / "marks")

    async def test_cancelling_the_running_one_spares_those_behind_it(self) -> None:
        """Nothing lies behind."""
        pytest.skip(ALONE)

    async def test_stopping_ends_everything(self, stage, tmp_path) -> None:
        """Of what runs here; what runs on the cluster goes on, and the next owner has its result."""
        first = stage(size=(1, 1))
        async with first.open() as pool:
            payload = {"to": str(tmp_path / "marks"), "word": "ran", "until": str(tmp_path / "go")}
            attempt = await pool.start("wait", payload)
            await until(lambda: lines(tmp_path / "marks"))
        orphans, first.launched = first.launched, []
        second = stage(size=(1, 1))
        async with second.open(orphans=orphans) as pool:
            (tmp_path / "go").touch()
            assert json.loads((await pool.end(attempt)).result) == "waited"
        second.launched = orphans
        assert lines(tmp_path / "marks") == ["ran"]

    async def orphan(self, stage):
        """As the suite's, from one pool for all."""
        if not hasattr(self, "ran"):
            async with (other := stage()).open() as pool:
                for _ in range(3):
                    await pool.run("echo")
            self.ran = other.launched
        return replace(self.ran[len(self.ran) - 1 - self.given()], worker="nobody-1-00000000")

    def given(self):
        """How many orphans were given before."""
        self.count = getattr(self, "count", -1) + 1
        return self.count


async def waiting(pool, tmp_path):
    """A launch that runs until the file `go` is there."""
    payload = {"to": str(tmp_path / "marks"), "word": "ran", "until": str(tmp_path / "go")}
    attempt = await pool.start("wait", payload)
    await until(lambda: lines(tmp_path / "marks") and pool.of(attempt))
    return attempt


def parent(pid):
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def links():
    """The links of this process."""
    return [
        pid for pid in children(os.getpid()) if b"mcp_pools.link" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


for name in ORDINARY:
    setattr(EngineConformance, name, None)  # not once more, each on a pool of its own
