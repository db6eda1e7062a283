"""Metrics: what is counted agrees with the store, and what is served is what the contract names."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collector import collecting
from machine import Machine, machine_of
from mcp import Client
from prometheus_client.parser import text_string_to_metric_families
from served import CONSOLE, Server
from transports import session_transport

from mcp_pools import Router, Settings, telemetry
from mcp_pools.doors.http_address import Address, names
from mcp_pools.exposition import Exposition
from mcp_pools.store import Accept, TaskRow
from mcp_pools.stores.sqlite import SqliteStore
from mcp_pools.telemetry import METRICS, MOST_SERIES, OTHER, Counter, Histogram
from mcp_pools.tools import (
    pool_cancel,
    pool_close,
    pool_distribute,
    pool_execute,
    pool_register,
    pool_scale,
    pool_stats,
    pool_task,
)

CONTRACT = {
    "mcp_pools_pools": {"status"},
    "mcp_pools_pool_status": {"pool", "pool_type"},
    "mcp_pools_workers": {"pool", "pool_type", "state"},
    "mcp_pools_queue_size": {"pool"},
    "mcp_pools_oldest_queued_seconds": {"pool"},
    "mcp_pools_tasks_submitted": {"pool", "task_type"},
    "mcp_pools_tasks": {"pool", "pool_type", "task_type", "status"},
    "mcp_pools_task_duration_seconds": {"pool", "task_type"},
    "mcp_pools_task_queue_seconds": {"pool"},
    "mcp_pools_errors": {"pool", "code"},
    "mcp_pools_retries": {"pool"},
    "mcp_pools_pool_memory_bytes": {"pool"},
    "mcp_pools_routing_decisions": {"strategy", "pool"},
    "mcp_pools_routing_duration_seconds": set(),
    "mcp_pools_scaling_events": {"pool", "direction"},
    "mcp_pools_store_commit_seconds": set(),
    "mcp_pools_fenced_writes": set(),
    "mcp_pools_breaker_state": {"pool"},
    "mcp_pools_tool_duration_seconds": {"tool", "outcome"},
}
"""The names and labels that dashboards rely on; a counter's samples end with `_total`."""

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def read(text: str) -> Samples:
    """Every sample by its name and labels."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels."""
    series = samples.get(name, {})
    return sum(value for key, value in series.items() if labels.items() <= dict(key).items())


async def looked(router: Router) -> Samples:
    """A router's metrics, as Prometheus would read them."""
    exposition = Exposition(router)
    try:
        return read((await exposition.text()).decode())
    finally:
        await exposition.aclose()


async def mixed_load(router: Router, gate: Any) -> None:
    """Successes, failures, a cancel, a timeout, retries, a killed worker, a resize, distributions."""
    await pool_register(router, name="a", type="local", max_workers=2)
    await pool_register(router, name="b", type="local", max_workers=1)
    for number in range(5):
        await pool_execute(router, task_type="echo", payload={"n": number})
    await pool_execute(router, task_type="compute", payload={"expression": "1 / 0"})
    await pool_execute(router, task_type="sleep", payload={"seconds": 30}, timeout=0.05)
    await pool_execute(router, task_type="fail-until", payload={"attempt": 2}, max_attempts=2)
    await pool_execute(router, task_type="die-until", payload={"attempt": 2}, max_attempts=2)
    holding = await pool_execute(router, **gate.task, pool="b", wait=False)
    await gate.entered()
    waiting = await pool_execute(router, task_type="echo", payload={}, pool="b", wait=False)
    assert (await pool_cancel(router, waiting.task_id)).cancelled
    gate.open()
    await pool_task(router, holding.task_id, wait_seconds=20)
    await pool_scale(router, "a", 1)
    divided = {"expression": "10 / x", "items": [1, 0, 2, 0, 0]}
    await pool_distribute(router, task_type="compute", payload=divided, chunk_size=2)
    await pool_distribute(router, task_type="compute", payload=divided, chunk_size=1)


