"""One trace from the client into the worker, whatever the way in, and nothing when nobody asks for it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from collector import Collector, Trace, collecting, seen
from hypothesis import given
from hypothesis import strategies as st
from machine import CONSOLE, Machine
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from transports import session_transport
from waiting import until

from mcp_pools import Router, delegate, otlp, tracing
from mcp_pools.tools import pool_distribute, pool_execute, pool_task
from mcp_pools.tracing import Context

pytestmark = pytest.mark.anyio
PARENT = "b7ad6b7169203331"
"""The id of the client's own span."""
WHOLE = {"submit", "commit", "queue", "attempt", "run whose-trace", "task whose-trace"}
"""The names of a task's spans."""


def a_trace() -> tuple[str, str]:
    """A new trace's id, and the traceparent of a client in it."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{PARENT}-01"


# A server in a process of its own, a real collector, and every way in.


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where the spans go."""
    with collecting() as server:
        yield server


class Served(Machine):
    """A machine whose owner serves HTTP, too, and exports its spans."""

    def __init__(self, home: Path, collector: Collector) -> None:
        super().__init__(home, home)
        self.environment |= {
            "MCP_POOLS_TASK_MODULES": '["workloads"]',
            "MCP_POOLS_POOL_DEFAULT_MAX_WORKERS": "1",
            "PYTHONPATH": str(Path(__file__).parent),
            "XDG_CONFIG_HOME": str(home / "none"),
        }
        command = [CONSOLE, "serve", "--http", "127.0.0.1:0"]
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        environment = self.environment | exporting
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().partition(" at ")[2].partition(" ")[0]


@pytest.fixture(scope="module")
def served(collector: Collector) -> Iterator[Served]:
    """One owner for all tests that only look at traces of their own."""
    home = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    served = Served(home, collector)
    yield served
    served.process.send_signal(signal.SIGTERM)
    served.process.communicate(timeout=30)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def as_given() -> Iterator[None]:
    """The SDK's client here conveys what a test gives it, and no span of this process."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(CompositePropagator([]))
    yield
    propagate.set_global_textmap(before)


async def whole(collector: Collector, trace_id: str) -> Trace:
    """A trace, once its call and its task have ended."""

    def came() -> Trace | None:
        trace = collector.trace(trace_id)
        ended = trace.named("task ") + trace.named("distribution ")
        return trace if ended and trace.named("tools/call") else None

    found: Trace = await until(came, "the trace came whole")
    return found


def assert_whole(trace: Trace, result: dict[str, Any], tool: str = "pool_execute") -> None:
    """One tree below the client's span, which ends in the worker's process."""
    assert trace.loose(PARENT) == []
    call, task, attempt = trace.one("tools/call"), trace.one("task "), trace.one("attempt")
    run, submit = trace.one("run "), trace.one("submit")
    assert (call.name, call.parent, call.kind) == (f"tools/call {tool}", PARENT, 2)
    assert {span.name for span in trace} >= WHOLE
    assert [task.parent, attempt.parent, run.parent] == [call.id, task.id, attempt.id]
    assert {span.parent for span in trace.named("commit")} >= {submit.id, task.id}
    assert run.attributes["process.pid"] == result["pid"]
    assert result["own"] == result["children"] == f"00-{run.trace}-{run.id}-01"
    assert all(span.started <= span.ended for span in trace)
    assert call.attributes["gen_ai.tool.name"] == tool
    assert call.attributes["mcp_pools.task.id"] == task.attributes["mcp_pools.task.id"]


@pytest.mark.usefixtures("as_given")
async def test_one_trace_goes_from_a_client_over_stdio_into_the_worker(
    served: Served, collector: Collector
) -> None:
    """The context comes in `_meta`; the spans come out by OTLP, under the service's name."""
    trace_id, traceparent = a_trace()
    async with served.client() as client:
        asked = {"task_type": "whose-trace", "payload": {}}
        answer = await client.call_tool("pool_execute", asked, meta={"traceparent": traceparent})
    trace = await whole(collector, trace_id)
    assert answer.structured_content is not None
    assert_whole(trace, answer.structured_content["result"])
    assert {span.service for span in trace} == {"mcp-pools"}
    assert trace.one("run ").attributes["process.pid"] != served.process.pid
    assert trace.one("submit").events == ["routed"]
    assert trace.one("submit").attributes["mcp_pools.routing.strategy"] == "least_loaded"


