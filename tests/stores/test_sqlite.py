"""What is SQLite's own: files that are not ours, too new, too old; disks that are full; reading alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores.conformance import NOW, a_task, ended, opened
from stores.distribution_conformance import a_distribution, accept, over
from stores.implementations import sqlite as make
from waiting import until

from mcp_pools.errors import PoolsError
from mcp_pools.store import Accept, Search, TaskRow, Update
from mcp_pools.stores.sql import sqlite_rows, sqlite_search
from mcp_pools.stores.sqlite import SqliteStore, needs_owner

pytestmark = pytest.mark.anyio
LATEST = len(sqlite_rows.migrations())


@pytest.fixture
def path(home: Path) -> Path:
    """Where the store lies."""
    return home / "pools.db"


async def refusal(home: Path) -> PoolsError:
    """How opening the store is refused."""
    with pytest.raises(PoolsError) as refused:
        async with opened(make, home):
            pass
    assert refused.value.code == "conflict" and refused.value.next
    return refused.value


def version(path: Path) -> int:
    """The version of a file's schema."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        return found


# Files that cannot be opened.


async def test_a_newer_schema_is_refused_naming_both_versions(home: Path, path: Path) -> None:
    """And the file stays as it is."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {LATEST + 41}")
    said = str(await refusal(home))
    assert str(LATEST + 41) in said and f"knows {LATEST}" in said and "Upgrade" in said
    assert version(path) == LATEST + 41


async def test_another_programs_database_is_refused(home: Path, path: Path) -> None:
    """Its application id is not ours; nothing is written into it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 7")
        db.execute("CREATE TABLE theirs (x)")
    assert "another program" in str(await refusal(home))
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


async def test_a_database_with_tables_that_are_not_ours_is_refused(home: Path, path: Path) -> None:
    """Also when its program never set an application id."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    assert "another program" in str(await refusal(home))
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


async def test_a_file_that_is_no_database_is_refused(home: Path, path: Path) -> None:
    """And left alone."""
    path.write_bytes(b"not a database at all" * 1000)
    assert "Move the file away" in str(await refusal(home))
    assert path.read_bytes() == b"not a database at all" * 1000


async def test_a_place_that_cannot_be_written_is_refused(home: Path, path: Path) -> None:
    """A directory in the file's place keeps everybody from writing, root too."""
    path.mkdir()
    assert "writable" in str(await refusal(home))


async def test_a_missing_directory_is_refused(home: Path) -> None:
    """Creating it is not the store's matter."""
    assert "writable" in str(await refusal(home / "nowhere"))


# A full disk.


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A disk of 1 MiB, where this user may mount one."""
    place = home / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


class Cramped(SqliteStore):
    """A store whose file may not grow beyond some pages: SQLite then says that the disk is full."""

    def allow(self, pages: int) -> None:
        """How large the file may be from now on."""
        self._write.execute(f"PRAGMA max_page_count = {pages}")


async def fill(store: SqliteStore) -> tuple[list[TaskRow], PoolsError]:
    """Keep tasks until one is refused: those that were kept, and the refusal."""
    kept = []
    for number in range(10_000):
        row = a_task(f"t_{number:05}", payload=b"p" * 3000)
        try:
            assert await store.commit(Accept(row))
        except PoolsError as full:
            return kept, full
        kept.append(row)
    raise AssertionError("the disk never was full")


def says_what_to_do(full: PoolsError) -> None:
    assert full.code == "conflict" and full.retryable
    assert "full" in full.message and "Free some disk space" in full.next


async def test_a_file_that_may_not_grow_refuses_new_tasks_and_loses_none(path: Path) -> None:
    """One clear error for each new task; when there is room again, work goes on."""
    store = Cramped(path)
    await store.open()
    store.allow(100)
    kept, full = await fill(store)
    says_what_to_do(full)
    beside = [store.commit(Accept(a_task(f"u_{number}", payload=b"p" * 3000))) for number in range(3)]
    assert all(isinstance(each, PoolsError) for each in await asyncio.gather(*beside, return_exceptions=True))
    assert [row.task_id for row in await store.unfinished()] == [row.task_id for row in kept]
    store.allow(100_000)
    assert await store.commit(Accept(a_task("v", payload=b"p" * 3000)))
    assert await store.commit(Update(ended(kept[0], result=b"r" * 9999).row, 0))
    await store.close()
    async with opened(make, path.parent) as store:
        assert len(await store.unfinished()) == len(kept)


async def test_a_full_disk_refuses_new_tasks_and_loses_none(small_disk: Path) -> None:
    """The same on a disk that really is full, with a log that no longer fits."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 400_000)
    async with opened(make, small_disk) as store:
        kept, full = await fill(store)
        says_what_to_do(full)
        assert [row.task_id for row in await store.unfinished()] == [row.task_id for row in kept]
        ballast.unlink()
        assert await store.commit(Accept(a_task("v", payload=b"p" * 3000)))
        assert await store.commit(ended(kept[0]))
        assert len(await store.unfinished()) == len(kept)


