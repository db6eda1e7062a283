"""Durable state in one SQLite file: WAL, full sync, group commit.

A batch of changes is one transaction with one sync. Changes of one kind become one
statement of many rows: Python's lock is then let go once a statement instead of once a
row, and the event loop runs on while SQLite works.

Within one transaction new tasks come first, then intents to cancel, then updates. That
order is safe because whoever hands changes over has at most one update of a task under
way, and accepts a task before anything else happens to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from mcp_pools.errors import PoolsError
from mcp_pools.group_commit import GroupCommit
from mcp_pools.models import PoolSpec
from mcp_pools.store import (
    Accept,
    AcceptDistribution,
    Change,
    DistributionRow,
    EndDistribution,
    EventRow,
    Found,
    Happened,
    PoolHistory,
    PoolRow,
    Prune,
    PutAffinity,
    PutPool,
    RequestCancel,
    Search,
    Tally,
    TaskRow,
    Update,
    Updates,
)
from mcp_pools.stores.sql import sqlite_rows as sql
from mcp_pools.stores.sql import sqlite_search as searching

log = logging.getLogger(__name__)

INDEX_SECONDS: Final = 0.4
"""How often the index of texts is brought up to where the tasks were the last time."""

FLUSH_SECONDS: Final = 5.0
"""How long closing may take for the index."""

INLINE_PAYLOAD: Final = 4096
"""Bytes up to which a payload lives in its task's row, which each change rewrites."""

HEAVY: Final = 65536
"""Bytes of a result that take a disk longer than a row does."""

FEW: Final = 8
"""Rows of one change up to which it is as quick as a row."""

Row = tuple[Any, ...]
Events = list[tuple[int, EventRow]]


Writes = tuple[str, Sequence[Row]]


class Job(NamedTuple):
    """A change: the rows of each of its statements, in the statements' order, and of its events.

    Thousands of rows are made where they are applied, not on the event loop.
    """

    writes: Sequence[Writes] | Callable[[], Sequence[Writes]]
    events: Sequence[Row]

    def rows(self) -> Sequence[Writes]:
        """The rows of each statement."""
        return self.writes() if callable(self.writes) else self.writes


