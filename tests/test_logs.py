"""How an owner's log looks: one JSON object a line, the event log's words, ids, and no secrets."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine import machine_of
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from waiting import until

from mcp_pools import events, logs, otlp, tracing
from mcp_pools.tools import pool_distribute, pool_execute, pool_register, pool_scale

pytestmark = pytest.mark.anyio
Lines = Callable[[], list[dict[str, Any]]]


class Terminal(io.StringIO):
    """A stream that a person reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What this process logs; afterwards it logs as before."""
    root, ours = logging.getLogger(), logging.getLogger("mcp_pools")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    stream = io.StringIO()
    logs.write_to(stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """The log's lines so far."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_a_line_begins_with_when_how_bad_what_and_who(log: io.StringIO) -> None:
    """Then come its facts."""
    events.say("owner.listening", socket="/s", config=None)
    [line] = lines(log)
    assert list(line) == ["at", "level", "event", "pid", "socket", "config"]
    assert datetime.fromisoformat(line["at"]).utcoffset() is not None and line["at"].endswith("Z")
    assert (line["level"], line["event"], line["pid"]) == ("info", "owner.listening", os.getpid())


def test_a_traceback_goes_along(log: io.StringIO) -> None:
    """Of the exception that is handled where it is said."""
    try:
        raise RuntimeError("a bug, with password=hunter2")
    except RuntimeError:
        events.say("call.failed", tool="pool_list")
    [line] = lines(log)
    assert "RuntimeError: a bug" in line["trace"] and "hunter2" not in log.getvalue()


def test_what_libraries_log_is_of_the_same_form(log: io.StringIO) -> None:
    """From warnings on; with `debug`, from `info` on."""
    library = logging.getLogger("some.library")
    library.info("nothing to see")
    library.warning("calling %s", "https://user:pw@example.org/")
    [line] = lines(log)
    assert (line["event"], line["logger"], line["level"]) == ("log", "some.library", "warning")
    assert line["message"] == "calling https://***@example.org/"
    logs.set_level("debug")
    library.info("something")
    assert lines(log)[-1]["message"] == "something"


@given(
    secret=st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=40).map(
        lambda s: f"s3cr3t{s}"
    ),
    facts=st.dictionaries(st.text(max_size=10), st.text(max_size=10) | st.integers(), max_size=3),
)
def test_no_secret_reaches_a_line(secret: str, facts: dict[str, Any]) -> None:
    """Under a key of its name, in a text, in an argument of a library, in an exception."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(people=False))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    extra = {"event": "test", "facts": {**facts, "headers": {"Authorization": secret}, "api_key": [secret]}}
    logger.warning("test", extra=extra)
    logger.warning("with %s", f"Bearer {secret}")
    try:
        raise ValueError(f"https://u:{secret}@example.org refused token={secret}")
    except ValueError:
        logger.exception("it failed")
    assert len([json.loads(line) for line in stream.getvalue().splitlines()]) == 3
    assert secret not in stream.getvalue()


def test_at_a_terminal_it_is_for_people(log: io.StringIO) -> None:
    """One line of words, and a traceback as Python prints it: no values of variables."""
    stream = Terminal()
    logs.write_to(stream)
    hidden = "s3cr3t" * 2
    try:
        raise RuntimeError("a bug" if hidden else "")
    except RuntimeError:
        events.say("call.failed", tool="pool_list", token=hidden)
    said = stream.getvalue()
    assert "call.failed" in said and "pool_list" in said and "RuntimeError: a bug" in said
    assert hidden not in said and not said.startswith("{")


async def test_the_log_speaks_the_event_logs_words(log: io.StringIO, open_router: Any) -> None:
    """Pools and distributions at once; with `debug` each event, in its order."""
    async with open_router() as router:
        await pool_register(router, name="one", type="local", max_workers=1)
        await pool_execute(router, task_type="echo", payload={})
        await pool_scale(router, "one", 2)
        await pool_distribute(router, task_type="echo", payload={"items": [1, 2]})
        told = [line["event"] for line in lines(log) if line["event"] != "log"]
        assert {"pool.registered", "pool.scaled", "distribution.queued", "distribution.completed"} <= set(
            told
        )
        assert not [event for event in told if event.startswith("task.")]
        logs.set_level("debug")
        before, count = len(lines(log)), len(await router.registry.store.events(0))
        task = await pool_execute(router, task_type="echo", payload={"hidden": "here"}, pool="one")
        kept = await router.registry.store.events(count)
    new = [line for line in lines(log)[before:] if line.get("task_id") == task.task_id]
    assert [line["event"] for line in new] == [event.kind for _, event in kept]
    assert {line["pool"] for line in new} == {"one"} and "hidden" not in log.getvalue()


async def test_lines_name_the_trace_they_belong_to(log: io.StringIO, open_router: Any) -> None:
    """A task's events that of its task, everything else that of the call it happens in."""
    exporter = InMemorySpanExporter()
    logs.set_level("debug")
    async with otlp.exporting(exporter), open_router() as router:
        with tracing.call("pool_execute", {}):
            known = tracing.ids()
            logging.getLogger("some.library").warning("beside")
            task = await pool_execute(router, task_type="echo", payload={})
        logging.getLogger("some.library").warning("after")
    assert known is not None
    [beside, after] = [line for line in lines(log) if line.get("logger") == "some.library"]
    own = [line for line in lines(log) if line.get("task_id") == task.task_id]
    assert (beside["trace_id"], beside["span_id"]) == known and "trace_id" not in after
    assert {line["trace_id"] for line in own} == {known[0]} and len(own) >= 2
    [span] = [span for span in exporter.get_finished_spans() if span.name == "task echo"]
    assert {line["span_id"] for line in own} == {f"{span.context.span_id:016x}"}


async def test_the_setting_decides_what_an_owner_writes(home: Path, tmp_path: Path) -> None:
    """`log_level` of the configuration, here by the environment; `owner.log` holds nothing but JSON."""
    with machine_of(home, tmp_path) as machine:
        machine.environment["MCP_POOLS_LOG_LEVEL"] = "debug"
        done = machine.answer("execute", "-t", "echo", "--payload", "x=1")

        def said() -> list[dict[str, Any]]:
            text = (home / "owner.log").read_text()
            return [
                line for line in map(json.loads, text.splitlines()) if line.get("task_id") == done["task_id"]
            ]

        await until(
            lambda: [line["event"] for line in said()][-1:] == ["task.completed"], "its end was logged"
        )


@pytest.mark.parametrize("command", [["list"], ["--version"], ["serve", "--help"]])
def test_commands_load_no_renderer(home: Path, command: list[str]) -> None:
    """Nor OpenTelemetry, nor an HTTP client: only owners and what asks for them do."""
    code = (
        "import sys\nfrom mcp_pools.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('structlog', 'opentelemetry', 'httpx', 'mcp_pools.otlp', 'mcp_pools.logs')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    environment = {**os.environ, "MCP_POOLS_HOME": str(home / "state"), "OTEL_TRACES_EXPORTER": "otlp"}
    run = [sys.executable, "-c", code, *command]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"
