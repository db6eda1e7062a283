"""A real Prometheus against a real server under mixed load: every query of ours returns what is true."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcp import Client
from parts import require
from served import Server
from waiting import until

GRAFANA = Path(__file__).parent.parent.parent / "grafana"
VARIABLES = {
    "$pool_type": ".*",
    "$pool": ".*",
    "$task_type": ".*",
    "$__rate_interval": "10s",
    "$__range": "5m",
}
COMPARISON = re.compile(r"\s*(?:==|>|<)\s*\d[\d.]*(?:\s*\*\s*\d+)*")
POOLS = {name: {"min_workers": 0, "max_workers": size} for name, size in (("a", 2), ("b", 1), ("c", 1))}


class Prometheus:
    """A server that scrapes every half second, and answers queries."""

    def __init__(self, target: str, directory: Path) -> None:
        program = require("prometheus", "apt-get install prometheus")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "1s"},
            "rule_files": [str(GRAFANA / "rules" / "*.yaml")],
            "scrape_configs": [{"job_name": "mcp-pools", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        flags = {
            "config.file": directory / "prometheus.yml",
            "storage.tsdb.path": directory / "data",
            "web.listen-address": self.url.removeprefix("http://"),
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        log = (directory / "log").open("wb")
        with log:
            self.process = subprocess.Popen([program, *words], stdout=log, stderr=log)

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """What an expression's vector holds now; nothing while it does not answer yet."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except (ConnectionError, urllib.error.URLError) as failure:
            assert getattr(failure, "code", None) is None, f"{expression}: {failure}"
            return []

    def number(self, expression: str) -> float:
        """The one number of an expression; 0 of none."""
        found = self.ask(expression)
        return float(found[0]["value"][1]) if found else 0.0


@pytest.fixture
def watched(serve: Callable[..., Server], tmp_path: Path) -> Iterator[tuple[Server, Prometheus]]:
    """A server with three pools, and the Prometheus that scrapes it; both end with the test."""
    require("prometheus", "apt-get install prometheus")
    server = serve(pools=json.dumps(POOLS), mcp_confirm="never")
    prometheus = Prometheus(f"127.0.0.1:{server.port}", tmp_path)
    try:
        yield server, prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(20)


async def work(client: Client) -> None:
    """Successes, failures, a timeout, retries, a killed worker, a cancel, a resize, failed items."""

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await client.call_tool(tool, arguments)
        assert not answer.is_error, answer
        return dict(answer.structured_content or {})

    for pool in POOLS:
        await call("pool_execute", task_type="echo", payload={}, pool=pool)
    await call("pool_execute", task_type="compute", payload={"expression": "1 / 0"}, pool="a")
    await call("pool_execute", task_type="sleep", payload={"seconds": 30}, timeout=0.05, pool="c")
    await call("pool_execute", task_type="fail-until", payload={"attempt": 2}, max_attempts=2)
    await call("pool_execute", task_type="die-until", payload={"attempt": 2}, max_attempts=2, pool="b")
    nap = {"task_type": "sleep", "payload": {"seconds": 30}, "wait": False}
    task = await call("pool_execute", **nap, pool="b")
    assert (await call("pool_cancel", task_id=task["task_id"]))["cancelled"]
    await call("pool_scale", name="a", workers=1)
    await call("pool_scale", name="a", workers="auto")
    items = {"expression": "10 / x", "items": [1, 0, 2, 0, 5]}
    await call("pool_distribute", task_type="compute", payload=items, chunk_size=2)
    await client.call_tool("pool_get", {"name": "nowhere"})


def shown() -> Iterator[tuple[str, str]]:
    """The query of every panel, with its variables filled in, and the vector of every alert."""
    for panel in json.loads((GRAFANA / "mcp-pools.json").read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            yield f"{panel['title']} {target['refId']}", expression
    rules = yaml.safe_load((GRAFANA / "rules" / "mcp-pools.yaml").read_text())["groups"]
    for rule in (rule for group in rules for rule in group["rules"]):
        yield rule.get("alert") or rule["record"], COMPARISON.sub("", rule["expr"])


@pytest.mark.anyio
async def test_every_query_returns_what_the_store_holds(watched: tuple[Server, Prometheus]) -> None:
    """Panels and alerts alike; and what Prometheus counted of the run is what `pool_stats` says of it."""
    server, prometheus = watched
    async with server.client() as client:
        for _ in range(2):  # a rate needs two looks at a series
            await work(client)
            stats = (await client.call_tool("pool_stats", {})).structured_content or {}
            ended = stats["totals"]["tasks"]
            await until(
                lambda ended=ended: prometheus.number("sum(mcp_pools_tasks_total)") == ended,
                "all that ended has been scraped",
            )
    await until(lambda: not silent(prometheus), "every query returns data")
    for status, number in stats["totals"]["statuses"].items():
        assert prometheus.number(f'sum(mcp_pools_tasks_total{{status="{status}"}})') == number, status
    for name, figures in stats["pools"].items():
        assert prometheus.number(f'sum(mcp_pools_tasks_total{{pool="{name}"}})') == figures["tasks"], name
    assert prometheus.number("sum(mcp_pools_tasks_submitted_total)") == ended
    assert prometheus.number("sum(mcp_pools_retries_total)") == 4
    # Each round one task alone and two items of the distribution.
    assert prometheus.number('sum(mcp_pools_errors_total{code="task_error"})') == 2 * 3
    assert prometheus.number('sum(mcp_pools_scaling_events_total{pool="b",direction="down"})') >= 2
    assert not prometheus.ask('ALERTS{alertstate="firing"}')  # what is bad has not lasted


def silent(prometheus: Prometheus) -> list[str]:
    """The queries that return nothing."""
    return [whose for whose, expression in shown() if not prometheus.ask(expression)]
