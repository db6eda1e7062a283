"""The suite of all pool types, as it applies to pools on an engine, and what their tests share."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from conformance import Conformance
from stage import children, lines, until

pytestmark = pytest.mark.anyio

ALONE = "a task of an engine is one launch: no other lies behind it"


class EngineConformance(Conformance):
    """Tasks of a cluster with room for two, as any other launches."""

    ahead = 1
    burst = 4
    short = 4
    warm = 1

    async def test_a_launch_that_has_not_started_can_be_cancelled(self, stage, tmp_path) -> None:
        """The cluster has no thread for it, so it never runs."""
        payload = {"until": str(tmp_path / "go"), "to": str(tmp_path / "taken"), "word": "taken"}
        async with stage().open() as other, stage(size=(1, 1)).open() as pool:
            for _ in range(2):
                await other.start("wait", payload)
            await until(lambda: len(lines(tmp_path / "taken")) == 2)
            attempt = await pool.start("echo", {"to": str(tmp_path / "marks"), "word": "ran"})
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