@pytest.mark.anyio
async def test_what_is_counted_is_what_the_store_holds(router: Router, gate: Any) -> None:
    """By pool, type and status, after everything that can happen to a task."""
    await mixed_load(router, gate)
    samples = await looked(router)
    stats = await pool_stats(router, by_type=True)
    for status in ("completed", "failed", "cancelled", "timed_out"):
        assert total(samples, "mcp_pools_tasks_total", status=status) == stats.totals.statuses.get(
            status, 0
        ), status
    for name, figures in stats.pools.items():
        assert total(samples, "mcp_pools_tasks_total", pool=name) == figures.tasks
    submitted = total(samples, "mcp_pools_tasks_submitted_total")
    assert submitted == total(samples, "mcp_pools_tasks_total") > 15
    assert total(samples, "mcp_pools_retries_total") == 2
    # One task alone, one whose time was over, and the items of both distributions.
    assert total(samples, "mcp_pools_errors_total", code="task_error") == 1 + 3 + 3
    assert total(samples, "mcp_pools_errors_total", code="timeout") == 1
    assert total(samples, "mcp_pools_errors_total", code="cancelled") == 0
    # The one that was cancelled may have been handed to its worker, to wait there.
    assert total(samples, "mcp_pools_task_queue_seconds_count") in (submitted - 1, submitted)
    assert total(samples, "mcp_pools_task_duration_seconds_count") in (submitted - 1, submitted)
    assert total(samples, "mcp_pools_scaling_events_total", direction="up") >= 3
    assert total(samples, "mcp_pools_scaling_events_total", direction="down") >= 1
    assert total(samples, "mcp_pools_routing_decisions_total", strategy="round_robin") == 3 + 5
    assert total(samples, "mcp_pools_store_commit_seconds_count") > 0


@pytest.mark.anyio
async def test_names_and_labels_are_the_contracts(router: Router, gate: Any) -> None:
    """Every metric is there once something has happened, with its labels and no others."""
    await mixed_load(router, gate)
    async with Client(session_transport(router, {}), mode="auto") as client:
        await client.call_tool("pool_list", {})
    exposition = Exposition(router)
    text = (await exposition.text()).decode()
    await exposition.aclose()
    found = {
        family.name: set.union(*(set(sample.labels) for sample in family.samples)) - {"le"}
        for family in text_string_to_metric_families(text)
    }
    assert found == CONTRACT
    assert {metric.name.removesuffix("_total"): set(metric.labels) for metric in METRICS} == CONTRACT
    assert all(metric.help for metric in METRICS)


@pytest.mark.anyio
async def test_gauges_say_how_things_stand(router: Router, gate: Any) -> None:
    """Busy workers, a queue and its oldest task; a pool that is closed has no gauges any more."""
    await pool_register(router, name="a", type="local", max_workers=1)
    await pool_execute(router, **gate.task, wait=False)
    await gate.entered()
    for _ in range(3):
        await pool_execute(router, task_type="echo", payload={}, wait=False)
    samples = await looked(router)
    assert total(samples, "mcp_pools_workers", pool="a", state="busy") == 1
    assert total(samples, "mcp_pools_queue_size", pool="a") == 3
    assert total(samples, "mcp_pools_oldest_queued_seconds", pool="a") > 0
    assert total(samples, "mcp_pools_pool_memory_bytes", pool="a") > 1 << 20
    assert total(samples, "mcp_pools_pool_status", pool="a") == 2
    assert total(samples, "mcp_pools_breaker_state") == 0
    gate.open()
    await pool_close(router, "a")
    samples = await looked(router)
    assert not any(dict(key).get("pool") == "a" for key in samples["mcp_pools_queue_size"])


@pytest.mark.anyio
async def test_gauges_are_true_after_a_restart(open_router: Any) -> None:
    """They are read from what the store gave back; counters begin anew."""
    async with open_router() as router:
        await pool_register(router, name="a", type="local", max_workers=1)
        await pool_scale(router, "a", 0)
        for _ in range(4):
            await pool_execute(router, task_type="echo", payload={}, wait=False)
    async with open_router() as router:
        samples = await looked(router)
        assert total(samples, "mcp_pools_queue_size", pool="a") == 4
        assert total(samples, "mcp_pools_oldest_queued_seconds", pool="a") > 0
        assert total(samples, "mcp_pools_tasks_submitted_total") == 0
        assert samples["mcp_pools_fenced_writes_total"] == {(): 0}


