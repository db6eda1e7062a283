"""The doctor: each check finds what is there, and each failing one says what to do."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from memory_servers import SessionBuddy
from peers import ok, owner_peer, refused

from mcp_pools import Router, Settings, __version__, console, doctor
from mcp_pools.home import Home
from mcp_pools.settings import load
from mcp_pools.tools import pool_execute

ECHO: dict[str, Any] = {"task_id": "t_1", "status": "completed", "error": None, "waiting": None}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MCP_POOLS_HOME", str(tmp_path / "home"))
    return Home.default()


def test_python_must_be_new_enough() -> None:
    assert doctor.python().status == "ok"
    old = doctor.python((3, 10, 1))
    assert (old.status, old.finding) == ("failed", "3.10.1")
    assert "3.11" in old.next


def test_linux_is_needed() -> None:
    assert doctor.system("linux").status == "ok"
    assert doctor.system("darwin").status == "failed"
    assert doctor.system("darwin").next


def test_a_directory_that_is_not_there_yet_is_fine_and_is_not_made(home: Home) -> None:
    assert "not made yet" in doctor.directory(home).finding
    assert not home.path.exists()


def test_a_directory_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = doctor.directory(Home(tmp_path / "file"))
    assert found.status == "failed"
    assert "MCP_POOLS_HOME" in found.next


def test_little_space_is_a_warning(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(home.path.parent)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = doctor.directory(home)
    assert (found.status, "5 MB free" in found.finding) == ("warning", True)


def test_no_store_yet_is_fine(home: Home) -> None:
    assert doctor.store(home).status == "ok"


def test_the_store_tells_its_version_and_its_tasks(home: Home) -> None:
    home.create()
    with sqlite3.connect(home.store) as database:
        database.execute("PRAGMA user_version = 1")
        database.execute("CREATE TABLE tasks (status TEXT)")
        database.executemany("INSERT INTO tasks VALUES (?)", [("completed",), ("queued",), ("completed",)])
    database.close()
    found = doctor.store(home)
    assert found.status == "ok"
    assert found.finding.startswith("version 1, ")
    assert found.finding.endswith("tasks: 2 completed, 1 queued")


def test_a_broken_store_fails(home: Home) -> None:
    home.create()
    home.store.write_bytes(b"not a database, but long enough to be read as one" * 10)
    found = doctor.store(home)
    assert found.status == "failed"
    assert str(home.store) in found.next


def test_the_owner_is_named(home: Home) -> None:
    assert doctor.owner(home).finding.startswith("none running")
    home.create()
    lock = home.acquire_lock()
    assert lock is not None
    home.write_owner(None)
    assert f"version {__version__}, since" in doctor.owner(home).finding
    home.owner_file.write_text(json.dumps({"pid": 7, "version": "0.0.1", "started_at": "x"}))
    assert doctor.owner(home).status == "warning"
    assert "process 7" in doctor.owner(home).next


def test_a_worker_answers_an_echo(home: Home) -> None:
    with owner_peer(home.path, lambda *_: ok(ECHO)) as peer:
        found = doctor.round_trip(home)
    assert (found.status, found.next) == ("ok", "")
    assert peer.called()[0][0] == "pool_execute"


ANSWERS = [
    (refused("queue_full", "The queue is full.", "Try later."), "The queue is full.", "Try later."),
    (ok({**ECHO, "status": "failed", "error": {"message": "no worker"}}), "echo is failed: no worker", "log"),
]


@pytest.mark.parametrize(("answer", "finding", "next"), ANSWERS)
def test_an_echo_that_does_not_come_back_fails(
    home: Home, answer: dict[str, Any], finding: str, next: str
) -> None:
    with owner_peer(home.path, lambda *_: answer):
        found = doctor.round_trip(home)
    assert (found.status, found.finding) == ("failed", finding)
    assert next in found.next


def test_extras_name_the_command_that_installs_them() -> None:
    absent = doctor.extras(lambda module: False)
    assert [each.next for each in absent] == [f"pip install 'mcp-pools[{name}]'" for name in doctor.EXTRAS]
    assert all(each.finding == "installed" for each in doctor.extras(lambda module: True))


def test_each_agent_that_is_allowed_is_looked_for(home: Home, tmp_path: Path) -> None:
    """The others are nobody's concern; a missing program comes with what installs it."""
    config = tmp_path / "config.yaml"
    config.write_text("agents: {mine: {argv: [mine, -p]}}\nallow: {prompts: ['terminal-c*', mine]}\n")
    found = doctor.agents(home, str(config), {"mine": "/bin/mine"}.get)
    assert [(each.check, each.status) for each in found] == [
        ("agent terminal-claude", "warning"),
        ("agent mine", "ok"),
    ]
    assert "npm install -g" in found[0].next and found[1].finding == "/bin/mine"
    assert doctor.agents(home) == []


def test_a_configuration_that_is_wrong_fails(home: Home, tmp_path: Path) -> None:
    """With its own words."""
    config = tmp_path / "config.yaml"
    config.write_text("agnets: {}\n")
    (found,) = doctor.agents(home, str(config))
    assert (found.check, found.status, found.next) == ("configuration", "failed", "Did you mean 'agents'?")


def test_each_memory_answers_or_not_and_says_how_far_behind_it_is(home: Home, tmp_path: Path) -> None:
    """By the event log and the place that an owner keeps; without one nothing was synced."""
    config = tmp_path / "config.yaml"
    with closing(SessionBuddy()) as buddy:
        buddy.down = 503
        config.write_text(f"session_buddy_pool_url: {buddy.url}\nakosha_url: {buddy.url}\n")
        before = doctor.memories(home, str(config))
        assert [(each.check, each.status) for each in before] == [
            ("memory session-buddy", "warning"),
            ("memory akosha", "warning"),
        ]
        assert "(HTTP 503); nothing was synced yet" in before[0].finding and "kept for it" in before[0].next
        buddy.down = None
        asyncio.run(one_task(load(config_file=config, home=home.path)))
        first, second = doctor.memories(home, str(config))
    assert (first.status, first.finding) == ("ok", "answers; all that ended is there")
    assert "it does not offer batch_store_memories" in second.finding
    assert second.finding.endswith("; 1 that ended are not there yet")
    assert doctor.memories(home) == []


async def one_task(settings: Settings) -> None:
    """Run one, with all that belongs to it."""
    async with Router.open(settings) as router:
        await pool_execute(router, task_type="echo", payload={})


def test_a_client_gets_its_command() -> None:
    assert "claude mcp add" in doctor.client(lambda name: "/bin/claude").next
    assert "mcp-pools serve" in doctor.client(lambda name: None).next


def test_the_command_reports_and_exits(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with owner_peer(home.path, lambda *_: ok(ECHO)):
        assert console.main(["doctor"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["version"]) == ("ok", __version__)
    with owner_peer(home.path, lambda *_: refused("conflict", "No.", "Do x.")):
        assert console.main(["doctor", "-f", "table"]) == 1
    assert "No. → Do x." in capsys.readouterr().out
