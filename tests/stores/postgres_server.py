"""A PostgreSQL server of the tests' own, on a socket in a temporary directory.

It never syncs: what is tested is that our process may die at any moment, not that Debian's
server keeps what it has committed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from parts import require_file

VARIABLE = "MCP_POOLS_TEST_POSTGRES"
"""Where the URL of the server stands, for processes that the tests start, too."""

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "autovacuum": "off",
}


def programs() -> Path:
    """The directory of the newest server's programs; the test says so when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    initdb = found[-1] if found else Path(shutil.which("initdb") or "/usr/lib/postgresql/*/bin/initdb")
    require_file(initdb, "needs postgresql: apt-get install postgresql")
    return initdb.parent


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server that runs for as long as the block lasts."""
    directory = Path(tempfile.mkdtemp(prefix="mp-pg-", dir="/tmp"))
    # The server refuses to run as root.
    who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    try:
        if who:
            shutil.chown(directory, "postgres", "postgres")
        control = [*who, str(programs() / "pg_ctl"), "-D", str(directory / "data"), "-w", "-s"]
        made = "-N -A trust -U postgres -E UTF8 --locale=C --no-instructions"
        _run([*control, "initdb", "-o", made], directory)
        given = " ".join(f"-c {key}={value!r}" for key, value in SETTINGS.items())
        _run([*control, "-l", str(directory / "log"), "-o", f"-k {directory} {given}", "start"], directory)
        try:
            yield f"postgresql:///postgres?host={directory}&user=postgres"
        finally:
            _run([*control, "-m", "immediate", "stop"], directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def served() -> Iterator[str]:
    """The same, known to `own_schema` and to processes that are started meanwhile."""
    with running() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, url)
        yield url


def _run(command: list[str], directory: Path) -> None:
    subprocess.run(command, cwd=directory, check=True, timeout=50, stdout=subprocess.DEVNULL)


def own_schema(home: Path) -> str:
    """The URL of a schema for a home alone, made if it is not there."""
    url, name = os.environ[VARIABLE], f"mp_{os.fsencode(home.name).hex()}"
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA IF NOT EXISTS {name}".encode())
    return f"{url}&options=-csearch_path%3D{name}"


KEPT = ("mcp_pools_schema", "identity", "shared_by")


def shared_schema(home: Path) -> str:
    """The URL of a schema that one home after the other has to itself: making one takes far longer."""
    url = f"{os.environ[VARIABLE]}&options=-csearch_path%3Dshared"
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE SCHEMA IF NOT EXISTS shared")
        db.execute("CREATE TABLE IF NOT EXISTS shared_by (home text PRIMARY KEY)")
        if db.execute("INSERT INTO shared_by VALUES (%s) ON CONFLICT DO NOTHING", (home.name,)).rowcount:
            found = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'shared'").fetchall()
            tables = ", ".join(table for (table,) in found if table not in KEPT)
            if tables:
                db.execute(f"TRUNCATE {tables}".encode())
    return url