@pytest.mark.anyio
async def test_what_an_earlier_owner_left_ends_with_this_one(open_router: Any, home: Path) -> None:
    """What ran when it was killed is judged now, and so counted now; it is not submitted again."""
    store = SqliteStore(home / "pools.db")
    await store.open()
    for status, begun in (("running", {"attempt": 1, "launch": 1, "started_at": 1.0}), ("queued", {})):
        given = {"task_type": "echo", "payload": b"{}", "caller": "local", "pool": "a", "pool_type": "local"}
        row = TaskRow(task_id=f"t_{status}", status=status, created_at=0.0, **given | begun)
        assert await store.commit(Accept(row))
    await store.close()
    async with open_router(pools={"a": {"type": "local"}}) as router:
        for status in ("running", "queued"):
            await pool_task(router, f"t_{status}", wait_seconds=20)
        samples = await looked(router)
        stats = await pool_stats(router)
    assert stats.totals.statuses == {"failed": 1, "completed": 1}
    for status, number in stats.totals.statuses.items():
        assert total(samples, "mcp_pools_tasks_total", pool="a", status=status) == number
    assert samples["mcp_pools_errors_total"] == {(("code", "interrupted"), ("pool", "a")): 1}
    assert total(samples, "mcp_pools_tasks_submitted_total") == 0


@pytest.mark.anyio
async def test_routers_of_one_process_do_not_mix(router: Router, tmp_path: Path) -> None:
    """Each has its own counters; one that was told not to count has none, and works the same."""
    async with Router.open(Settings(home=tmp_path, metrics=False)) as other:
        await pool_execute(router, task_type="echo", payload={})
        for _ in range(3):
            assert (await pool_execute(other, task_type="echo", payload={})).status == "completed"
        assert total(await looked(router), "mcp_pools_tasks_total") == 1
        meters = other.registry.meters
        assert not any(each.series for each in (*meters.counters.values(), *meters.histograms.values()))


@pytest.mark.anyio
async def test_tools_are_timed_by_how_they_end(router: Router) -> None:
    """For every client alike; a name that is no tool makes no series."""
    async with Client(session_transport(router, {}), mode="auto") as client:
        await client.call_tool("pool_list", {})
        await client.call_tool("pool_get", {"name": "nowhere"})
        with pytest.raises(Exception, match="no tool"):
            await client.call_tool("pool_" + "x" * 50, {})
    samples = await looked(router)
    assert total(samples, "mcp_pools_tool_duration_seconds_count", tool="pool_list", outcome="ok") == 1
    assert total(samples, "mcp_pools_tool_duration_seconds_count", tool="pool_get", outcome="refused") == 1
    assert total(samples, "mcp_pools_tool_duration_seconds_count") == 2


def test_series_are_bounded() -> None:
    """Beyond the bound everything new is one series."""
    counter, histogram = Counter(), Histogram((1.0,))
    for number in range(MOST_SERIES + 100):
        counter.add((f"p{number}",))
        histogram.observe((f"p{number}",), 0.5)
    assert len(counter.series) == len(histogram.series) == MOST_SERIES + 1
    assert counter.series[OTHER,] == 100 and histogram.series[OTHER,].counts == [100, 0]


@pytest.mark.parametrize(("seconds", "bucket"), [(-1.0, 0), (0.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (9.0, 2)])
def test_a_bucket_holds_what_is_at_most_its_bound(seconds: float, bucket: int) -> None:
    """As Prometheus counts, and a clock that went back counts as no time."""
    histogram = Histogram((1.0, 2.0))
    histogram.observe((), max(seconds, 0.0))
    assert histogram.series[()].counts.index(1) == bucket


def test_the_http_server_serves_them(server: Server) -> None:
    """Beside `/mcp`, in the text format."""
    done = server.console("execute", "-t", "echo", "--payload", "x=1")
    assert done.returncode == 0, done.stderr
    status, text = server.ask("GET", "/metrics")
    assert status == 200
    samples = read(text)
    assert total(samples, "mcp_pools_tasks_total", status="completed", task_type="echo") == 1
    assert total(samples, "mcp_pools_tool_duration_seconds_count", tool="pool_execute") == 1
    assert server.ask("GET", "/metrics", Host="evil.example")[0] == 421
    assert server.ask("GET", "/metrics", Origin="https://evil.example")[0] == 403
    assert server.ask("POST", "/metrics")[0] == 405


def test_where_nothing_is_counted_the_server_says_so(serve: Callable[..., Server]) -> None:
    """And nothing is served that looks as if nothing happened."""
    status, text = serve(metrics="false").ask("GET", "/metrics")
    assert status == 404 and "metrics is false" in text


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("127.0.0.1:9464", True),
        ("localhost", True),
        ("[::1]:1", True),
        ("127.0.0.2:9464", True),
        ("127.0.0.3", False),
        ("evil.example:9464", False),
        ("localhost.evil.example", False),
        ("a b", False),
    ],
)
def test_only_its_own_names_are_answered(host: str, named: bool) -> None:
    """The loopback names, and the address it listens at: a page in a browser may resolve any other."""
    assert names(Address("127.0.0.2", 9464), host) is named