@pytest.mark.usefixtures("as_given")
@pytest.mark.parametrize("mode", ["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])
async def test_a_header_conveys_the_trace_too(served: Served, collector: Collector, mode: Any) -> None:
    """For gateways and clients that know HTTP's header and not the protocol's field."""
    trace_id, traceparent = a_trace()
    async with (
        httpx2.AsyncClient(headers={"traceparent": traceparent}) as http,
        Client(streamable_http_client(served.url, http_client=http), mode=mode) as client,
    ):
        answer = await client.call_tool("pool_execute", {"task_type": "whose-trace", "payload": {}})
    assert answer.structured_content is not None
    trace = await whole(collector, trace_id)
    calls = Trace(span for span in trace if span.name not in ("initialize", "server/discover", "tools/list"))
    assert_whole(
        Trace(s for s in calls if not s.name.startswith("notif")), answer.structured_content["result"]
    )


@pytest.mark.parametrize("server", [False, True], ids=["socket", "--server"])
async def test_a_command_goes_on_with_the_trace_of_its_environment(
    served: Served, collector: Collector, server: bool
) -> None:
    """So a build's trace shows what its tasks did."""
    trace_id, traceparent = a_trace()
    environment = served.environment | {"TRACEPARENT": traceparent}
    way = ["--server", served.url] if server else []
    task = served.answer("execute", "-t", "whose-trace", "--payload", "{}", *way, env=environment)
    assert_whole(await whole(collector, trace_id), task["result"])


async def test_what_is_delegated_goes_on_in_the_same_trace(
    served: Served, collector: Collector, kept: Kept
) -> None:
    """Another server's spans are below the launch that called it."""
    trace_id, traceparent = a_trace()
    async with delegate.connected(served.url) as client:
        with delegate.continuing(traceparent):
            await client.call_tool("pool_execute", {"task_type": "whose-trace", "payload": {}})
    sent = (await flushed(kept)).one("MCP send tools/call pool_execute")
    trace = await whole(collector, trace_id)
    assert (sent.trace, sent.parent) == (trace_id, PARENT)
    assert trace.one("tools/call").parent == sent.id
    assert [name for name in trace.loose(sent.id) if name != "tools/list"] == []


async def test_a_refused_call_is_a_failed_span(served: Served, collector: Collector) -> None:
    """With the refusal's code, and without a word of what was asked."""
    trace_id, traceparent = a_trace()
    environment = served.environment | {"TRACEPARENT": traceparent}
    asked = ["execute", "-t", "no_such_type", "--payload", '{"hidden": "here"}']
    assert served.console(*asked, env=environment).returncode == 2
    call = await until(lambda: collector.trace(trace_id).named("tools/call"), "the call's span came")
    assert call[0].failed and call[0].attributes["error.type"] == "unknown_task_type"
    assert "hidden" not in json.dumps(call[0].attributes) and "no_such_type" not in json.dumps(
        call[0].attributes
    )


@pytest.mark.usefixtures("as_given")
async def test_names_from_outside_are_cut(served: Served, collector: Collector) -> None:
    """A tool's name in a call may be as long as a message."""
    trace_id, traceparent = a_trace()
    async with served.client() as client:
        with pytest.raises(Exception, match="There is no tool"):
            await client.call_tool("x" * 10_000, {}, meta={"traceparent": traceparent})
    [call] = await until(lambda: collector.trace(trace_id).named("tools/call"), "the call's span came")
    assert len(call.name) == otlp.LONGEST_TEXT
    assert max(len(str(value)) for value in call.attributes.values()) <= otlp.LONGEST_TEXT


@pytest.mark.usefixtures("as_given")
async def test_parts_belong_to_their_distribution(served: Served, collector: Collector) -> None:
    """And of many parts only the first are traced."""
    trace_id, traceparent = a_trace()
    async with served.client() as client:
        asked = {"task_type": "whose-trace", "payload": {"items": list(range(tracing.MOST_PARTS + 6))}}
        await client.call_tool("pool_distribute", asked, meta={"traceparent": traceparent})
    trace = await whole(collector, trace_id)
    distribution = trace.one("distribution ")
    assert trace.loose(PARENT) == [] and distribution.parent == trace.one("tools/call").id
    assert {span.parent for span in trace.named("task ")} == {distribution.id}
    assert len(trace.named("task ")) == tracing.MOST_PARTS
    assert distribution.attributes["mcp_pools.distribution.items"] == tracing.MOST_PARTS + 6


# In this process: what happens to a task over time.


class Kept(InMemorySpanExporter):
    """Spans of this process, in the collector's terms."""

    def trace(self) -> Trace:
        """The one trace there is."""
        sent = encode_spans(self.get_finished_spans())
        spans = [s for r in sent.resource_spans for scope in r.scope_spans for s in scope.spans]
        return Trace(seen(span, "") for span in spans)


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """Records what happens in the test."""
    exporter = Kept()
    async with otlp.exporting(exporter):
        yield exporter


async def flushed(kept: Kept) -> Trace:
    """All that has been recorded."""
    _, way = otlp._provider()
    assert way.batches is not None
    way.batches.force_flush()
    return kept.trace()


async def test_each_attempt_has_its_spans(router: Router, kept: Kept) -> None:
    """Its wait, its run, and for a failed one its code."""
    task = await pool_execute(router, task_type="fail-until", payload={"attempt": 2}, max_attempts=2)
    assert task.status == "completed"
    trace = await flushed(kept)
    assert len({span.trace for span in trace}) == 1 and len(trace.loose("")) == 0
    assert [span.failed for span in trace.named("attempt")] == [True, False]
    assert [span.failed for span in trace.named("run ")] == [True, False]
    assert trace.named("attempt")[0].attributes["error.type"] == "task_error"
    assert [span.attributes["mcp_pools.attempt.number"] for span in trace.named("queue")] == [1, 2]
    assert trace.one("task ").parent == "" and not trace.one("task ").failed


async def test_a_worker_that_dies_leaves_its_span(router: Router, kept: Kept) -> None:
    """It cannot tell when it ran: its owner can, about."""
    task = await pool_execute(router, task_type="die-until", payload={"attempt": 2})
    assert task.error is not None and task.error.code == "worker_lost"
    trace = await flushed(kept)
    assert trace.loose("") == [] and trace.one("task ").attributes["mcp_pools.task.status"] == "failed"
    assert trace.one("run ").failed and "process.pid" not in trace.one("run ").attributes


async def test_a_trace_outlives_its_owner(open_router: Any, gate: Any, kept: Kept) -> None:
    """The next one ends the span of the task that the last one began, as the child of the same call."""
    trace_id, traceparent = a_trace()
    other = type(gate)(gate.path.with_name("other"))
    async with open_router() as router:
        recorder = tracing._recorder
        assert recorder is not None
        with recorder.under(traceparent):
            task = await pool_execute(router, **gate.task, max_attempts=2, wait=False)
            payload = {"gate": str(other.path), "items": [1, 2]}
            whole = await pool_distribute(
                router, task_type="hold", payload=payload, max_attempts=2, wait=False
            )
        await gate.entered()
    gate.open()
    other.open()
    async with open_router() as router:
        for id in (task.task_id, whole.distribution_id):
            ended = await pool_task(router, id, wait_seconds=20)
            assert ended.status == "completed"
    trace = await flushed(kept)
    assert {span.trace for span in trace} == {trace_id} and trace.loose(PARENT) == []
    own = [span for span in trace if span.attributes.get("mcp_pools.task.id") == task.task_id]
    attempts = [span for span in own if span.name == "attempt"]
    assert [span.attributes.get("error.type") for span in attempts] == ["interrupted", None]
    assert trace.one("distribution ").parent == PARENT
    assert len(trace.named("task ")) == 3


async def test_a_trace_that_nobody_samples_costs_and_keeps_nothing(
    router: Router, kept: Kept, home: Path
) -> None:
    """Its decision reaches the task's children all the same."""
    traceparent = f"00-{secrets.token_hex(16)}-{PARENT}-00"
    async with Client(session_transport(router, {})) as client:
        asked = {"task_type": "whose-trace", "payload": {}}
        recorder = tracing._recorder
        assert recorder is not None
        with recorder.under(traceparent):
            answer = await client.call_tool("pool_execute", asked)
    assert answer.structured_content is not None
    said = answer.structured_content["result"]["children"]
    assert said.endswith("-00") and said.split("-")[1] == traceparent.split("-")[1]
    assert [span for span in await flushed(kept) if span.trace == said.split("-")[1]] == []
    with sqlite3.connect(home / "pools.db") as db:
        assert db.execute("SELECT count(*) FROM traces").fetchone() == (0,)


async def test_traces_are_forgotten_with_their_tasks(router: Router, kept: Kept, home: Path) -> None:
    """What is pruned leaves nothing."""
    await pool_execute(router, task_type="echo", payload={})
    with sqlite3.connect(home / "pools.db") as db:
        assert db.execute("SELECT count(*) FROM traces").fetchone() == (1,)
        db.execute("DELETE FROM tasks")
        assert db.execute("SELECT count(*) FROM traces").fetchone() == (0,)


# Off, or not to be had.


def test_without_the_variables_nothing_is_imported_and_nothing_conveyed(home: Path) -> None:
    """Neither OpenTelemetry's SDK nor what renders logs, in a router that runs a task."""
    code = (
        "import asyncio, sys\nfrom mcp_pools import Router, Settings\n"
        "from mcp_pools.tools import pool_execute\n"
        "async def main():\n"
        "    async with Router.open(Settings(home=sys.argv[1], task_modules=['workloads'])) as router:\n"
        "        done = await pool_execute(router, task_type='whose-trace', payload={})\n"
        "        print(done.result['children'])\n"
        "asyncio.run(main())\n"
        "heavy = ('opentelemetry.sdk', 'mcp_pools.otlp', 'structlog', 'httpx', 'mcp_pools.cloud_events')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL", "TRACEPARENT"))}
    given = bare | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(home / "state")],
        env=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["None", "[]"], done.stderr


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, False),
    ],
)
def test_the_standard_variables_switch_it_on(environ: dict[str, str], wanted: bool) -> None:
    """As OpenTelemetry's specification has them."""
    assert tracing.wanted(environ) == wanted