class SqliteStore:
    """The store of one home, in the file `path`.

    Args:
        path: the database file; its directory exists.
        sync: `full` survives power loss; `normal` survives only the end of processes.
    """

    lost = False  # the kernel takes the home's lock from nobody who lives

    def __init__(self, path: Path, *, sync: str = "full") -> None:
        self._path = path
        self._sync = sync
        self._read: sqlite3.Connection
        self._write: sqlite3.Connection
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._group: GroupCommit[Job] | None = None
        self._indexing: asyncio.Task[None] | None = None
        self._stale = asyncio.Event()
        self._next_commit: asyncio.Future[None] | None = None
        self._ended: set[str] = set()
        self._settled = 0
        """Tasks up to this n were there when the index was last looked at."""
        self.commits = 0
        """Transactions so far: with one sync each, the syncs."""

    async def open(self, *, read_only: bool = False) -> None:
        """See `Store.open`. `read_only` takes nothing over and changes nothing, not even a missing file."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._reader, self._look if read_only else self._open)
        if not read_only:
            self._stale.set()
            self._group = GroupCommit(self._apply, self._committed)
            self._indexing = asyncio.create_task(self._keep_index())

    def _look(self) -> None:
        with refusals(self._path):
            if self._path.exists():
                self._read = sql.connect(self._path, self._sync, read_only=True)
            else:
                self._read = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                sql.migrate(self._read, self._path)

    def _open(self) -> None:
        with refusals(self._path):
            self._write = sql.connect(self._path, self._sync)
            sql.migrate(self._write, self._path)
            cursor = self._write.execute("INSERT INTO owners (started_at) VALUES (?)", (time.time(),))
            self._epoch = cursor.lastrowid
            self._read = sql.connect(self._path, self._sync, read_only=True)

    async def close(self) -> None:
        if self._indexing is not None:
            self._indexing.cancel()
            await asyncio.gather(self._indexing, return_exceptions=True)
        if self._group is not None:
            await self._group.close()
            await self._loop.run_in_executor(self._reader, self._flush_index)
        await asyncio.get_running_loop().run_in_executor(self._reader, self._close)
        self._reader.shutdown()

    def _close(self) -> None:
        for name in ("_read", "_write"):
            if (db := self.__dict__.get(name)) is not None:
                db.close()

    # Changes: `commit` runs on the event loop's thread, what follows on any, one batch at a time.

    def commit(self, change: Change) -> asyncio.Future[bool]:
        match change:
            case Update(row=row):
                return self._add([change.event], len(row.result or b""), ("update", [self._update(change)]))
            case Updates(updates=updates):
                size = sum(len(update.row.result or b"") for update in updates)
                events = [update.event for update in updates]
                return self._add(events, size, ("update", list(map(self._update, updates))))
            case Accept(row=row):
                return self._add([change.event], len(row.payload), *self._accepted([row]))
            case AcceptDistribution(event=event):
                assert self._group is not None
                told = [event_values(event)] if event else []
                return self._group.add(Job(partial(self._distributed, change), told), heavy=True)
            case EndDistribution(row=row):
                return self._add([change.event], len(row.reduced or b""), *other_writes(change))
            case Prune(before=before):
                for key in ("prune_events", "prune_distributions"):
                    self._add((), 0, (key, [(before,)])).add_done_callback(asyncio.Future.exception)
                return self._add((), 0, ("prune", [(before,)]))
            case _:
                return self._add([getattr(change, "event", None)], 0, *other_writes(change))

    def _update(self, change: Update) -> Row:
        row = change.row
        if row.finished_at is not None:
            self._ended.add(row.task_id)
        return (row.task_id, change.fence, self._epoch, *sql.changing(row))

    def _distributed(self, change: AcceptDistribution) -> Sequence[Writes]:
        traced = [("trace", sql.traced([(change.row.distribution_id, change.row.trace)]))]
        accepted = self._accepted(change.parts)
        return [
            ("distribution", [sql.distribution(change.row)]),
            *accepted,
            *(each for each in traced if each[1]),
        ]

    def _accepted(self, rows: Sequence[TaskRow]) -> list[Writes]:
        """New tasks, and the tables beside them: of large payloads, of parts."""
        apart = [(row.task_id, row.payload) for row in rows if len(row.payload) > INLINE_PAYLOAD]
        parts = [sql.part(row) for row in rows if row.part is not None]
        accepted = [(self._epoch, *sql.fixed(row), *sql.changing(row), inlined(row)) for row in rows]
        traced = sql.traced([(row.task_id, row.trace) for row in rows if row.trace is not None])
        beside: list[Writes] = [("payload", apart), ("trace", traced), ("part", parts)]
        return [("accept", accepted), *(each for each in beside if each[1])]

    def _add(self, events: Sequence[EventRow | None], size: int, *writes: Writes) -> asyncio.Future[bool]:
        assert self._group is not None
        heavy = size > HEAVY or any(len(rows) > FEW for _, rows in writes)
        told = [event_values(event) for event in events if event is not None]
        return self._group.add(Job(writes, told), heavy=heavy)

    def _apply(self, batch: Sequence[Job]) -> Sequence[bool | Exception]:
        """Apply a batch in one transaction; one by one when a change was refused or failed."""
        try:
            with self._transaction():
                if not self._apply_together(batch):
                    raise _Refused
            self.commits += 1
            return [True] * len(batch)
        except Exception:  # whatever it was: the writer goes on, and each change learns its own fate
            return [self._apply_alone(job) for job in batch]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._write.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._write.execute("COMMIT")
        except BaseException:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
            raise

    def _apply_together(self, batch: Sequence[Job]) -> bool:
        """`False` when a fenced statement refused a row."""
        rows: dict[str, list[Row]] = {}
        for job in batch:
            for key, values in job.rows():
                rows.setdefault(key, []).extend(values)
        for key in sorted(rows, key=sql.ORDER.__getitem__):
            if self._execute(sql.STATEMENTS[key], rows[key]) < len(rows[key]) and key in sql.FENCED:
                return False
        if events := [event for job in batch for event in job.events]:
            self._execute(sql.EVENT, events)
        return True

    def _execute(self, statement: sql.Statement, rows: Sequence[Row]) -> int:
        changed = 0
        most = 1 if getattr(statement, "single", False) else sql.MOST_VALUES // len(rows[0])
        for chunk in chunks(rows, most):
            cursor = self._write.execute(statement(len(chunk)), tuple(chain.from_iterable(chunk)))
            changed += cursor.rowcount
        return changed

    def _apply_alone(self, job: Job) -> bool | Exception:
        """Apply a change whole; one of which a row is refused leaves nothing, unless it is there already."""
        try:
            with self._transaction():
                if not self._apply_together([job]):
                    raise _Refused
            self.commits += 1
            return True
        except _Refused:
            (key, rows), *_ = job.rows()
            return len(rows) == 1 and sql.landed(self._write, key, rows[0])
        except Exception as error:
            return refusal(error, self._path)

    # The index of texts: a little behind the tasks, in transactions between theirs.

    async def _keep_index(self) -> None:
        """Index what was committed, for as long as the store is open."""
        failing = False
        whole = True  # an earlier owner may have left tasks that ended and are indexed as they were before
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                await self._index_new(whole)
                whole = False
                failing = False
            except Exception as error:  # whatever it was: tasks are safe, and are found by filters
                if not failing:
                    log.warning("The index of texts cannot be written; it is tried again: %s", error)
                whole = failing = True
                self._stale.set()
            await asyncio.sleep(INDEX_SECONDS)

    async def _index_new(self, whole: bool) -> None:
        """Index what is not quite new; of tasks that end just now, the next time.

        Most tasks end soon, and it costs half as much to index them when they have.
        """
        assert self._group is not None
        ended, self._ended = self._ended, set()
        asked = None if whole else ended
        newest = await self._ask(searching.newest)
        upto, self._settled = self._settled, newest
        while entries := await self._ask(lambda db: searching.behind(db, asked, upto)):
            await self._group.aside(partial(self._index, entries))
        self._ended |= await self._ask(lambda db: searching.still_open(db, ended))
        if upto < newest:
            self._stale.set()

    def _index(self, entries: Sequence[searching.Entry]) -> None:
        """Without a sync of its own: what a crash takes from the index is found to be lacking."""
        self._write.execute("PRAGMA synchronous = NORMAL")
        try:
            with self._transaction():
                searching.write(self._write, entries)
        finally:
            self._write.execute(f"PRAGMA synchronous = {self._sync}")

    def _flush_index(self) -> None:
        """Index the rest when nothing is committed any more; a very long one is left to the next owner."""
        deadline = time.monotonic() + FLUSH_SECONDS
        with contextlib.suppress(sqlite3.Error):
            while time.monotonic() < deadline and (
                entries := searching.behind(self._read, None, searching.newest(self._read))
            ):
                self._index(entries)

    # Reads: on the reader's thread.

    async def _ask(self, read: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._loop.run_in_executor(self._reader, read, self._read)

    async def task(self, task_id: str) -> TaskRow | None:
        rows: list[TaskRow] = await self._ask(lambda db: sql.tasks(db, "tasks.task_id = ?", task_id))
        return rows[0] if rows else None

    async def unfinished(self) -> list[TaskRow]:
        rows: list[TaskRow] = await self._ask(sql.unfinished)
        return rows

    async def distribution(self, distribution_id: str) -> DistributionRow | None:
        return await self._distribution("distribution_id = ?", distribution_id)

    async def distribution_by_key(self, caller: str, idempotency_key: str) -> DistributionRow | None:
        return await self._distribution("caller = ? AND idempotency_key = ?", caller, idempotency_key)

    async def _distribution(self, where: str, *values: Any) -> DistributionRow | None:
        rows: list[DistributionRow] = await self._ask(lambda db: sql.distributions(db, where, *values))
        return rows[0] if rows else None

    async def unfinished_distributions(self) -> list[DistributionRow]:
        rows: list[DistributionRow] = await self._ask(sql.unfinished_distributions)
        return rows

    async def parts(self, distribution_id: str) -> list[TaskRow]:
        rows: list[TaskRow] = await self._ask(lambda db: sql.parts(db, distribution_id))
        return rows

    async def by_key(self, caller: str, idempotency_key: str) -> TaskRow | None:
        where = "caller = ? AND idempotency_key = ?"
        rows: list[TaskRow] = await self._ask(lambda db: sql.tasks(db, where, caller, idempotency_key))
        return rows[0] if rows else None

    async def pools(self) -> list[PoolRow]:
        rows = await self._ask(
            lambda db: db.execute("SELECT * FROM pools WHERE status <> 'closed' ORDER BY name").fetchall()
        )
        return [
            PoolRow(
                pool_id=pool_id,
                spec=PoolSpec(**json.loads(spec)),
                status=status,
                fixed_workers=fixed,
                configured=bool(configured),
                created_at=created_at,
            )
            for _, pool_id, spec, status, fixed, configured, created_at in rows
        ]

    async def affinities(self) -> dict[str, str]:
        return dict(await self._ask(lambda db: db.execute("SELECT key, pool FROM affinities").fetchall()))

    async def history(self, pool: str) -> PoolHistory:
        return PoolHistory(*await self._ask(lambda db: sql.history(db, pool)))

    async def tally(self) -> Tally:
        return Tally(*await self._ask(sql.tally))

    async def identity(self) -> str:
        return str(await self._ask(lambda db: db.execute("SELECT id FROM identity").fetchone()[0]))

    async def search(self, wanted: Search) -> list[Found]:
        found: list[Found] = await self._ask(lambda db: searching.search(db, wanted))
        return found

    async def events(
        self, after: int = 0, limit: int = 1000, caller: str | None = None
    ) -> list[tuple[int, EventRow]]:
        found: Events = await self._ask(lambda db: sql.events(db, after, limit, caller))
        return found

    async def latest_events(self, limit: int, caller: str | None = None) -> list[tuple[int, EventRow]]:
        found: Events = await self._ask(lambda db: sql.events(db, 0, limit, caller, newest_first=True))
        return found[::-1]

    def next_commit(self) -> asyncio.Future[None]:
        if self._next_commit is None:
            self._next_commit = self._loop.create_future()
        return self._next_commit

    def _committed(self) -> None:
        """A batch is on disk: the index lacks something now, and whoever waits for a commit looks."""
        self._stale.set()
        if self._next_commit is not None:
            self._next_commit.set_result(None)
            self._next_commit = None


def needs_owner(path: Path) -> bool:
    """Whether a store holds work that has not ended, or must be migrated before it can be read."""
    if not path.exists():
        return False
    with refusals(path), contextlib.closing(sql.connect(path, "full", read_only=True)) as db:
        if db.execute("PRAGMA user_version").fetchone()[0] != len(sql.migrations()):
            return True
        open_in = "SELECT 1 FROM {} WHERE finished_at IS NULL LIMIT 1"
        return any(db.execute(open_in.format(table)).fetchone() for table in ("tasks", "distributions"))


class _Refused(Exception):
    """One change of a batch was refused: apply them one by one to learn which."""


def event_values(event: EventRow) -> Row:
    """An event as the values of its row."""
    data = json.dumps(event.data, separators=(",", ":")) if event.data else "{}"
    return (event.at, event.kind, event.pool, event.task_id, data)


def inlined(row: TaskRow) -> bytes | None:
    """A payload that lies in its task's row."""
    return row.payload if len(row.payload) <= INLINE_PAYLOAD else None