def logged(machine: Machine, event: str) -> str:
    """The line of an event in the owner's log."""
    lines = (machine.home / "owner.log").read_text().splitlines()
    return next(line for line in lines if event in line)


@pytest.mark.anyio
async def test_a_detached_owner_serves_them_where_it_was_told(home: Path, tmp_path: Path) -> None:
    """`serve --metrics` tells the owner that it starts."""
    with machine_of(home / "state", tmp_path) as machine:
        async with machine.client("--metrics", "127.0.0.1:0") as client:
            await client.call_tool("pool_execute", {"task_type": "echo", "payload": {}})
            port = int(logged(machine, "metrics.served").partition("127.0.0.1:")[2].partition('"')[0])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/metrics")
            samples = read(connection.getresponse().read().decode())
            connection.close()
    assert total(samples, "mcp_pools_tasks_total", status="completed") == 1


def test_a_place_that_cannot_be_served_stops_no_owner(home: Path, tmp_path: Path) -> None:
    """Taken by somebody else: a line in the log says so, and the work goes on."""
    with socket.create_server(("127.0.0.1", 0)) as taken, machine_of(home / "state", tmp_path) as machine:
        machine.environment["MCP_POOLS_METRICS_ADDRESS"] = f"127.0.0.1:{taken.getsockname()[1]}"
        assert machine.answer("execute", "-t", "echo", "--payload", "x=1")["status"] == "completed"
        assert "is in use by another process" in logged(machine, "metrics.failed")


@pytest.mark.anyio
async def test_they_go_to_a_collector_when_the_environment_says_so(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters, gauges and histograms; what is left goes at the end."""
    await pool_execute(router, task_type="echo", payload={})
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        assert telemetry.wants_otlp()
        await Exposition(router, otlp=True).aclose()
    found = collector.metrics
    assert found.keys() >= {"mcp_pools_tasks", "mcp_pools_queue_size", "mcp_pools_task_duration_seconds"}
    [point] = found["mcp_pools_task_duration_seconds"].histogram.data_points
    assert point.count == sum(point.bucket_counts) == 1 and point.sum > 0
    assert not point.HasField("min") and not point.HasField("max")  # which nobody has looked at


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (None, "", "pip install 'mcp-pools[otlp]'"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-5", "interval value -5.0"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc", "OTLP is spoken over http/protobuf here, not grpc."),
    ],
)
async def test_what_cannot_be_sent_is_a_line_in_the_log(
    router: Router,
    variable: str | None,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the package, and with what is not spoken or refused; `/metrics` is there all the same."""
    if variable is None:
        monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    else:
        monkeypatch.setenv(variable, value)
    exposition = Exposition(router, otlp=True)
    assert said in caplog.text
    assert "mcp_pools_pool_status" in read((await exposition.text()).decode())
    await exposition.aclose()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/m"}, True),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, True),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_opentelemetrys_variables_say_whether_they_are_sent(variables: dict[str, str], wanted: bool) -> None:
    """An endpoint is enough, unless another variable says no."""
    assert telemetry.wants_otlp(variables) is wanted


def test_a_command_that_only_reads_does_not_pay_for_them(home: Path) -> None:
    """OpenTelemetry is not imported, neither by a command nor by a router nobody looks at."""
    code = (
        "import asyncio, sys\n"
        "from mcp_pools import Router, Settings\n"
        "async def main():\n"
        f"    async with Router.open(Settings(home={str(home / 'state')!r})): pass\n"
        "asyncio.run(main())\n"
        "assert not any(name.startswith(('opentelemetry.sdk', 'prometheus')) for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert os.path.exists(CONSOLE)
