"""The suite of all pool types for servers where a launch is a call, at a server of these tests."""

import json
from dataclasses import replace

import pytest
from conformance import Conformance
from stage import lines, until

from mcp_pools.adapter import Progressed

ALONE = "a place holds one launch, which is a call at once: none waits behind another"


def as_prompt(launch):
    """A launch as a prompt that names its handler and its payload."""
    said = json.dumps({"handler": launch.handler, "payload": json.loads(launch.payload)})
    return replace(launch, task_type="prompt", payload=json.dumps({"prompt": said}).encode())


class OneCallConformance(Conformance):
    """What such pools keep; a subclass says with `make` which it is."""

    ahead = 1
    burst = 100
    """Each is a call over HTTP."""
    warm = 2
    short = 50
    stops = True
    """Whether the work at the server ends when the call is given up."""
    confirms = False
    """Whether the server says so."""

    def words(self, ended):
        """What a server says stands in the details alone."""
        return ended.details["message"]

    async def waiting(self, pool, tmp_path):
        """A launch that has begun and does not end by itself; its attempt id."""
        payload = {"to": str(tmp_path / "marks"), "word": "began", "until": str(tmp_path / "go")}
        attempt = await pool.start("wait", payload)
        await until(lambda: lines(tmp_path / "marks"))
        return attempt

    async def stopped(self, tmp_path):
        """Returns once the work of that launch is over: at once where it can be stopped."""
        if not self.stops:
            assert lines(tmp_path / "marks") == ["began"]
            (tmp_path / "go").touch()
        else:
            await until(lambda: lines(tmp_path / "marks") == ["began", "stopped"])

    async def test_progress_and_output_arrive_in_order_before_the_end(self, stage) -> None:
        """Progress alone, where the server tells any: a call has no other output than its result."""
        async with stage().open() as pool:
            attempt = await pool.start("steps", {"count": 50})
            await pool.end(attempt)
            done = [event.done for event in pool.of(attempt, Progressed)]
            assert done == sorted(done) and len(done) <= 50
            assert pool.of(attempt)[-1] is pool.ends(attempt)[0] and not pool.printed(attempt)

    async def test_a_running_launch_can_be_cancelled(self, stage, tmp_path) -> None:
        """The call is given up; its end claims no more than the server says."""
        async with stage().open() as pool:
            attempt = await self.waiting(pool, tmp_path)
            await pool.pool.cancel(attempt)
            ended = await pool.end(attempt)
            assert (ended.code, ended.details) == ("cancelled", {} if self.confirms else {"confirmed": False})
            await self.stopped(tmp_path)
            assert (await pool.run("echo")).code is None

    async def test_stopping_ends_everything(self, stage, tmp_path) -> None:
        """What ran is interrupted, for nobody would hear of its end."""
        subject = stage()
        async with subject.open() as pool:
            attempt = await self.waiting(pool, tmp_path)
        assert [each.code for each in subject.ends(attempt)] == ["interrupted"]
        await self.stopped(tmp_path)

    @pytest.mark.skip(ALONE)
    async def test_a_launch_that_has_not_started_can_be_cancelled(self) -> None:
        """There is none."""

    @pytest.mark.skip(ALONE)
    async def test_cancelling_the_running_one_spares_those_behind_it(self) -> None:
        """There is none."""