# Migrations.


def older_files() -> list[int]:
    """Every version a file may have: 0 is an empty one."""
    return list(range(LATEST))


def make_older(path: Path, number: int) -> None:
    """A file as version `number` left it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        for script in sqlite_rows.migrations()[:number]:
            db.executescript(script)
        db.execute(f"PRAGMA user_version = {number}")
        db.execute(f"PRAGMA application_id = {sqlite_rows.APPLICATION_ID if number else 0}")
        if number:
            insert_a_task(db)


def insert_a_task(db: sqlite3.Connection) -> None:
    """A queued task in the columns that version 1 had; later ones have defaults, or are filled in."""
    db.execute(
        "INSERT INTO tasks (task_id, task_type, caller, created_at, cwd, roots, timeout, priority, "
        "max_attempts, depth, strategy, pinned, status, attempt, launch, seq, epoch, payload) "
        "VALUES ('t_old', 'echo', 'local', ?, '/', '[]', 300, 0, 1, 0, 'least_loaded', 0, 'queued', "
        "0, 0, 0, 1, x'7b7d')",
        (NOW,),
    )
    db.commit()


@pytest.mark.parametrize("number", [*older_files(), LATEST])
async def test_every_older_version_is_brought_up_to_date(home: Path, path: Path, number: int) -> None:
    """In one step or several; what the file held is there, and new work is kept."""
    make_older(path, number)
    async with opened(make, home) as store:
        held = [row.task_id for row in await store.unfinished()]
        assert held == (["t_old"] if number else [])
        assert await store.commit(Accept(a_task("t_zz")))
    assert version(path) == LATEST


@pytest.mark.parametrize("number", older_files())
async def test_a_file_of_any_age_takes_distributions(home: Path, path: Path, number: int) -> None:
    """Beside the tasks it held, which are no parts; the next owner finds both."""
    make_older(path, number)
    row = a_distribution()
    async with opened(make, home) as store:
        assert await store.unfinished_distributions() == []
        assert await store.commit(accept(row))
    async with opened(make, home) as store:
        assert await store.unfinished_distributions() == [row]
        assert [part.part for part in await store.parts("d_1")] == [0, 1, 2]
        old = [task for task in await store.unfinished() if task.distribution_id is None]
        assert [(task.task_id, task.part, task.items) for task in old] == [("t_old", None, None)][:number]


async def test_a_file_of_any_age_ends_with_the_same_schema(home: Path) -> None:
    """A new file and a migrated one cannot be told apart."""
    schemas = set()
    for number in [*older_files(), LATEST]:
        place = home / str(number)
        place.mkdir()
        make_older(place / "pools.db", number)
        async with opened(make, place):
            pass
        with contextlib.closing(sqlite3.connect(place / "pools.db")) as db:
            schemas.add(tuple(db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()))
    assert len(schemas) == 1


async def test_a_zero_byte_file_is_a_new_store(home: Path, path: Path) -> None:
    """What a crash between creating and writing leaves."""
    path.touch()
    assert needs_owner(path)
    async with opened(make, home) as store:
        assert await store.unfinished() == []
    assert version(path) == LATEST


# Reading alone.


async def test_reading_alone_changes_nothing(home: Path, path: Path) -> None:
    """It sees what was kept, and does not count as an owner."""
    async with opened(make, home) as store:
        await store.commit(Accept(a_task("t_1")))
    before = path.read_bytes()
    reader = make(home)
    await reader.open(read_only=True)
    assert [row.task_id for row in await reader.unfinished()] == ["t_1"]
    await reader.close()
    assert path.read_bytes() == before


async def test_reading_alone_searches_and_writes_no_index(home: Path, path: Path) -> None:
    """What an owner indexed is found; of what it had not got to, filters still find all."""
    killed = make(home)
    await killed.open()
    await killed.commit(Accept(a_task("t_1", payload=b'{"x":"quince"}')))
    await until_found(killed, "quince", ["t_1"])
    await end_indexing(killed)
    await killed.commit(Accept(a_task("t_2", payload=b'{"x":"quince"}')))
    before = path.read_bytes()
    reader = make(home)
    await reader.open(read_only=True)
    assert await found(reader, "quince") == ["t_1"]
    assert await found(reader) == ["t_2", "t_1"] == await found(reader, status="queued")
    await reader.close()
    assert path.read_bytes() == before
    await abandon(killed)


async def test_what_a_killed_owner_had_not_indexed_is_found_again(home: Path) -> None:
    """New tasks, and tasks that ended after they had been indexed."""
    killed = make(home)
    await killed.open()
    await killed.commit(Accept(a_task("t_1", payload=b'{"x":"quince"}')))
    await until_found(killed, "quince", ["t_1"])
    await end_indexing(killed)
    await killed.commit(ended(a_task("t_1"), result=b'"pear"'))
    await killed.commit(Accept(a_task("t_2", payload=b'{"x":"pear"}')))
    assert await found(killed, "pear") == []
    await abandon(killed)
    async with opened(make, home) as store:
        await until_found(store, "pear", ["t_2", "t_1"])


async def test_an_index_that_could_not_be_written_is_written_later(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, however long it lasts; tasks are kept and found by filters meanwhile."""
    whole, failures = sqlite_search.write, []

    def full(*given: Any) -> None:
        failures.append(given)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_search, "write", full)
    async with opened(make, home) as store:
        await store.commit(Accept(a_task("t_1", payload=b'{"x":"quince"}')))
        await until(lambda: len(failures) > 1)
        assert await found(store) == ["t_1"]
        assert await store.commit(ended(a_task("t_1"), result=b'"pear"'))
        monkeypatch.setattr(sqlite_search, "write", whole)
        await until_found(store, "quince pear", ["t_1"])
    assert [each.levelname for each in caplog.records if "index" in each.message] == ["WARNING"]


