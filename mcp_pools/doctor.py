"""`mcp-pools doctor`: what this installation needs, whether it is there, and what to do if not.

Each check is a function that returns one record and never raises.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from mcp_pools import __version__
from mcp_pools.agents import installing, known
from mcp_pools.errors import PoolsError
from mcp_pools.home import Hello, Home, connect
from mcp_pools.policy import Judge
from mcp_pools.terminal.general import size

if TYPE_CHECKING:
    from mcp_pools.memories import Destination

Verdict = Literal["ok", "warning", "failed"]

EXTRAS: Final = {
    "kubernetes": ("httpx",),
    "postgres": ("psycopg",),
    "dask": ("distributed",),
    "ray": ("ray",),
    "query": ("duckdb",),
}
"""Each extra, and the modules of which one shows that it is installed."""
_OLDEST_PYTHON: Final = (3, 11)
_LITTLE_SPACE: Final = 100_000_000


class Check(NamedTuple):
    """One finding: `failed` is essential, a `warning` is not; `next` says what to do."""

    check: str
    status: Verdict
    finding: str
    next: str = ""


def report(config: str | None = None, home: Home | None = None) -> dict[str, Any]:
    """Every finding, and the worst of them."""
    place = home or Home.default(config)
    found = [
        python(),
        system(),
        directory(place),
        store(place, config),
        owner(place),
        round_trip(place, config),
        *extras(),
        *agents(place, config),
        *memories(place, config),
        client(),
    ]
    verdicts = {each.status for each in found}
    worst = next((each for each in ("failed", "warning") if each in verdicts), "ok")
    return {"status": worst, "version": __version__, "checks": [each._asdict() for each in found]}


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """The interpreter."""
    said = ".".join(str(part) for part in version)
    if version < _OLDEST_PYTHON:
        return Check("python", "failed", said, "Install mcp-pools with Python 3.11 or newer.")
    return Check("python", "ok", f"{said} at {sys.executable}")


def system(name: str = sys.platform) -> Check:
    """The platform: workers and sockets need what Linux has."""
    said = f"{platform.system()} {platform.release()} {platform.machine()}"
    if name == "linux":
        return Check("platform", "ok", said)
    return Check("platform", "failed", said, "Run mcp-pools on Linux (WSL 2 or a container will do).")


def directory(home: Home) -> Check:
    """The state directory, or where it will be made."""
    there = next(each for each in (home.path, *home.path.parents) if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        advice = "Make it writable, or set MCP_POOLS_HOME to another directory."
        return Check("state directory", "failed", f"{home.path} cannot be written", advice)
    free = shutil.disk_usage(there).free
    said = f"{home.path}{'' if there == home.path else ' (not made yet)'}, {size(free)} free"
    if free < _LITTLE_SPACE:
        return Check("state directory", "warning", said, "Free some space, or set MCP_POOLS_HOME.")
    return Check("state directory", "ok", said)


def store(home: Home, config: str | None = None) -> Check:
    """The SQLite file, or the server: whether it opens, its version, how many tasks it holds."""
    from mcp_pools.settings import load

    with suppress(PoolsError):  # a wrong configuration is a finding of its own
        if (url := load(config_file=config, home=home.path).store) is not None:
            return _server(url)
    if not home.store.exists():
        return Check("store", "ok", "none yet; the first task makes it")
    try:
        return Check("store", "ok", _contents(home.store))
    except sqlite3.Error as failure:
        advice = f"Restore {home.store} from a backup, or set MCP_POOLS_HOME to another directory."
        return Check("store", "failed", f"{home.store}: {failure}", advice)


def _server(url: str) -> Check:
    from mcp_pools.stores import contents

    try:
        return Check("store", "ok", contents(url))
    except PoolsError as refused:
        return Check("store", "failed", refused.message, refused.next)


def _contents(file: Path) -> str:
    """What the store holds, read without changing anything."""
    database = _read_only(file)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        counted = database.execute("SELECT status, count(*) FROM tasks GROUP BY status ORDER BY status")
        tasks = ", ".join(f"{count} {status}" for status, count in counted)
    finally:
        database.close()
    return f"version {version}, {size(file.stat().st_size)}, tasks: {tasks or 'none'}"


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=2.0)


def owner(home: Home) -> Check:
    """The process that owns the home, if there is one."""
    said = home.read_owner() if home.locked() else None
    if not said:
        return Check("owner", "ok", "none running; the first task starts one")
    facts = f"process {said.get('pid')}, version {said.get('version')}, since {said.get('started_at')}"
    if said.get("version") != __version__:
        advice = f"End process {said.get('pid')} when its work is done, so that {__version__} can start."
        return Check("owner", "warning", facts, advice)
    return Check("owner", "ok", facts)


def round_trip(home: Home, config: str | None = None) -> Check:
    """One `echo` through the owner and a worker, as a user's own first task would go."""
    advice = f"See {home.log} for what the owner said last."
    try:
        status, finding, said = _echo(home, config)
    except Exception as failure:  # whatever went wrong is the finding
        words = getattr(failure, "message", None) or str(failure) or type(failure).__name__
        return Check("worker", "failed", words, getattr(failure, "next", "") or advice)
    return Check("worker", status, finding, "" if status == "ok" else said or advice)


