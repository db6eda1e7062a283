"""What PostgreSQL alone has to show: leases, connections that break, cursors of several writers, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from stores.conformance import a_task, an_event, ended, keep, opened, started
from stores.postgres_server import own_schema, served
from waiting import until

from mcp_pools import Router, Settings, doctor
from mcp_pools.errors import PoolsError
from mcp_pools.home import Home
from mcp_pools.store import Accept, Change, Happened, PutAffinity
from mcp_pools.stores import needs_owner, store_of
from mcp_pools.stores.postgres import PostgresStore
from mcp_pools.stores.sql import postgres_rows as sql
from mcp_pools.tools import pool_distribute, pool_execute, pool_search, pool_task

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    """A server for all of them; each test has a schema of its own."""
    with served() as url:
        yield url


@pytest.fixture
def url(home: Path) -> str:
    """This test's schema."""
    return own_schema(home)


@pytest.fixture
def database(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection beside the store's."""
    with psycopg.connect(url, autocommit=True) as db:
        yield db


def another(home: Path) -> Path:
    """A second home."""
    (home / "another").mkdir(exist_ok=True)
    return home / "another"


async def refused(store: PostgresStore) -> PoolsError:
    """Why a store does not open."""
    with pytest.raises(PoolsError) as error:
        await store.open()
    return error.value


async def insist(store: Any, change: Change) -> bool:
    """Hand a change over until it is answered, as the router does."""

    async def answered() -> list[bool]:
        with suppress(PoolsError):
            return [await store.commit(change)]
        return []

    return bool((await until(answered, "the store answers"))[0])


# Who owns it.


async def test_one_home_at_a_time_owns_a_store(url: str, home: Path) -> None:
    """Another is told who does, and may as soon as the first has left."""
    async with opened(lambda home: PostgresStore(url, home), home) as store:
        other = PostgresStore(url, another(home))
        error = await refused(other)
        assert error.code == "conflict" and error.retryable
        assert f"Process {os.getpid()} on {socket.gethostname()}" in error.message
        assert await keep(store, Accept(a_task("t_1")))
    async with opened(lambda home: PostgresStore(url, home), another(home)) as store:
        assert [row.task_id for row in await store.unfinished()] == ["t_1"]


async def test_the_next_owner_of_a_home_need_not_wait_for_the_lease(url: str, home: Path) -> None:
    """It holds the home's lock, so the one before is dead; that one's word counts no more."""
    async with opened(lambda home: PostgresStore(url, home, lease=3600), home) as dead:
        await keep(dead, Accept(a_task("t_1")))
        async with opened(lambda home: PostgresStore(url, home), home) as heir:
            assert not await keep(dead, started(a_task("t_1")))
            assert await keep(heir, started(a_task("t_1")))


async def test_a_former_owner_lands_nothing(url: str, home: Path, database: psycopg.Connection[Any]) -> None:
    """Its lease ran out and another took over: updates are refused as stale ones are, the rest with why."""
    async with opened(lambda home: PostgresStore(url, home, lease=3600), home) as former:
        row = a_task("t_1")
        await keep(former, Accept(row))
        await keep(former, started(row))
        database.execute("UPDATE owners SET until = now()")
        async with opened(lambda home: PostgresStore(url, home), another(home)) as owner:
            [kept] = await owner.unfinished()
            stale = ended(replace(row, launch=1, attempt=1), result=b'"stale"')
            assert not await keep(former, stale)
            for change in (Accept(a_task("t_2")), Happened(an_event()), PutAffinity("k", "a")):
                with pytest.raises(PoolsError, match="taken over") as error:
                    await former.commit(change)
                assert error.value.code == "conflict" and not error.value.retryable
            assert await owner.unfinished() == [kept]
            assert await keep(owner, ended(kept, result=b'"fresh"'))
            assert (await former.task("t_1")).result == b'"fresh"'


async def test_nothing_is_told_as_kept_after_the_lease_until_it_is_renewed(
    url: str, home: Path, database: psycopg.Connection[Any]
) -> None:
    """So nothing is launched that another owner may be taking over just now; once renewed, all goes on."""
    async with opened(lambda home: PostgresStore(url, home, lease=0.4), home) as store:
        with database.transaction():
            database.execute("SELECT FROM owners FOR NO KEY UPDATE")  # renewing must wait

            async def lapsed() -> bool:
                with suppress(PoolsError):
                    await store.commit(Accept(a_task("t_1")))
                    return False
                return True

            await until(lapsed, "the lease has run out")
            assert await store.task("t_1") is not None
        assert await insist(store, started(a_task("t_1")))


async def test_homes_that_start_at_the_same_moment_make_one_schema_and_one_owner(
    url: str, home: Path
) -> None:
    """The others are told of it."""
    homes = [home / str(number) for number in range(6)]
    for each in homes:
        each.mkdir()
    stores = [PostgresStore(url, each) for each in homes]
    outcomes = await asyncio.gather(*(store.open() for store in stores), return_exceptions=True)
    assert sorted(getattr(each, "code", "opened") for each in outcomes) == ["conflict"] * 5 + ["opened"]
    await stores[outcomes.index(None)].close()


# Cursors.


async def test_no_cursor_becomes_visible_before_a_lower_one(
    url: str, home: Path, database: psycopg.Connection[Any]
) -> None:
    """Another writer's event is not committed yet: one that comes later waits for it."""
    async with opened(lambda home: PostgresStore(url, home), home) as store:
        with database.transaction():
            database.execute(sql.EVENT.sql, sql.EVENT.parameters([sql.event_values(an_event("first"))]))
            later = store.commit(Happened(an_event("second")))
            waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: database.execute(waits).fetchone(), "the second waits")
            assert await store.events() == [] and not later.done()
        assert await later
        assert [event.kind for _, event in await store.events()] == ["first", "second"]


