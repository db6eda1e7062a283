"""Finished tasks in memories: each of them, whatever the memory does meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from memory_servers import Akosha, MemoryServer, SessionBuddy, silent_peer, text_of
from waiting import until

from mcp_pools import Router, following, remembering
from mcp_pools.store import Prune
from mcp_pools.tools import pool_distribute, pool_execute

pytestmark = pytest.mark.anyio

KEYS = {SessionBuddy: "session_buddy_pool_url", Akosha: "akosha_url"}
SOON = 0.02
"""Seconds between two syncs."""


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[type, MemoryServer]]:
    """One of each for all tests."""
    with closing(SessionBuddy()) as buddy, closing(Akosha()) as akosha:
        yield {SessionBuddy: buddy, Akosha: akosha}


@pytest.fixture(params=[SessionBuddy, Akosha], ids=["session-buddy", "akosha"])
def memory(request: pytest.FixtureRequest, servers: Any) -> Any:
    """A memory that takes everything."""
    servers[request.param].reset()
    return servers[request.param]


@pytest.fixture
def buddy(servers: Any) -> Any:
    """The one that is told of each by itself."""
    servers[SessionBuddy].reset()
    return servers[SessionBuddy]


@pytest.fixture
def akosha(servers: Any) -> Any:
    """The one that is told of many at once."""
    servers[Akosha].reset()
    return servers[Akosha]


@pytest.fixture
def remembered(
    open_router: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractAsyncContextManager[Router]]:
    """`async with remembered(server, ...) as router`: a router that syncs to it, and tries again soon."""
    monkeypatch.setattr(remembering, "LONGEST_PAUSE", 2 * SOON)

    def opened(server: MemoryServer, **keys: Any) -> AbstractAsyncContextManager[Router]:
        return open_router(**({KEYS[type(server)]: server.url, "memory_sync_interval": SOON} | keys))

    return opened


async def ran(router: Router, *payloads: Any) -> list[str]:
    """Echo each payload; the tasks' ids."""
    tasks = [await pool_execute(router, task_type="echo", payload={"x": each}) for each in payloads]
    return [task.task_id for task in tasks]


# What is written.


async def test_a_finished_task_is_remembered_with_what_it_was(remembered: Any, memory: Any) -> None:
    """Type, status, pool, time, payload and result; its id at the beginning and beside it."""
    async with remembered(memory) as router:
        task = await pool_execute(router, task_type="echo", payload={"word": "quince", "n": 17})
        await until(lambda: memory.ids, "it arrived")
    [kept], [id] = memory.kept, memory.ids
    content = kept["text"] if isinstance(kept, dict) else kept[0]
    assert id == task.task_id and content[:100].startswith(f"Task {id}: echo completed on pool local, 20")
    assert "Payload: quince\n17" in content and "Result: quince\n17" in content


async def test_tags_and_metadata_say_the_same(remembered: Any, buddy: SessionBuddy, akosha: Akosha) -> None:
    """What a memory can filter by."""
    async with remembered(buddy, akosha_url=akosha.url) as router:
        [id] = await ran(router, 1)
        await until(lambda: buddy.ids and akosha.ids, "it arrived at both")
    assert buddy.kept[0][1] == ["mcp-pools", "echo", "completed", "local", id]
    about = akosha.kept[0]["metadata"]
    assert (about["source"], about["original_id"], about["type"]) == ("mcp-pools", id, "task_result")
    assert about["created_at"].startswith("20")


async def test_only_what_ended_is_remembered_also_when_it_failed(
    remembered: Any, buddy: SessionBuddy, gate: Any
) -> None:
    """One that runs is not; a distribution is one memo with its counts, its parts are none."""
    async with remembered(buddy) as router:
        running = await pool_execute(router, **gate.task, wait=False)
        await gate.entered()
        failed = await pool_execute(router, task_type="compute", payload={"expression": "1/0"})
        items = {"items": [1, 2, 3], "expression": "x * 7"}
        whole = await pool_distribute(router, task_type="compute", payload=items, strategy="map_reduce")
        await until(lambda: len(buddy.ids) == 2, "both arrived")
        assert set(buddy.ids) == {failed.task_id, whole.distribution_id}
        gate.open()
        await until(lambda: running.task_id in buddy.ids, "the third ended")
    told = dict(zip(buddy.ids, buddy.kept, strict=True))
    assert "failed" in told[failed.task_id][1] and "Error: task_error" in told[failed.task_id][0]
    assert "Items: 3: 3 completed" in told[whole.distribution_id][0]


