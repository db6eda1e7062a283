"""Durable state in PostgreSQL: group commit over pooled connections, fenced by a lease.

A batch of changes is one transaction; changes of one kind are one statement of many rows.
Within a transaction new tasks come first, then intents to cancel, then updates: see the
store in SQLite, whose rules hold here, too.

1. Every transaction that writes first makes sure of the ownership, and holds a takeover up.
2. A commit is told as kept only while the lease holds: whoever was stopped for longer, or cut
   off, launches nothing before it has asked again. A task's update by a former owner is refused.
3. A connection that breaks leaves it open whether its commit landed. That is an error that
   may be tried again, and trying again changes nothing that landed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg_pool import ConnectionPool

from mcp_pools.errors import PoolsError
from mcp_pools.group_commit import GroupCommit
from mcp_pools.store import (
    Change,
    DistributionRow,
    EventRow,
    Found,
    PoolHistory,
    PoolRow,
    Search,
    Tally,
    TaskRow,
    Update,
    Updates,
)
from mcp_pools.stores.sql import postgres_rows as sql
from mcp_pools.stores.sql import postgres_schema as schema
from mcp_pools.stores.sql import postgres_search as searching
from mcp_pools.stores.sql.postgres_connections import (
    TakenOver,
    connected,
    connections,
    named,
    refusal,
    refusals,
)
from mcp_pools.stores.sql.postgres_writes import Job, job_of

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 10.0
"""How long an owner is believed to live after it was last heard of."""

READERS: Final = 4
"""Reads at a time."""

INDEX_SECONDS: Final = 0.4
"""How often texts are indexed; those of the last such time, because most tasks end soon."""

FLUSH_SECONDS: Final = 5.0
"""How long closing may take for the index."""

_HOME_ID: Final = "store-owner.id"

Answer = TypeVar("Answer")
Events = list[tuple[int, EventRow]]


class PostgresStore:
    """A store in the database that `url` names, in the first schema of its search path.

    Args:
        url: `postgresql://...`, as libpq knows it.
        home: the directory whose lock the owner holds; it exists.
        sync: `full` survives the loss of the server's power; `normal` only its client's end.
        lease: seconds.
    """

    def __init__(self, url: str, home: Path, *, sync: str = "full", lease: float = LEASE_SECONDS) -> None:
        self._url = url
        self._home = home
        self._sync = sync
        self._lease = lease
        self._leased_until = 0.0
        self.lost = False
        self._epoch = 0
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="store-lease")  # no search holds it up
        self._group: GroupCommit[Job] | None = None
        self._pool: ConnectionPool[sql.Db] | None = None
        self._beside: list[asyncio.Task[None]] = []
        self._next_commit: asyncio.Future[None] | None = None
        self._touched: set[str] = set()
        """Tasks that were accepted or have ended since texts were last indexed."""
        self._due: set[str] = set()
        """Those of the time before, which are indexed next."""
        self.commits = 0
        """Transactions so far."""

    async def open(self, *, read_only: bool = False) -> None:
        """See `Store.open`. `read_only` takes nothing over and changes nothing."""
        self._loop = asyncio.get_running_loop()
        self._name, self._pool = named(self._url), connections(self._url, self._sync, READERS + 2)
        try:
            await self._loop.run_in_executor(self._threads, self._connect)
            if not read_only:
                await self._loop.run_in_executor(self._threads, self._own)
        except BaseException:
            await self._let_go()
            raise
        if not read_only:
            self._group = GroupCommit(self._apply, self._committed)
            self._beside = [asyncio.create_task(each) for each in (self._keep_lease(), self._keep_index())]

    def _connect(self) -> None:
        assert self._pool is not None
        with refusals(self._name), connected(self._url):
            pass  # a wrong password is told at once, and in words; the pool only tries again
        self._pool.open()

    def _own(self) -> None:
        assert self._pool is not None
        with refusals(self._name), self._pool.connection() as db:
            home = made_home_id(self._home)
            schema.migrate(db, self._name)
            began = awake()
            self._epoch = schema.take_over(db, self._name, home, self._lease)
            self._leased_until = began + self._lease

    async def close(self) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        if self._group is not None:
            await self._group.close()
            await self._loop.run_in_executor(self._threads, self._leave)
        await self._let_go()

    def _leave(self) -> None:
        """Index the rest, and let the next owner begin at once; without the server both must wait."""
        assert self._pool is not None
        with contextlib.suppress(psycopg.Error):
            if not self.lost:
                self._flush_index()
            with self._pool.connection(FLUSH_SECONDS) as db:
                schema.leave(db, self._epoch)

    async def _let_go(self) -> None:
        if self._pool is not None:
            await asyncio.to_thread(self._pool.close)
        self._threads.shutdown()
        self._keeper.shutdown()

    # The lease.

    async def _keep_lease(self) -> None:
        """Renew it, for as long as the store is open and nobody has taken it over."""
        while not self.lost:
            await asyncio.sleep(min(self._lease / 4, 1.0))
            try:
                await self._loop.run_in_executor(self._keeper, self._renew)
            except psycopg.Error as error:
                log.warning("The lease of %s cannot be renewed; it is tried again: %s", self._name, error)
        log.error("Another owner has taken over %s: nothing more is kept by this one.", self._name)

    def _renew(self) -> None:
        assert self._pool is not None
        began = awake()
        with self._pool.connection(self._lease / 4) as db:
            self.lost = not schema.renew(db, self._epoch, self._lease)
        if not self.lost:
            self._leased_until = began + self._lease

    # Changes: `commit` runs on the event loop's thread, what follows on the group commit's.

    def commit(self, change: Change) -> asyncio.Future[bool]:
        assert self._group is not None
        job = job_of(change, self._epoch)
        self._touched.update(job.touched)
        answer: asyncio.Future[bool] = self._loop.create_future()
        # Never where it stands: the network is not quick.
        self._group.add(job, heavy=True).add_done_callback(partial(self._told, answer, change))
        return answer

    def _told(self, answer: asyncio.Future[bool], change: Change, done: asyncio.Future[bool]) -> None:
        """Pass the outcome on; what is kept counts only while the lease holds."""
        if answer.done():
            done.exception()
        elif (error := done.exception()) is None and not self.lost and awake() < self._leased_until:
            answer.set_result(done.result())
        elif isinstance(error, TakenOver) and isinstance(change, Update | Updates):
            answer.set_result(False)  # the task is another owner's
        else:
            answer.set_exception(error or self._lapsed())

    def _lapsed(self) -> PoolsError:
        return PoolsError(
            "conflict",
            f"The lease of the store {self._name} ran out before it could be renewed.",
            "Try again; it is renewed as soon as the database answers.",
            retryable=True,
        )

    def _apply(self, batch: Sequence[Job]) -> Sequence[bool | Exception]:
        """Apply a batch in one transaction; one by one when a change was refused or cannot be held."""
        try:
            self._apply_together(batch)
            return [True] * len(batch)
        except TakenOver as error:
            return [error] * len(batch)
        except psycopg.OperationalError as error:  # it is the database's trouble, not a change's
            self._mend()
            return [refusal(error, self._name)] * len(batch)
        except Exception:
            return [self._apply_alone(job) for job in batch]

    def _apply_alone(self, job: Job) -> bool | Exception:
        """Apply a change whole; one of which a row is refused leaves nothing, unless it is there already."""
        assert self._pool is not None
        try:
            self._apply_together([job])
            return True
        except _Refused:
            (key, rows), *_ = job.rows()
            with refusals(self._name), self._pool.connection() as db:
                return len(rows) == 1 and sql.landed(db, key, rows[0])
        except Exception as error:
            return error if isinstance(error, PoolsError) else refusal(error, self._name)

    def _apply_together(self, batch: Sequence[Job]) -> None:
        """One transaction. Raises what keeps it from landing.

        A round trip each: sent all at once, what no longer fits the socket's buffer may never be sent
        (psycopg's pipeline flushes the last command once, and then only listens).
        """
        assert self._pool is not None
        rows: dict[str, list[sql.Row]] = {}
        for job in batch:
            for key, values in job.rows():
                rows.setdefault(key, []).extend(values)
        events = [event for job in batch for event in job.events]
        with self._pool.connection() as db, db.transaction():
            if not db.execute(schema.STILL_MINE, (self._epoch,)).rowcount:
                raise TakenOver(self._name)
            for key in sorted(rows, key=sql.ORDER.__getitem__):
                statement = sql.STATEMENTS[key]
                changed = db.execute(statement.sql, statement.parameters(rows[key])).rowcount
                if statement.fenced and changed < len(rows[key]):
                    raise _Refused
            if events:
                db.execute(sql.EVENT.sql, sql.EVENT.parameters(events))
        self.commits += 1

    def _mend(self) -> None:
        """Replace the connections that have broken, rather than meet them one after the other."""
        assert self._pool is not None
        with contextlib.suppress(psycopg.Error):
            self._pool.check()

    def _committed(self) -> None:
        """A batch is on disk: whoever waits for a commit looks."""
        if self._next_commit is not None:
            self._next_commit.set_result(None)
            self._next_commit = None

    def next_commit(self) -> asyncio.Future[None]:
        if self._next_commit is None:
            self._next_commit = self._loop.create_future()
        return self._next_commit

    # The index of texts: a little behind the tasks, in transactions of its own.

    async def _keep_index(self) -> None:
        """Index what was committed, for as long as the store is open."""
        whole = True  # an earlier owner may have left something
        while True:
            self._due, self._touched = self._touched, set()
            await asyncio.sleep(INDEX_SECONDS)
            try:
                if whole:
                    await self._ask(self._index_all)
                    whole = False
                if self._due:
                    await self._ask(partial(self._index, list(self._due)))
            except PoolsError as error:  # tasks are safe, and are found by filters
                whole = True
                log.warning("The index of texts cannot be written; it is tried again: %s", error)

    def _index_all(self, db: sql.Db) -> None:
        after = 0
        while entries := searching.behind(db, None, after):
            searching.write(db, entries)
            after = entries[-1].n

    def _index(self, known: Sequence[str], db: sql.Db) -> None:
        while entries := searching.behind(db, known):
            searching.write(db, entries)

    def _flush_index(self) -> None:
        """Index the rest when nothing is committed any more; a very long one is left to the next owner."""
        assert self._pool is not None
        known = list(self._due | self._touched)
        deadline = time.monotonic() + FLUSH_SECONDS
        with self._pool.connection(FLUSH_SECONDS) as db:
            while time.monotonic() < deadline and (entries := searching.behind(db, known)):
                searching.write(db, entries)

    # Reads: on threads, each with a connection of its own.

    async def _ask(self, read: Callable[[sql.Db], Answer]) -> Answer:
        return await self._loop.run_in_executor(self._threads, self._answer, read)

    def _answer(self, read: Callable[[sql.Db], Answer]) -> Answer:
        assert self._pool is not None
        with refusals(self._name):
            try:
                with self._pool.connection() as db:
                    return read(db)
            except psycopg.OperationalError:  # the server may only have been restarted
                self._mend()
                with self._pool.connection() as db:
                    return read(db)

    async def task(self, task_id: str) -> TaskRow | None:
        rows = await self._ask(lambda db: sql.tasks(db, "task_id = %s", task_id))
        return rows[0] if rows else None

    async def unfinished(self) -> list[TaskRow]:
        where = 'finished_at IS NULL ORDER BY task_id COLLATE "C"'
        return await self._ask(lambda db: sql.tasks(db, where, place=True))

    async def by_key(self, caller: str, idempotency_key: str) -> TaskRow | None:
        where = "caller = %s AND idempotency_key = %s"
        rows = await self._ask(lambda db: sql.tasks(db, where, caller, idempotency_key))
        return rows[0] if rows else None

    async def distribution(self, distribution_id: str) -> DistributionRow | None:
        return await self._distribution("distribution_id = %s", distribution_id)

    async def distribution_by_key(self, caller: str, idempotency_key: str) -> DistributionRow | None:
        return await self._distribution("caller = %s AND idempotency_key = %s", caller, idempotency_key)

    async def _distribution(self, where: str, *values: Any) -> DistributionRow | None:
        rows = await self._ask(lambda db: sql.distributions(db, where, *values))
        return rows[0] if rows else None

    async def unfinished_distributions(self) -> list[DistributionRow]:
        where = 'finished_at IS NULL ORDER BY distribution_id COLLATE "C"'
        return await self._ask(lambda db: sql.distributions(db, where))

    async def parts(self, distribution_id: str) -> list[TaskRow]:
        return await self._ask(lambda db: sql.parts(db, distribution_id))

    async def pools(self) -> list[PoolRow]:
        return await self._ask(sql.pools)

    async def affinities(self) -> dict[str, str]:
        return dict(await self._ask(lambda db: db.execute("SELECT key, pool FROM affinities").fetchall()))

    async def history(self, pool: str) -> PoolHistory:
        return PoolHistory(*await self._ask(lambda db: sql.history(db, pool)))

    async def tally(self) -> Tally:
        return Tally(*await self._ask(sql.tally))

    async def identity(self) -> str:
        [(identity,)] = await self._ask(lambda db: db.execute("SELECT id FROM identity").fetchall())
        return str(identity)

    async def search(self, wanted: Search) -> list[Found]:
        return await self._ask(lambda db: searching.search(db, wanted))

    async def events(
        self, after: int = 0, limit: int = 1000, caller: str | None = None
    ) -> list[tuple[int, EventRow]]:
        return await self._ask(lambda db: sql.events(db, after, limit, caller))

    async def latest_events(self, limit: int, caller: str | None = None) -> list[tuple[int, EventRow]]:
        found: Events = await self._ask(lambda db: sql.events(db, 0, limit, caller, newest_first=True))
        return found[::-1]


class _Refused(Exception):
    """One change of a batch was refused: apply them one by one to learn which."""


def needs_owner(url: str, home: Path) -> bool:
    """Whether a store must be owned before it can be read: it holds work that has not ended and is nobody's,
    or its schema is not this version's.

    Raises `PoolsError` when it cannot be reached.
    """
    with refusals(named(url)), connected(url) as db:
        if schema.version(db) != len(schema.migrations()):
            return True
        if schema.owned_elsewhere(db, home_id(home)):
            return False
        open_in = "SELECT 1 FROM {} WHERE finished_at IS NULL LIMIT 1"
        return any(db.execute(open_in.format(table)).rowcount for table in ("tasks", "distributions"))


def contents(url: str) -> str:
    """What a store holds, in a few words, read without changing anything.

    Raises `PoolsError` when it cannot be reached.
    """
    with refusals(named(url)), connected(url) as db:
        number = schema.version(db)
        if number is None:
            return f"{named(url)}: nothing yet; the first task makes it"
        counted = db.execute("SELECT status, count(*) FROM tasks GROUP BY status ORDER BY status")
        tasks = ", ".join(f"{count} {status}" for status, count in counted)
        return f"{named(url)}: version {number}, tasks: {tasks or 'none'}"


def home_id(home: Path) -> str:
    """What tells a home from all others, on any machine; nothing of one that never owned a store here."""
    try:
        return (home / _HOME_ID).read_text()
    except FileNotFoundError:
        return ""


def made_home_id(home: Path) -> str:
    """The same, made if it is not there."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(home / _HOME_ID, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as written:
            written.write(os.urandom(16).hex())
    return home_id(home)


def awake() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
