"""The dashboard and the rules, looked at without a Prometheus."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from parts import require, require_module

from mcp_pools.telemetry import METRICS

GRAFANA = Path(__file__).parent.parent.parent / "grafana"
DASHBOARD = json.loads((GRAFANA / "mcp-pools.json").read_text())
RULES = yaml.safe_load((GRAFANA / "rules" / "mcp-pools.yaml").read_text())
EVERY_RULE = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in EVERY_RULE if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in EVERY_RULE if "record" in rule}
TITLES = [
    "Pool Overview",
    "Worker Metrics",
    "Task Execution Metrics",
    "Task Success Rate",
    "Pool Health Status",
    "Task Distribution by Pool",
    "Task Distribution by Type",
    "System Throughput",
    "Pool Utilization Heatmap",
    "Task Execution Latency",
    "Error Rate by Pool",
    "Memory Usage by Pool",
    "Routing Strategy Distribution",
    "Scaling Events",
    "Task Queue Size",
]
LABELS = {metric.name: set(metric.labels) for metric in METRICS}
LABELS |= {
    f"{m.name}{end}": {*m.labels, *({"le"} if end == "_bucket" else ())}
    for m in METRICS
    for end in ("_bucket", "_count", "_sum")
    if m.kind == "histogram"
}


def queries() -> Iterator[tuple[str, str]]:
    """Every query: whose it is, and its expression."""
    for panel in DASHBOARD["panels"]:
        yield from ((panel["title"], each["expr"]) for each in panel["targets"])
    yield from ((rule["alert"], rule["expr"]) for rule in ALERTS)
    yield from RECORDED.items()


def test_it_has_the_fifteen_panels_and_no_others() -> None:
    """At the top level, by their names."""
    assert sorted(panel["title"] for panel in DASHBOARD["panels"]) == sorted(TITLES)
    assert all(panel["type"] != "row" for panel in DASHBOARD["panels"])
    assert [file.name for file in GRAFANA.rglob("*.json")] == ["mcp-pools.json"]


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_what_to_do(panel: dict[str, Any]) -> None:
    """A description of more than its title, a unit, and a legend for each of its queries."""
    assert len(panel["description"]) > 80
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert all(each["legendFormat"] for each in panel["targets"])
    assert panel["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    """On Grafana's grid of 24 columns, without a gap in a row."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)


def test_its_variables_choose_the_source_pools_and_types() -> None:
    """And every one of them is used."""
    names = {each["name"] for each in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "pool", "pool_type", "task_type"}
    text = json.dumps(DASHBOARD["panels"])
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in names)


def test_the_file_is_what_the_code_makes() -> None:
    """Somebody who changes one must change the other."""
    require_module("grafana_foundation_sdk", "pip install grafana-foundation-sdk")
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.build() == (GRAFANA / "mcp-pools.json").read_text()


def test_every_metric_is_used() -> None:
    """By a panel or an alert."""
    text = " ".join(expression for _, expression in queries())
    used = set(re.findall(r"mcp_pools_\w+", text))
    base = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert {metric.name for metric in METRICS} - base - used == set()


@pytest.mark.parametrize(("whose", "expression"), list(queries()))
def test_a_query_names_metrics_that_are_there_with_labels_that_they_have(whose: str, expression: str) -> None:
    """A typing error would be an empty panel, or an alert that never fires."""
    rest = expression
    for recorded in RECORDED:
        rest = rest.replace(recorded, "")
    names = re.findall(r"(?<![:\w])(mcp_pools_\w+)(?:\{([^}]*)\})?", rest)
    assert names or rest != expression, f"{whose} asks for nothing"
    for name, matchers in names:
        assert name in LABELS, name
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= LABELS[name], (name, matchers)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_leads_to_a_section_of_the_runbook(alert: dict[str, Any]) -> None:
    """With a severity, and in words."""
    assert alert["labels"]["severity"] in ("warning", "critical")
    notes = alert["annotations"]
    assert notes["summary"] and notes["description"]
    file, _, anchor = notes["runbook"].partition("#")
    text = (GRAFANA.parent / file).read_text()
    assert anchor in {
        line[3:].lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")
    }


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "rules/mcp-pools.yaml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "tests/mcp-pools.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    """The rules are sound, and each alert fires when it should, and only then."""
    promtool = require("promtool", "apt-get install prometheus")
    done = subprocess.run([promtool, *words], cwd=GRAFANA, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    """That it fires."""
    tested = yaml.safe_load((GRAFANA / "tests" / "mcp-pools.yaml").read_text())["tests"]
    fired = {each["alertname"] for test in tested for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert fired == {rule["alert"] for rule in ALERTS}
