"""What every pool type must keep, written against `mcp_pools.adapter` alone.

`Conformance` is a test class without a pool type: a subclass says with `make` what it is
about, and that its launches can import `hostile` and see this machine's disk.
"""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest
from stage import Stage, carrying, lines, until

from mcp_pools.adapter import Ended, Progressed, Returned, Started

pytestmark = pytest.mark.anyio


class Conformance:
    """One suite for all pool types."""

    ahead = 32
    """Launches that one worker may hold at most."""
    burst = 2000
    """Short launches that a pool is given at once."""
    warm = 20
    """Launches after which a pool knows how long they usually take."""
    short = 200
    """Short launches that run beside a long one."""

    def make(self, spec, surroundings):
        """The pool type."""
        raise NotImplementedError

    @pytest.fixture
    def stage(self, tmp_path):
        """Makes pools of this type; at the end, every launch has had one outcome, and nothing is left."""
        made = []

        def build(**options):
            made.append(Stage(self.make, tmp_path / "pool", **options))
            return made[-1]

        yield build
        for each in made:
            each.assert_one_outcome_each()
            assert not carrying(each.mark, f"t_{each._tag}")

    async def test_a_result_comes_back_as_it_was(self, stage) -> None:
        """Text, numbers, nesting: JSON in, JSON out."""
        payload = {"text": "é\u0000\n", "list": [1, 2.5, None, True], "nested": {"a": {}}}
        async with stage().open() as pool:
            ended = await pool.run("echo", payload)
        assert ended.code is None and json.loads(ended.result) == payload

    async def test_a_launch_is_started_before_it_ends(self, stage) -> None:
        """And each of both is said once."""
        async with stage().open() as pool:
            attempt = await pool.start("echo", {})
            await pool.end(attempt)
            assert [type(event) for event in pool.of(attempt)] == [Started, Ended]

    async def test_an_exception_is_a_task_error_with_its_words(self, stage) -> None:
        """Type and text."""
        async with stage().open() as pool:
            ended = await pool.run("fail", {"words": "too bad"})
            assert (ended.code, ended.result) == ("task_error", None)
            assert "ValueError" in self.words(ended) and "too bad" in self.words(ended)

    def words(self, ended):
        """What the handler said of its failure."""
        return ended.message

    async def test_a_handler_that_is_not_there_is_a_task_error(self, stage) -> None:
        """A module that cannot be imported, a function that is missing."""
        async with stage().open() as pool:
            assert (await pool.run("nothing")).code == "task_error"
            assert (await pool.run("nothing", module="no_such_module")).code == "task_error"
            assert (await pool.run("echo")).code is None

    async def test_progress_and_output_arrive_in_order_before_the_end(self, stage) -> None:
        """Nothing of a launch follows its end."""
        async with stage().open() as pool:
            attempt = await pool.start("steps", {"count": 50})
            await pool.end(attempt)
            assert [event.done for event in pool.of(attempt, Progressed)] == list(range(1, 51))
            assert pool.printed(attempt).decode() == "".join(f"{number}," for number in range(50))
            assert isinstance(pool.of(attempt)[-1], Ended)

    async def test_the_same_launch_twice_runs_once(self, stage, tmp_path) -> None:
        """While it runs, and while it waits behind another."""
        async with stage(size=(1, 1)).open() as pool:
            payload = {"to": str(tmp_path / "marks"), "word": "run", "until": str(tmp_path / "go")}
            attempt = await pool.start("wait", payload)
            pool.pool.launch([pool.launched[0]])
            await until(lambda: lines(tmp_path / "marks"))
            pool.pool.launch([pool.launched[0]])
            (tmp_path / "go").touch()
            await pool.end(attempt)
            assert (await pool.run("echo")).code is None
            assert lines(tmp_path / "marks") == ["run"]

    async def test_a_running_launch_can_be_cancelled(self, stage, tmp_path) -> None:
        """Its end says so, and when it does nothing of it runs any more."""
        async with stage().open() as pool:
            attempt = await pool.start("daemonise", {"to": str(tmp_path / "pid"), "then": "spin"})
            daemon = (await until(lambda: lines(tmp_path / "pid")))[0]
            await pool.pool.cancel(attempt)
            assert (await pool.end(attempt)).code == "cancelled"
            assert not carrying(attempt) and not (await asyncio.to_thread(_runs, daemon))
            assert (await pool.run("echo")).code is None

    async def test_a_launch_that_has_not_started_can_be_cancelled(self, stage, tmp_path) -> None:
        """It never runs; the one before it goes on."""
        async with stage(size=(1, 1)).open() as pool:
            first, second = await self.two_on_one_worker(pool, tmp_path)
            await pool.pool.cancel(second)
            ended = await pool.end(second)
            assert isinstance(ended, Returned) or ended.code == "cancelled"
            (tmp_path / "go").touch()
            assert (await pool.end(first)).code is None
            assert lines(tmp_path / "marks") == ["first"]

    async def test_cancelling_the_running_one_spares_those_behind_it(self, stage, tmp_path) -> None:
        """They go back unstarted, or run."""
        async with stage(size=(1, 1)).open() as pool:
            first, second = await self.two_on_one_worker(pool, tmp_path)
            await pool.pool.cancel(first)
            assert (await pool.end(first)).code == "cancelled"
            behind = await pool.end(second)
            ran = not isinstance(behind, Returned)
            assert not ran or behind.code is None
            assert lines(tmp_path / "marks") == ["first"] + ["second"] * ran

    async def two_on_one_worker(self, pool, tmp_path):
        """A launch that waits for the file `go`, and one behind it where the pool takes such."""
        while len(slots := pool.pool.reserve(2)) < 2:
            for slot in slots:
                slot.give_back()
            await pool.run("echo")
        marks = str(tmp_path / "marks")
        payload = {"to": marks, "word": "first", "until": str(tmp_path / "go")}
        first = pool.launch(slots[0], "wait", payload)
        second = pool.launch(slots[1], "echo", {"to": marks, "word": "second"})
        await until(lambda: lines(marks))
        return first, second

    async def test_cancelling_what_is_unknown_or_over_does_nothing(self, stage) -> None:
        """No error, no second outcome."""
        async with stage().open() as pool:
            await pool.pool.cancel("t_unknown.1")
            attempt = await pool.start("echo")
            await pool.end(attempt)
            await pool.pool.cancel(attempt)
            assert (await pool.run("echo")).code is None

    async def test_a_launch_that_runs_over_its_timeout_is_ended(self, stage) -> None:
        """With its own code; the pool goes on."""
        async with stage().open() as pool:
            assert (await pool.run("spin", timeout=0.1)).code == "timeout"
            assert (await pool.run("echo")).code is None

    async def test_slots_given_back_are_free_again(self, stage) -> None:
        """As often as one likes."""
        async with stage(size=(1, 2)).open() as pool:
            for _ in range(100):
                slots = pool.pool.reserve(1000)
                assert slots
                for slot in slots:
                    slot.give_back()
            assert (await pool.run("echo")).code is None

    async def test_a_pool_never_reserves_more_than_it_may_hold(self, stage) -> None:
        """Workers times what each may hold, whatever it is asked for."""
        async with stage(size=(1, 2)).open() as pool:
            for _ in range(self.warm):
                await pool.run("echo")
            slots = []
            while more := pool.pool.reserve(1000):
                slots += more
            assert len(slots) <= 2 * self.ahead
            assert len({slot.worker for slot in slots}) <= 2
            assert len({(slot.worker, slot.seq) for slot in slots}) == len(slots)
            for slot in slots:
                slot.give_back()

    async def test_stopping_ends_everything(self, stage, tmp_path) -> None:
        """Running launches end as interrupted, unstarted ones go back, daemons die."""
        subject = stage(size=(1, 1))
        async with subject.open() as pool:
            first, second = await self.two_on_one_worker(pool, tmp_path)
        assert [each.code for each in subject.ends(first)] == ["interrupted"]
        assert isinstance(subject.ends(second)[0], Returned)
        assert not carrying(subject.mark, first)

    async def test_a_pool_opens_again_where_it_was_closed(self, stage) -> None:
        """Nothing of its first life is in the way."""
        for _ in range(2):
            async with stage().open() as pool:
                assert (await pool.run("echo")).code is None

    async def test_every_orphan_gets_one_verdict(self, stage) -> None:
        """Whatever the pool still knows of it."""
        subject = stage()
        slots = [await self.orphan(stage) for _ in range(3)]
        async with subject.open(orphans=slots):
            await until(lambda: len(subject.outcomes()) == 3)
        assert set(subject.outcomes()) == {launch.attempt_id for launch in slots}
        subject.launched = slots

    async def orphan(self, stage):
        """A launch of a worker nobody knows."""
        other = stage()
        async with other.open() as pool:
            await pool.run("echo")
        return replace(other.launched[0], worker="nobody-1-00000000")

    async def test_a_fresh_pool_is_healthy(self, stage) -> None:
        """Before, while and after it works."""
        async with stage().open() as pool:
            assert await pool.pool.health() == ("healthy", None)
            await pool.run("echo")
            assert await pool.pool.health() == ("healthy", None)

    async def test_a_burst_of_short_launches_all_end_and_run_once(self, stage, tmp_path) -> None:
        """As fast as the pool takes them."""
        marks = tmp_path / "marks"
        async with stage(size=(2, 2)).open() as pool:
            await pool.carry_out([("echo", {"to": str(marks), "word": str(n)}) for n in range(self.burst)])
            assert Counter(lines(marks)) == Counter(map(str, range(self.burst)))

    async def test_a_long_launch_does_not_hold_up_short_ones(self, stage, tmp_path) -> None:
        """Those behind it run elsewhere, while it still waits."""
        marks, go = tmp_path / "marks", tmp_path / "go"
        async with stage(size=(1, 2)).open() as pool:
            await pool.carry_out([("echo", {})] * (self.short // 4))
            jobs = [("wait", {"until": str(go)})]
            jobs += [("echo", {"to": str(marks), "word": str(n)}) for n in range(self.short)]
            work = asyncio.create_task(pool.carry_out(jobs))
            await until(lambda: len(lines(marks)) == self.short)
            go.touch()
            await work
            assert Counter(lines(marks)) == Counter(map(str, range(self.short)))


def _runs(pid):
    from stage import alive

    return alive(int(pid))
