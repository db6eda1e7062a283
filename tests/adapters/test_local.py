"""The local pool under handlers that misbehave, and under the loss of its own processes.

After each: one outcome with the right code, the next task is served, nothing is left.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
from stage import Stage, alive, carrying, children, end, lines, until

from mcp_pools.adapter import Ended, Printed, Progressed, Returned
from mcp_pools.adapters.local import AHEAD, LocalPool, options
from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec

pytestmark = pytest.mark.anyio

LIMIT = 200 << 20


@pytest.fixture
def stage(tmp_path):
    """Makes local pools; at the end, every launch has had one outcome, and nothing is left."""
    made = []

    def build(**given):
        made.append(Stage(LocalPool, tmp_path / "pool", **given))
        return made[-1]

    yield build
    for each in made:
        each.assert_one_outcome_each()
        assert not carrying(each.mark, f"t_{each._tag}")


async def serves(pool):
    """The next task is served as if nothing had been."""
    payload = {"text": "next"}
    ended = await pool.run("echo", payload)
    assert ended.code is None, ended
    assert json.loads(ended.result) == payload


# Handlers that misbehave.


@pytest.mark.parametrize(
    ("handler", "payload", "code"),
    [
        ("fork_child_returns", {}, None),
        ("fork_child_raises", {}, None),
        ("fork_child_stays", {}, None),
        ("sys_exit", {"status": 0}, "task_error"),
        ("sys_exit", {"status": "words"}, "task_error"),
        ("raise_named", {"name": "SystemExit"}, "task_error"),
        ("raise_named", {"name": "KeyboardInterrupt"}, "task_error"),
        ("raise_named", {"name": "GeneratorExit"}, "task_error"),
        ("raise_named", {"name": "RecursionError"}, "task_error"),
        ("raise_named", {"name": "MemoryError"}, "out_of_memory"),
        ("raise_unspeakable", {}, "task_error"),
        ("raise_surrogate", {}, "task_error"),
        ("raise_refusal", {}, "task_error"),
        ("exit_at_once", {"status": 0}, "worker_lost"),
        ("exit_at_once", {"status": 7}, "worker_lost"),
        ("killed", {"signal": int(signal.SIGSEGV)}, "worker_lost"),
        ("killed", {"signal": int(signal.SIGKILL)}, "worker_lost"),
        ("killed", {"signal": 40}, "worker_lost"),
        ("fail", {"words": "long " * 1_000_000}, "task_error"),
        ("result", {"kind": "set"}, "task_error"),
        ("result", {"kind": "nan"}, "task_error"),
        ("result", {"kind": "bytes"}, "task_error"),
        ("result", {"kind": "surrogate"}, "task_error"),
        ("result", {"kind": "circle"}, "task_error"),
        ("result", {"kind": "deep"}, "task_error"),
        ("result", {"kind": "key"}, "task_error"),
        ("result", {"kind": "object"}, "task_error"),
        ("close_descriptors", {}, "worker_lost"),
        ("close_output", {}, None),
        ("break_json", {}, None),
        ("bad_progress", {"kind": "nan"}, "task_error"),
        ("bad_progress", {"kind": "text"}, "task_error"),
        ("bad_progress", {"kind": "surrogate"}, None),
        ("print_raw", {}, None),
        ("print_forever_behind", {}, None),
        ("grow_pipe_and_die", {}, "worker_lost"),
    ],
)
async def test_a_handler_that_misbehaves_ends_once_with_its_code(stage, handler, payload, code) -> None:
    """And the pool serves the next task."""
    async with stage(size=(1, 1)).open() as pool:
        ended = await pool.run(handler, payload)
        assert ended.code == code, ended
        text = json.dumps([ended.message, ended.details], allow_nan=False, ensure_ascii=False)
        assert len(text.encode()) < 20_000
        await serves(pool)


@pytest.mark.parametrize("handler", ["spin", "hold_the_lock", "block_signals"])
@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_a_handler_that_never_returns_is_ended(stage, handler, how) -> None:
    """Whatever it blocks."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start(handler, timeout=0.2 if how == "timeout" else 60)
        await until(lambda: pool.of(attempt))
        if how == "cancelled":
            await pool.pool.cancel(attempt)
        assert (await pool.end(attempt)).code == how
        await serves(pool)