async def test_secrets_and_private_fields_stay_here(remembered: Any, memory: Any) -> None:
    """Values under headers, env, stdin and secret-looking keys, and what looks like a token."""
    hidden = {"headers": {"x": "hid-1"}, "env": {"A": "hid-2"}, "stdin": "hid-3", "token": {"x": 1}}
    token = "ghp_" + "a" * 30
    async with remembered(memory) as router:
        payload = {**hidden, "said": f"use {token} or https://user:hid-4@example.org", "nul": "a\0b"}
        await pool_execute(router, task_type="echo", payload=payload)
        await until(lambda: memory.ids, "it arrived")
    said = text_of(memory.kept)
    assert "hid-" not in said and token not in said and "example.org" in said


async def test_a_long_one_is_shortened(remembered: Any, memory: Any) -> None:
    """Akosha takes 10,000 characters."""
    async with remembered(memory) as router:
        await pool_execute(router, task_type="echo", payload={"long": "quince " * 30_000})
        await until(lambda: memory.ids, "it arrived")
    assert 5000 < len(text_of(memory.kept[0])) < 20_000


# At least once.


async def test_each_arrives_once_in_the_order_of_the_ends(remembered: Any, memory: Any) -> None:
    """Also more than fit one call."""
    async with remembered(memory) as router:
        ids = await ran(router, *range(34))
        await until(lambda: len(memory.ids) == len(ids), "all arrived")
    assert memory.ids == ids


async def test_what_is_left_goes_when_the_owner_leaves(remembered: Any, memory: Any, home: Path) -> None:
    """Though the next sync is far away; and the next owner sends nothing twice."""
    for _ in range(2):
        async with remembered(memory, memory_sync_interval=3600.0) as router:
            await ran(router, 1)
    assert len(memory.ids) == len(set(memory.ids)) == 2


async def test_a_memory_that_is_new_begins_with_what_ends_from_now_on(
    remembered: Any, buddy: SessionBuddy, open_router: Any
) -> None:
    """It does not get a month of the past."""
    async with open_router() as router:
        await ran(router, "old")
    async with remembered(buddy) as router:
        ids = await ran(router, "new")
    assert buddy.ids == ids


OWNER = """
import asyncio, sys
from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute
async def main():
    keys = {sys.argv[2]: sys.argv[3]}
    async with Router.open(Settings(home=sys.argv[1], memory_sync_interval=0.02, **keys)) as router:
        task = await pool_execute(router, task_type="echo", payload={})
        print(task.task_id, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_an_owner_killed_before_the_acknowledgement_has_it_sent_again(
    remembered: Any, memory: Any, home: Path, user: Path
) -> None:
    """By the next one. What knows ids has it once; in the other the id shows that it is the same."""
    answer, stored = threading.Event(), threading.Event()
    memory.late = lambda text: (stored.set(), answer.wait(20), None)[2]
    command = [sys.executable, "-c", OWNER, str(home), KEYS[type(memory)], memory.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as owner:
        assert owner.stdout is not None
        id = owner.stdout.readline().strip()
        await until(stored.is_set, "the memory has it")
        owner.send_signal(signal.SIGKILL)
    answer.set()
    async with remembered(memory) as router:
        [last] = await ran(router, "last")
        await until(lambda: last in memory.ids, "the next owner goes on")
    assert memory.ids == ([id, last] if isinstance(memory, Akosha) else [id, id, last])


async def test_what_the_log_forgets_first_is_told_as_lost(
    remembered: Any, buddy: SessionBuddy, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says how many events went by."""
    buddy.down = 500
    async with remembered(buddy) as router:
        await ran(router, 1, 2)
        await until(lambda: "memory.undelivered" in caplog.text, "it was tried")
        await router.registry.store.commit(Prune(4e9))
        await until(lambda: "memory.dropped" in caplog.text, "it was noticed")
        before = buddy.requests
        await until(lambda: buddy.requests > before, "it was tried again")
        buddy.down = None
        [last] = await ran(router, 3)
        await until(lambda: buddy.ids[-1:] == [last], "the latest arrived")
    assert caplog.text.count("memory.dropped") == 1