async def test_tasks_from_before_there_was_an_index_are_found(home: Path, path: Path) -> None:
    """The index is built beside the work."""
    make_older(path, 1)
    async with opened(make, home) as store:
        assert await found(store, status="queued") == ["t_old"]
        await until_found(store, "echo", ["t_old"])


async def test_the_index_keeps_nothing_private(home: Path, path: Path) -> None:
    """Not in any table of its own, as far as the file tells."""
    async with opened(make, home) as store:
        await store.commit(Accept(a_task("t_1", payload=b'{"headers":{"a":"hush"},"x":"quince"}')))
        await until_found(store, "quince", ["t_1"])
    with contextlib.closing(sqlite3.connect(path)) as db:
        texts = str(db.execute("SELECT * FROM search_content").fetchall())
        db.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab (main, search, row)")
        words = {word for (word,) in db.execute("SELECT term FROM temp.words")}
    assert "quince" in texts and "hush" not in texts
    assert "quince" in words and "hush" not in words


async def found(store: SqliteStore, query: str = "", **wanted: Any) -> list[str]:
    """The ids that are found."""
    return [each.row.task_id for each in await store.search(Search(query=query, **wanted))]


async def until_found(store: SqliteStore, query: str, ids: list[str]) -> None:
    """Wait until a query finds these."""

    async def holds() -> bool:
        return await found(store, query) == ids

    await until(holds, query)