def other_writes(change: Change) -> Sequence[Writes]:
    """The statements of a change that is neither of new tasks nor an update."""
    match change:
        case RequestCancel():
            asked = [(change.at, change.id)]
            return [("cancel", asked), ("cancel_distribution", asked)]
        case EndDistribution(row=row):
            return [("end", [(*sql.ending(row), row.distribution_id)])]
        case PutPool(row=row):
            spec = json.dumps(asdict(row.spec))
            values = (row.spec.name, row.pool_id, spec, row.status, row.fixed_workers)
            return [("pool", [(*values, int(row.configured), row.created_at)])]
        case PutAffinity():
            return [("affinity", [(change.key, change.pool)])]
        case Happened():
            return []
    raise AssertionError(change)


def chunks(rows: Sequence[Row], most: int) -> Iterator[Sequence[Row]]:
    """Rows in runs of powers of two, so that few statements are ever prepared."""
    start = 0
    while start < len(rows):
        size = 1 << (min(len(rows) - start, most).bit_length() - 1)
        yield rows[start : start + size]
        start += size


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into refusals that say what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise refusal(error, path) from error


def refusal(error: Exception, path: Path) -> PoolsError:
    """What a failure to write means to the user."""
    if isinstance(error, ValueError | OverflowError):
        hint = "Use valid text and numbers of at most 64 bits."
        return PoolsError("invalid_payload", f"The store cannot hold this value: {error}.", hint)
    text = str(error)
    if "full" in text:
        step = "Free some disk space; work that was accepted is safe and goes on afterwards."
    elif "readonly" in text or "unable to open" in text:
        step = "Make the directory and its files writable for this user, or set MCP_POOLS_HOME."
    elif "not a database" in text or "malformed" in text:
        step = "Move the file away (it is damaged or not ours) and start again."
    else:
        step = "Look at the disk and at the log of the owner; then try again."
    return PoolsError("conflict", f"The store {path} cannot be written: {text}.", step, retryable=True)