# Memories that are ill.


@pytest.mark.parametrize("status", [500, 200], ids=str)
async def test_a_memory_that_recovers_misses_nothing(
    remembered: Any, memory: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Whatever it said meanwhile, garbage too; the log says so once, and when it is over."""
    caplog.set_level("INFO")
    memory.down = status
    async with remembered(memory) as router:
        ids = await ran(router, 1, 2, 3)
        await until(lambda: "memory.undelivered" in caplog.text, "it was noticed")
        before = memory.requests
        await until(lambda: memory.requests > before, "it is asked again")
        memory.down = None
        await until(lambda: len(memory.ids) == 3, "all arrived")
        await until(lambda: "memory.delivered" in caplog.text, "that is over")
    assert memory.ids == ids and caplog.text.count("memory.undelivered") == 1


async def test_a_memory_that_never_answers_holds_nothing_up(
    open_router: Any, buddy: SessionBuddy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks end, the other memory has them, and an owner that knows it does not wait for it at all."""
    monkeypatch.setattr(following, "FAREWELL_SECONDS", 1000.0)
    monkeypatch.setattr("mcp_pools.ways.over_http.OverHttp.opening_seconds", 0.3)
    with silent_peer() as url:
        keys = {"session_buddy_pool_url": buddy.url, "akosha_url": url, "memory_sync_interval": SOON}
        async with open_router(**keys) as router:
            ids = await ran(router, 1, 2, 3)
            await until(lambda: buddy.ids == ids, "the other has them")
            await until(lambda: "memory.undelivered" in caplog.text, "it was noticed")
            [last] = await ran(router, 4)
            await until(lambda: buddy.ids[-1:] == [last], "and goes on")
    assert "memory=akosha" in caplog.text.replace("'", "")


async def test_an_owner_that_leaves_waits_a_bounded_time(
    remembered: Any, memory: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for the answer of one that keeps it back; the next owner sends it again."""
    caplog.set_level("INFO")
    monkeypatch.setattr(following, "FAREWELL_SECONDS", 0.05)
    answer, stored = threading.Event(), threading.Event()
    memory.late = lambda text: (stored.set(), answer.wait(20), None)[2]
    async with remembered(memory) as router:
        await ran(router, 1)
        await until(stored.is_set, "the memory has it")
    assert "memory.left" in caplog.text and not answer.is_set()
    answer.set()


async def test_one_that_is_refused_does_not_hold_the_others_up(
    remembered: Any, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked once more when another was taken, then passed over; the log names it."""
    asked: list[str] = []
    memory.fault = lambda text: asked.append(text) or "❌ Memory guard blocked" if "poison" in text else None
    async with remembered(memory) as router:
        first, bad, last = await ran(router, "good", "poison", "good")
        await until(lambda: memory.ids == [first, last], "the others arrived")
        await until(lambda: "memory.refused" in caplog.text, "it was passed over")
    assert (
        len(asked) >= 2
        and bad in caplog.text
        and "memory.undelivered" not in caplog.text.partition("refused")[2]
    )


async def test_a_refusal_that_was_a_whim_costs_nothing(remembered: Any, memory: Any) -> None:
    """Asked once more it is taken."""
    whims = iter(["❌ busy"])
    memory.fault = lambda text: next(whims, None) if "odd" in text else None
    async with remembered(memory, memory_sync_interval=0.3) as router:
        odd, even = await ran(router, "odd", "even")
        await until(lambda: len(memory.ids) == 2, "both arrived")
    assert set(memory.ids) == {odd, even}


async def test_a_memory_that_refuses_everything_loses_nothing(
    remembered: Any, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """That is not the tasks' fault: they stay until it takes them."""
    memory.fault = lambda text: "❌ Store reflection not available"
    async with remembered(memory) as router:
        ids = await ran(router, 1, 2, 3)
        await until(lambda: "memory.undelivered" in caplog.text, "it was noticed")
        memory.fault = lambda text: None
        await until(lambda: len(memory.ids) == 3, "all arrived")
    assert memory.ids == ids and "memory.refused" not in caplog.text


async def test_more_refused_ones_than_are_read_at_once_do_not_end_it(
    remembered: Any, buddy: SessionBuddy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks further with each failure, until one is taken."""
    monkeypatch.setattr(remembering, "MOST", 2)
    buddy.fault = lambda text: "❌ no" if "poison" in text else None
    async with remembered(buddy) as router:
        *_, last = await ran(router, *["poison"] * 7, "good")
        await until(lambda: buddy.ids == [last], "the good one arrived")


async def test_one_that_is_never_answered_does_not_hold_the_others_up(
    remembered: Any, buddy: SessionBuddy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A text that the server dies over is passed over like one that it refuses."""
    monkeypatch.setattr("mcp_pools.memories.session_buddy.CALL_SECONDS", 0.4)
    stuck = threading.Event()
    buddy.fault = lambda text: (stuck.wait(20), "late")[1] if "poison" in text else None
    async with remembered(buddy) as router:
        bad, good = await ran(router, "poison", "good")
        await until(lambda: good in buddy.ids, "the other arrived")
        await until(lambda: "memory.refused" in caplog.text and bad in caplog.text, "it was passed over")
        stuck.set()


async def test_a_server_that_is_no_memory_is_named_so(
    remembered: Any, buddy: SessionBuddy, caplog: pytest.LogCaptureFixture
) -> None:
    """By what it does not offer."""
    async with remembered(buddy, akosha_url=buddy.url) as router:
        await ran(router, 1)
        await until(lambda: "memory.undelivered" in caplog.text, "it was noticed")
    assert "it does not offer batch_store_memories" in caplog.text


# Off, and tokens.


async def test_a_token_goes_along(remembered: Any, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from its secret."""
    monkeypatch.setenv("MEMORY_TOKEN", "let-me-in")
    key = {SessionBuddy: "session_buddy_token_secret", Akosha: "akosha_token_secret"}[type(memory)]
    async with remembered(memory, secrets={"far": {"env": "MEMORY_TOKEN"}}, **{key: "far"}) as router:
        await ran(router, 1)
        await until(lambda: memory.ids, "it arrived")
    assert memory.tokens == {"Bearer let-me-in"}


async def test_switched_off_nothing_is_sent(remembered: Any, home: Path) -> None:
    """And no place is kept."""
    with closing(SessionBuddy()) as unasked:
        async with remembered(unasked, memory_aggregation_enabled=False) as router:
            await ran(router, 1)
        assert unasked.requests == 0 and not list(home.glob("memory-*"))


def test_nothing_configured_costs_nothing(home: Path) -> None:
    """A router that runs a task and searches imports nothing for it."""
    code = (
        "import asyncio, sys\nfrom mcp_pools import Router, Settings\n"
        "from mcp_pools.tools import pool_execute, pool_search\n"
        "async def main():\n"
        "    async with Router.open(Settings(home=sys.argv[1], memory_search=True)) as router:\n"
        "        await pool_execute(router, task_type='echo', payload={})\n"
        "        await pool_search(router, query='echo')\n"
        "asyncio.run(main())\n"
        "heavy = ('mcp', 'httpx', 'httpx2', 'mcp_pools.line', 'mcp_pools.remembering')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(home / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["[]"], done.stderr


def test_a_command_that_only_reads_imports_nothing_for_memories(home: Path) -> None:
    """Though they are configured, and searches ask them."""
    code = (
        "import sys\nfrom mcp_pools.console import main\nmain(['list', '-f', 'json'])\n"
        "heavy = ('mcp', 'httpx', 'httpx2', 'mcp_pools.line', 'mcp_pools.remembering')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    keys = {"MCP_POOLS_AKOSHA_URL": "http://127.0.0.1:9/mcp", "MCP_POOLS_MEMORY_SEARCH": "true"}
    given = os.environ | {"MCP_POOLS_HOME": str(home / "state")} | keys
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=given)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