async def end_indexing(store: SqliteStore) -> None:
    """Nothing is indexed from now on, as if the owner were about to be killed."""
    assert store._indexing is not None
    store._indexing.cancel()
    await asyncio.gather(store._indexing, return_exceptions=True)


async def abandon(store: SqliteStore) -> None:
    """Let go of the file without any last words."""
    assert store._group is not None
    await store._group.close()
    store._close()
    store._reader.shutdown()


async def test_reading_a_missing_store_finds_nothing_and_creates_nothing(home: Path) -> None:
    """A home that nobody ever owned is an empty one."""
    reader = make(home)
    await reader.open(read_only=True)
    assert await reader.unfinished() == [] and await reader.pools() == [] and await reader.events() == []
    await reader.close()
    assert os.listdir(home) == []


async def test_reading_goes_on_beside_an_owner(home: Path) -> None:
    """And sees each commit as soon as it was reported."""
    async with opened(make, home) as owner:
        reader = make(home)
        await reader.open(read_only=True)
        for number in range(10):
            await owner.commit(Accept(a_task(f"t_{number}")))
            assert len(await reader.unfinished()) == number + 1
        await reader.close()


async def test_an_owner_is_needed_for_work_that_has_not_ended(home: Path, path: Path) -> None:
    """And for nothing else, once the file is up to date."""
    assert not needs_owner(path)
    async with opened(make, home) as store:
        await store.commit(Accept(a_task("t_1")))
    assert needs_owner(path)
    async with opened(make, home) as store:
        await store.commit(ended(a_task("t_1")))
    assert not needs_owner(path)


async def test_an_owner_is_needed_for_a_distribution_that_has_not_ended(home: Path, path: Path) -> None:
    """Also when all its parts have: its results are still to be folded."""
    change = accept(a_distribution())
    async with opened(make, home) as store:
        await store.commit(change)
        for part in change.parts:
            await store.commit(ended(part))
        assert await store.unfinished() == []
    assert needs_owner(path)
    async with opened(make, home) as store:
        await store.commit(over(change.row))
    assert not needs_owner(path)


async def test_a_large_fold_is_written_beside_the_event_loop(home: Path) -> None:
    """As large results are: the loop goes on meanwhile."""
    change = accept(a_distribution())
    async with opened(make, home) as store:
        await store.commit(change)
        threads: list[str] = []
        assert store._group is not None
        store._group._usual_seconds = 0.0  # the disk has been quick: what is small would go on the loop
        store._write.set_trace_callback(lambda _: threads.append(threading.current_thread().name))
        assert await store.commit(over(change.row, reduced=b"r" * (1 << 20)))
        store._write.set_trace_callback(None)
        assert set(threads) == {"group-commit"}


async def test_an_owner_is_needed_for_a_migration(path: Path) -> None:
    """Reading alone cannot bring a file up to date."""
    make_older(path, 0)
    assert needs_owner(path)


def test_whether_an_owner_is_needed_is_refused_for_what_is_no_database(path: Path) -> None:
    """With the same words as opening it."""
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(PoolsError, match="Move the file away"):
        needs_owner(path)


async def test_closing_what_would_not_open_is_harmless(home: Path, path: Path) -> None:
    """The owner's `finally` closes whatever there is."""
    path.mkdir()
    store: Any = make(home)
    with pytest.raises(PoolsError):
        await store.open()
    await store.close()