# Connections.


async def test_broken_connections_are_replaced(
    url: str, home: Path, database: psycopg.Connection[Any]
) -> None:
    """Reads go on by themselves; a commit says that it may be tried again, and then lands once."""
    ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mcp-pools'"
    async with opened(lambda home: PostgresStore(url, home), home) as store:
        assert await keep(store, Accept(a_task("t_1"), an_event()))
        database.execute(ends)
        assert (await store.task("t_1")).task_id == "t_1"
        database.execute(ends)
        assert await insist(store, started(a_task("t_1")))
        assert [event.kind for _, event in await store.events()] == ["task.queued", "task.started"]


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("postgresql://u:hush@localhost:1/db", "conflict", "localhost:1/db cannot be used"),
        ("postgresql://u:hush@/nowhere?host=/nowhere", "conflict", "No such file"),
        ("postgresql://u:hush@[/db", "invalid_payload", "not one that PostgreSQL's library understands"),
    ],
)
async def test_a_server_that_is_not_there_is_told_without_the_password(
    home: Path, asked: str, code: str, said: str
) -> None:
    """And with what to do."""
    error = await refused(PostgresStore(asked, home))
    assert (error.code, said in str(error), "hush" in str(error)) == (code, True, False)
    assert error.next


async def test_what_is_not_ours_or_too_new_is_left_alone(
    url: str, home: Path, database: psycopg.Connection[Any]
) -> None:
    """A newer schema is used as long as it says that this code still may."""
    database.execute("CREATE TABLE tasks (n integer)")
    assert "another program" in (await refused(PostgresStore(url, home))).message
    assert database.execute("SELECT to_regclass('events')").fetchone() == (None,)
    database.execute("DROP TABLE tasks")
    async with opened(lambda home: PostgresStore(url, home), home) as store:
        await keep(store, Accept(a_task("t_1")))
    database.execute("UPDATE mcp_pools_schema SET version = 99")
    async with opened(lambda home: PostgresStore(url, home), home) as store:
        assert [row.task_id for row in await store.unfinished()] == ["t_1"]
    database.execute("UPDATE mcp_pools_schema SET oldest = 98")
    assert "newer mcp-pools (schema 99" in (await refused(PostgresStore(url, home))).message