def _echo(home: Home, config: str | None) -> tuple[Verdict, str, str]:
    import time
    from contextlib import closing

    from mcp_pools.client import Client, SocketTransport
    from mcp_pools.terminal.general import seconds

    sent = {"task_type": "echo", "payload": {"doctor": "hello"}, "timeout": 20.0}
    with closing(Client(SocketTransport(connect(home, Hello.here("console", config))))) as client:
        began = time.monotonic()
        data, refused = client.call("pool_execute", sent)
        took = seconds(time.monotonic() - began)
    if refused:
        error = data.get("error", {})
        return "failed", str(error.get("message")), str(error.get("next") or "")
    if data.get("status") == "completed":
        return "ok", f"echo came back in {took}", ""
    error = data.get("error") or data.get("waiting") or {}
    return "failed", f"echo is {data.get('status')}: {error.get('message', 'no reason given')}", ""


def extras(installed: Callable[[str], bool] | None = None) -> list[Check]:
    """What can be added."""
    present = installed or (lambda module: find_spec(module) is not None)
    return [_extra(name, any(map(present, modules))) for name, modules in EXTRAS.items()]


def _extra(name: str, there: bool) -> Check:
    if there:
        return Check(f"extra {name}", "ok", "installed")
    return Check(f"extra {name}", "ok", "not installed", f"pip install 'mcp-pools[{name}]'")


def agents(
    home: Home, config: str | None = None, find: Callable[[str], str | None] = shutil.which
) -> list[Check]:
    """Each agent CLI that `allow.prompts` names, and whether its program is here."""
    from mcp_pools.settings import load

    try:
        settings = load(config_file=config, home=home.path)
    except PoolsError as wrong:
        return [Check("configuration", "failed", wrong.message, wrong.next)]
    judge = Judge(settings.allow, (), "/")
    there = known(settings.agents).items()
    return [_agent(name, agent.argv[0], find) for name, agent in there if _may_prompt(judge, name)]


def _may_prompt(judge: Judge, worker_type: str) -> bool:
    try:
        return bool(judge.prompt(worker_type))
    except PoolsError:
        return False


def _agent(name: str, program: str, find: Callable[[str], str | None]) -> Check:
    found = find(program)
    if found:
        return Check(f"agent {name}", "ok", found)
    return Check(f"agent {name}", "warning", f"there is no program {program!r}", installing(program))


def memories(home: Home, config: str | None = None) -> list[Check]:
    """Each memory that is configured: whether it answers, and how far behind it is."""
    from mcp_pools.settings import load

    try:
        settings = load(config_file=config, home=home.path)
    except PoolsError:  # which `agents` tells
        return []
    if not {"session_buddy_pool_url", "akosha_url"} & settings.model_fields_set:
        return []
    from mcp_pools.memories import configured

    return [_memory(home, each) for each in configured(settings)]


def _memory(home: Home, memory: Destination) -> Check:
    import asyncio

    from mcp_pools.remembering import trouble

    name, waiting = f"memory {memory.name}", _waiting(home, memory)
    why = asyncio.run(trouble(memory))
    if why is None:
        return Check(name, "ok", f"answers; {waiting}")
    advice = "Start it or correct its address; what ends is kept for it and sent again."
    return Check(name, "warning", f"{why}; {waiting}", advice)


def _waiting(home: Home, memory: Destination) -> str:
    """How many ends it has not acknowledged."""
    from contextlib import closing

    from mcp_pools.remembering import ENDS, position

    kinds = ", ".join("?" * len(ENDS))
    try:
        with closing(_read_only(home.store)) as database:
            (identity,) = database.execute("SELECT id FROM identity").fetchone()
            if (cursor := position(home.path, identity, memory).cursor) is None:
                return "nothing was synced yet"
            count = f"SELECT count(*) FROM events WHERE cursor > ? AND kind IN ({kinds})"  # noqa: S608
            (behind,) = database.execute(count, (cursor, *ENDS)).fetchone()
    except (sqlite3.Error, TypeError):  # no store yet, or one that `store` tells about
        return "nothing was synced yet"
    return f"{behind} that ended are not there yet" if behind else "all that ended is there"


def client(find: Callable[[str], str | None] = shutil.which) -> Check:
    """Whether an MCP client is here, and how it gets these tools."""
    how = "claude mcp add pools -- mcp-pools serve"
    if find("claude"):
        return Check("MCP client", "ok", "claude is installed", how)
    return Check("MCP client", "ok", "claude not found", "Give any MCP client the command: mcp-pools serve")