@pytest.mark.parametrize(
    ("protocol", "said"), [("http/protobuf", "pip install 'mcp-pools[otlp]'"), ("grpc", "http/protobuf")]
)
async def test_what_cannot_be_exported_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str, said: str
) -> None:
    """The package is missing, or another protocol is asked for: the router opens, and goes untraced."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    async with otlp.exporting():
        assert not tracing.recording()
    [line] = [record.getMessage() for record in caplog.records if record.name == "mcp_pools"]
    assert said in line and "traces.off" in line


class Stuck(SpanExporter):
    """A collector that takes the connection and never answers, until it is hung up on."""

    def __init__(self) -> None:
        self.hung_up = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.hung_up.wait()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.hung_up.set()


async def test_a_collector_that_hangs_holds_no_router_up(
    open_router: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks end, the router closes, and the log says that spans were lost."""
    monkeypatch.setattr(otlp, "FLUSH_SECONDS", 0.05)
    exporter = Stuck()
    async with otlp.exporting(exporter), open_router() as router:
        assert (await pool_execute(router, task_type="echo", payload={})).status == "completed"
    assert "traces.lost" in caplog.text
    await until(exporter.hung_up.is_set, "the exporter was ended")


# The texts themselves.


@given(text=st.text() | st.none() | st.integers() | st.binary())
def test_any_text_is_a_context_or_none(text: Any) -> None:
    """Reading what comes from outside never fails."""
    context = Context.read(text)
    assert context is None or Context.read(str(context)) == context


@given(trace=st.integers(1, 2**128 - 1), span=st.integers(1, 2**64 - 1), sampled=st.booleans())
def test_a_context_reads_back(trace: int, span: int, sampled: bool) -> None:
    """And what is below it is in the same trace, under an id that is always the same."""
    context = Context(f"{trace:032x}", f"{span:016x}", sampled)
    assert Context.read(str(context)) == context
    below = context.below("t_1.1")
    assert below == context.below("t_1.1") != context.below("t_1.2")
    assert (below.trace_id, below.sampled) == (context.trace_id, sampled)


@pytest.mark.parametrize(
    "text",
    ["", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-" + "1" * 32 + "-b7ad6b7169203331-01", "00-1-2-3"],
)
def test_what_the_standard_forbids_is_no_context(text: str) -> None:
    """A trace of zeros, a version that cannot be, a text that is too short."""
    assert Context.read(text) is None