async def test_without_psycopg_the_command_to_install_it_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else of a configuration needs it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(PoolsError, match=r"pip install 'mcp-pools\[postgres\]'") as error:
        store_of(Settings(home=home, store="postgresql://localhost/pools"))
    assert error.value.code == "unsupported"
    assert store_of(Settings(home=home))


# A router on it.


async def test_a_router_works_on_it(open_router: Any, url: str, home: Path) -> None:
    """Tasks, distributions, search; the next owner goes on where this one ended; a reader needs none."""
    settings = Settings(home=home, store=url)
    async with open_router(store=url) as router:
        task = await pool_execute(router, task_type="echo", payload={"x": "quince"})
        assert task.status == "completed" and task.result == {"x": "quince"}
        whole = await pool_distribute(router, task_type="echo", payload={"items": list(range(20)), "x": 1})
        assert (whole.status, whole.succeeded) == ("completed", 20)
        await pool_execute(router, task_type="hold", payload={"gate": str(home / "gate")}, wait=False)
        assert needs_owner(settings)
    (home / "gate").touch()
    async with open_router(store=url) as router:
        assert (await pool_task(router, task_id=task.task_id)).status == "completed"
        found = await pool_search(router, query="quince")
        assert [each.task_id for each in found.tasks] == [task.task_id]
        [held] = (await pool_search(router, task_type="hold")).tasks
        assert (await pool_task(router, task_id=held.task_id, wait_seconds=20)).status == "failed"
    assert not needs_owner(settings) and not (home / "pools.db").exists()


async def test_a_server_leaves_when_another_home_has_taken_its_store_over(
    serve: Any, url: str, home: Path, database: psycopg.Connection[Any]
) -> None:
    """Until then the console works as on any other store; afterwards it may read, and is told who owns it."""
    server = serve(store=url, store_lease_seconds="60")
    assert server.run("execute", "-t", "echo", "--payload", "{}").returncode == 0
    database.execute("UPDATE owners SET until = now()")
    async with opened(lambda home: PostgresStore(url, home), another(home)):
        assert await asyncio.to_thread(server.process.wait, 30) == 0
        listed = await asyncio.to_thread(server.run, "search", "-f", "json")
        assert [each["task_type"] for each in json.loads(listed.stdout)["tasks"]] == ["echo"]
        refused = await asyncio.to_thread(server.run, "execute", "-t", "echo", "--payload", "{}")
        assert refused.returncode == 1
        assert f"Process {os.getpid()} on {socket.gethostname()} owns the store" in refused.stderr


async def test_the_doctor_looks_at_it(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds; or why it cannot be reached."""
    monkeypatch.setenv("MCP_POOLS_STORE", url)
    assert "nothing yet" in doctor.store(Home(home)).finding
    async with opened(lambda home: PostgresStore(url, home), home) as store:
        await keep(store, Accept(a_task("t_1")))
    found = doctor.store(Home(home))
    assert (found.status, found.finding.partition(": ")[2]) == ("ok", "version 1, tasks: 1 queued")
    monkeypatch.setenv("MCP_POOLS_STORE", "postgresql://localhost:1/pools")
    assert doctor.store(Home(home)).status == "failed"


async def test_a_second_router_is_refused_by_name(open_router: Any, url: str, home: Path) -> None:
    """Its home is its own; its store is not."""
    async with open_router(store=url):
        with pytest.raises(PoolsError, match="owns the store") as error:
            async with Router.open(Settings(home=another(home), store=url)):
                raise AssertionError("two owners")
        assert error.value.code == "conflict"