async def test_daemons_end_with_their_task(stage, tmp_path) -> None:
    """Also when it succeeds."""
    async with stage(size=(1, 1)).open() as pool:
        assert (await pool.run("daemonise", {"to": str(tmp_path / "pid")})).code is None
        assert not alive(int(lines(tmp_path / "pid")[0]))
        await serves(pool)


async def test_too_much_memory_in_the_handler(stage) -> None:
    """An allocation fails; the worker is replaced."""
    async with stage(size=(1, 1), memory=LIMIT).open() as pool:
        before = (await pool.run("echo")).code, pool.worker_ids()
        assert (await pool.run("eat_memory")).code == "out_of_memory"
        await serves(pool)
        assert before == (None, before[1]) and not before[1] & pool.worker_ids()


async def test_too_much_memory_in_children(stage) -> None:
    """Each is within the limit, their sum is not."""
    async with stage(size=(1, 1), memory=LIMIT).open() as pool:
        assert (await pool.run("children_eat_memory", {"each": LIMIT * 2 // 3})).code == "out_of_memory"
        await serves(pool)


# Output.


async def test_whatever_a_task_prints_is_its_output(stage) -> None:
    """From Python, from below, from children: in order."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("print_everywhere")
        assert (await pool.end(attempt)).code is None
        assert pool.printed(attempt) == b"python\nbelow\nerror\nchild\nshell\nlast\n"


async def test_megabytes_of_output_arrive_whole(stage) -> None:
    """In order, before the end."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("print_much", {"lines": 50_000})
        assert (await pool.end(attempt)).code is None
        printed = pool.printed(attempt).splitlines()
        assert [int(line[:7]) for line in printed] == list(range(50_000))


async def test_output_that_is_no_text_is_kept_as_it_came(stage) -> None:
    """And Python's own is UTF-8, whatever the machine speaks."""
    async with stage(size=(1, 1), environment={"LC_ALL": "C", "PYTHONUTF8": "0"}).open() as pool:
        attempt = await pool.start("print_raw")
        await pool.end(attempt)
        assert pool.printed(attempt) == b"\xff\xfe\x00ok\\ud800 \xc3\xa9\n"


async def test_the_last_words_of_a_lost_worker_are_kept(stage) -> None:
    """A thread may not have had the time to send them."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("grow_pipe_and_die")
        await pool.end(attempt)
        assert isinstance(pool.of(attempt)[-1], Ended) and pool.of(attempt, Printed)


async def test_output_goes_to_the_task_that_printed_it(stage) -> None:
    """Also when the one before it closed it all."""
    async with stage(size=(1, 1)).open() as pool:
        await pool.run("close_output")
        attempt = await pool.start("print_everywhere")
        assert (await pool.end(attempt)).code is None
        assert b"python" in pool.printed(attempt)


# What a task leaves behind.


async def test_the_next_task_is_where_the_first_one_was(stage, tmp_path) -> None:
    """A handler may leave the directory, even one that is gone."""
    async with stage(size=(1, 1)).open() as pool:
        before = (await pool.run("where")).result
        await pool.run("change_directory", {"directory": str(tmp_path / "gone")})
        assert (await pool.run("where")).result == before


async def test_variables_a_task_sets_are_not_given_to_the_children_of_the_next(stage) -> None:
    """The context's environment is the pool's."""
    async with stage(size=(1, 1)).open() as pool:
        await pool.run("change_environment", {"name": "LEFT"})
        assert "LEFT" not in json.loads((await pool.run("variables")).result)


async def test_children_carry_their_attempt_without_being_told(stage) -> None:
    """And how deep they are, and nothing of ours besides."""
    async with stage(size=(1, 1), environment={"KEEP": "this"}).open() as pool:
        attempt = await pool.start("environment")
        seen = json.loads((await pool.end(attempt)).result)
        for name in ("_", "PWD", "SHLVL", "LC_CTYPE"):
            seen.pop(name, None)
        path = os.environ["PATH"]
        assert seen == {"PATH": path, "KEEP": "this", "MCP_POOLS_ATTEMPT": attempt, "MCP_POOLS_DEPTH": "1"}


# Sizes.


@pytest.mark.parametrize("count", [0, 1900, 2047, 2048, 4095, 4096, 4097, 65536, 1 << 20])
async def test_payloads_and_results_of_all_sizes(stage, count) -> None:
    """In and out, whole."""
    async with stage(size=(1, 1)).open() as pool:
        ended = await pool.run("size", {"text": "y" * count, "give": count})
        assert json.loads(ended.result) == {"got": count, "text": "x" * count}


async def test_a_payload_and_a_result_of_fifty_megabytes(stage) -> None:
    """They travel beside the packets."""
    count = 50 << 20
    async with stage(size=(1, 1)).open() as pool:
        ended = await pool.run("size", {"text": "y" * count, "give": count})
        assert ended.code is None and len(ended.result) > count
        await serves(pool)


async def test_packets_just_below_the_inline_size_fit_as_many_as_are_held(stage, tmp_path) -> None:
    """A worker takes all it may hold, and none comes back for want of room."""
    async with stage(size=(1, 1)).open() as pool:
        for _ in range(20):
            await pool.run("echo")
        slots = pool.pool.reserve(AHEAD)
        assert len(slots) == AHEAD
        payload = {"text": "y" * 1700}
        attempts = [pool.launch(slot, "size", payload) for slot in slots]
        assert not any(isinstance(event, Returned) for event in pool.events)
        for attempt in attempts:
            await pool.end(attempt)


@pytest.mark.parametrize("count", [1500, 4000, 100_000])
async def test_a_burst_of_any_size_ends_and_goes_out_hardly_more_than_once(stage, count) -> None:
    """No launch is handed to a full channel again and again."""
    async with stage(size=(2, 2)).open() as pool:
        tried = await pool.carry_out([("size", {"text": "y" * count})] * 400)
        assert sum(map(len, tried)) < 2 * 400


@pytest.mark.parametrize(("levels", "code"), [(100, None), (990, "task_error"), (100_000, "task_error")])
async def test_results_are_nested_only_as_deep_as_a_reader_can_go(stage, levels, code) -> None:
    """The router reads them below a deeper stack than the worker's."""
    async with stage(size=(1, 1)).open() as pool:
        assert (await pool.run("nested", {"levels": levels})).code == code


# The loss of a worker's own processes.


async def prepared(pool, tmp_path, mates=5):
    """A task that runs and waits for the file `go`, on the only worker, and some that wait behind it."""
    for _ in range(20):
        await pool.run("echo")
    marks = tmp_path / "marks"
    slots = pool.pool.reserve(mates + 1)
    assert len(slots) == mates + 1
    payload = {"to": str(marks), "word": "running", "until": str(tmp_path / "go")}
    running = pool.launch(slots[0], "wait", payload)
    behind = [
        pool.launch(slot, "echo", {"to": str(marks), "word": f"mate-{n}"}) for n, slot in enumerate(slots[1:])
    ]
    await until(lambda: lines(marks))
    return running, behind


@pytest.mark.parametrize("victim", ["executor", "guard"])
async def test_a_killed_worker_is_lost_and_its_mates_go_back(stage, tmp_path, victim) -> None:
    """The running launch is `worker_lost`; the unstarted are returned, and a new worker serves."""
    async with stage(size=(1, 1)).open() as pool:
        running, behind = await prepared(pool, tmp_path)
        guard = pool.pool.workers[0].pid
        end(guard if victim == "guard" else children(guard)[0])
        ended = await pool.end(running)
        assert ended.code == "worker_lost" and ended.retryable
        for attempt in behind:
            assert isinstance(await pool.end(attempt), Returned)
        await pool.still(count=1)
        assert not alive(guard)
        await pool.carry_out([("echo", {"to": str(tmp_path / "marks"), "word": "after"})])
        assert Counter(lines(tmp_path / "marks")) == {"running": 1, "after": 1}


@pytest.mark.parametrize("victim", ["executor", "guard"])
async def test_programs_of_a_killed_worker_die_with_it(stage, tmp_path, victim) -> None:
    """Also those in sessions of their own."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("spawn_bare", {"to": str(tmp_path / "pid")})
        program = int((await until(lambda: lines(tmp_path / "pid")))[0])
        guard = pool.pool.workers[0].pid
        end(guard if victim == "guard" else children(guard)[0])
        assert (await pool.end(attempt)).code == "worker_lost"
        assert not alive(program)
        await serves(pool)


async def test_killing_workers_at_random_loses_and_repeats_nothing(stage, tmp_path) -> None:
    """Every job either ran once and completed, or was lost while it ran and ran at most once."""
    marks = tmp_path / "marks"
    async with stage(size=(2, 2)).open() as pool:
        jobs = [("echo", {"to": str(marks), "word": str(n)}) for n in range(1500)]
        work = asyncio.create_task(pool.carry_out(jobs))
        for turn in range(10):
            await until(lambda turn=turn: work.done() or len(lines(marks)) > 120 * turn)
            for row in pool.pool.workers[:1]:
                below = children(row.pid) if alive(row.pid) else []
                end(row.pid if turn % 2 or not below else below[0])
        tried = await work
        ran = Counter(lines(marks))
        assert max(ran.values()) == 1
        for number, attempts in enumerate(tried):
            last = pool.ends(attempts[-1])[0]
            assert all(isinstance(pool.ends(each)[0], Returned) for each in attempts[:-1])
            assert last.code in (None, "worker_lost"), last
            assert last.code == "worker_lost" or ran[str(number)] == 1


async def test_cancelling_one_of_many_short_launches_ends_no_other(stage, tmp_path) -> None:
    """However the cancel and the end of the launch before cross on the way."""
    async with stage(size=(1, 1)).open() as pool:
        for _ in range(20):
            await pool.run("echo")
        for turn in range(40):
            slots = pool.pool.reserve(8)
            attempts = [pool.launch(slot, "echo") for slot in slots]
            await asyncio.sleep(0.0002 * (turn % 5))
            await pool.pool.cancel(attempts[0])
            for number, attempt in enumerate(attempts):
                ended = await pool.end(attempt)
                fine = isinstance(ended, Returned) or ended.code is None
                assert fine or (number == 0 and ended.code == "cancelled"), ended
        await serves(pool)


async def test_an_end_on_its_way_is_not_taken_for_a_timeout_of_the_next(stage) -> None:
    """Ten launches that take about as long as they may."""
    async with stage(size=(1, 1)).open() as pool:
        for _ in range(20):
            await pool.run("echo")
        attempts = [pool.launch(slot, "echo", timeout=0.001) for slot in pool.pool.reserve(10)]
        for attempt in attempts:
            ended = await pool.end(attempt)
            assert isinstance(ended, Returned) or ended.code in (None, "timeout")


# Size.


async def test_idle_workers_above_the_minimum_retire(stage) -> None:
    """Those below it stay."""
    async with stage(size=(1, 3), idle_seconds=0.05).open() as pool:
        slots = await _all_started(pool, 3)
        for slot in slots:
            slot.give_back()
        await pool.still(count=1)
        await serves(pool)


async def test_with_no_minimum_all_retire_and_come_back(stage) -> None:
    """A pool that nobody uses costs nothing."""
    async with stage(size=(0, 2), idle_seconds=0.05).open() as pool:
        await serves(pool)
        await until(lambda: not pool.pool.workers)
        await serves(pool)


async def test_a_fixed_size_is_reached_without_any_work(stage) -> None:
    """Lazy is what nobody has asked for yet; this size somebody has."""
    async with stage(size=(1, 3)).open() as pool:
        assert not pool.pool.workers
        pool.pool.spec = replace(pool.pool.spec, min_workers=2, max_workers=2)
        await until(lambda: [worker.status for worker in pool.pool.workers] == ["idle", "idle"])
        await serves(pool)


async def test_a_pool_starts_no_more_workers_than_it_may(stage) -> None:
    """Whatever waits."""
    async with stage(size=(1, 3)).open() as pool:
        await _all_started(pool, 3)
        for slot in pool.pool.reserve(100):
            slot.give_back()
        assert len(pool.pool.workers) == 3


async def _all_started(pool, count):
    slots = []

    def holds():
        slots.extend(pool.pool.reserve(count - len(slots)))
        return len(pool.pool.workers) == count and all(row.status != "starting" for row in pool.pool.workers)

    await until(holds)
    return slots


async def test_a_busy_worker_above_the_maximum_finishes_and_leaves(stage, tmp_path) -> None:
    """What it runs is not harmed, and its place is free afterwards."""
    async with stage(size=(1, 2)).open() as pool:
        slots = await _all_started(pool, 2)
        attempts = [pool.launch(slot, "wait", {"until": str(tmp_path / "go")}) for slot in slots]
        pool.pool.spec = PoolSpec(name=pool.mark, type="any", min_workers=1, max_workers=1)
        await until(lambda: any(row.status == "stopping" for row in pool.pool.workers))
        (tmp_path / "go").touch()
        for attempt in attempts:
            assert (await pool.end(attempt)).code is None
        await pool.still(count=1)
        await serves(pool)
        (tmp_path / "go").unlink()
        pool.pool.spec = PoolSpec(name=pool.mark, type="any", min_workers=2, max_workers=2)
        attempts = [await pool.start("wait", {"until": str(tmp_path / "go")}) for _ in range(2)]
        await pool.still("busy", count=2)
        (tmp_path / "go").touch()
        for attempt in attempts:
            assert (await pool.end(attempt)).code is None


async def test_a_worker_that_keeps_too_much_memory_is_replaced(stage) -> None:
    """After its task, which is not harmed; also when it is never idle."""
    async with stage(size=(1, 1), recycle_bytes=100 << 20).open() as pool:
        assert (await pool.run("leak", {"bytes": 150 << 20})).code is None
        first = pool.worker_ids()
        leaked = next(iter(first))
        deadline = asyncio.get_running_loop().time() + 20
        while leaked in pool.worker_ids():
            assert asyncio.get_running_loop().time() < deadline
            await pool.carry_out([("echo", {})] * 20)
        await serves(pool)


async def test_short_launches_wait_for_no_worker_that_is_stuck(stage, tmp_path) -> None:
    """With one worker busy for long, another is started, and nothing goes to and fro."""
    async with stage(size=(1, 2), idle_seconds=0).open() as pool:
        for _ in range(20):
            await pool.run("echo")
        await pool.still(count=1)
        running = await pool.start(
            "wait", {"until": str(tmp_path / "go"), "to": str(tmp_path / "m"), "word": 1}
        )
        await until(lambda: lines(tmp_path / "m"))
        tried = await pool.carry_out([("echo", {})] * 300)
        assert sum(map(len, tried)) <= 300 + 2 * AHEAD
        (tmp_path / "go").touch()
        assert (await pool.end(running)).code is None


async def test_workers_that_do_not_start_make_the_pool_unhealthy(stage, monkeypatch) -> None:
    """It says why, and gets well once they start again."""
    async with stage(size=(1, 1)).open() as pool:
        monkeypatch.setattr("sys.executable", "/bin/false")
        for _ in range(3):
            before = pool.pool._failed_starts

            def failed(before=before):
                for slot in pool.pool.reserve(1):
                    slot.give_back()
                return pool.pool._failed_starts > before

            await until(failed)
        status, reason = await pool.pool.health()
        assert status == "unhealthy" and "exited with status 1" in reason
        monkeypatch.undo()
        monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
        await serves(pool)
        assert (await pool.pool.health())[0] == "healthy"


@pytest.mark.parametrize(
    "given", [{"size": 1}, {"idle_seconds": "1"}, {"recycle_bytes": -1}, {"idle_seconds": True}]
)
def test_options_that_make_no_sense_are_refused(given) -> None:
    """By name and value."""
    with pytest.raises(PoolsError) as refused:
        options(PoolSpec(name="p", type="local", options=given))
    assert refused.value.code == "invalid_payload" and next(iter(given)) in str(refused.value)


async def test_a_progress_flood_arrives_in_order(stage) -> None:
    """And holds up nobody else's word."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("steps", {"count": 5000})
        await pool.end(attempt)
        assert [each.done for each in pool.of(attempt, Progressed)] == list(range(1, 5001))


async def test_a_pool_whose_closing_is_cut_short_leaves_nobody_behind(stage, tmp_path) -> None:
    """No worker, nothing that it started, and its launch has its outcome."""
    subject = stage(size=(1, 1))

    async def live() -> None:
        async with subject.open() as pool:
            await pool.start(
                "wait", {"to": str(tmp_path / "marks"), "word": "ran", "until": str(tmp_path / "go")}
            )
            await until(lambda: lines(tmp_path / "marks"))

    life = asyncio.create_task(live())
    await until(lambda: subject.pool._closing)
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert not subject.pool.workers and not carrying(subject.mark)
    assert [ended.code for ended in subject.ends(subject.launched[0].attempt_id)] == ["interrupted"]
