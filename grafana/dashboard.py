"""The dashboard as code: `python grafana/dashboard.py` writes `grafana/mcp-pools.json`.

Needs `pip install grafana-foundation-sdk`. Change this file, never the JSON: a test compares them.

The top row answers the operator's first question, whether anything is ill or full; the rows below
say where the time goes, what fails and who does the work. Every panel's description says what
to do when it looks bad; the commands in them are those of the console.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    piechart,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import piechart as pies

FILE: Final = Path(__file__).with_name("mcp-pools.json")
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
POOL: Final = 'pool=~"$pool"'
TYPED: Final = f'{POOL}, pool_type=~"$pool_type"'
TASKS: Final = f'{TYPED}, task_type=~"$task_type"'
TASKS_BY_POOL: Final = f'{POOL}, task_type=~"$task_type"'
RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"

GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
Query = tuple[str, str]
"""(expression, legend)."""


def target(at: int, query: Query, **more: Any) -> prometheus.Dataquery:
    """One query of a panel."""
    expression, legend = query
    made = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + at))
    return made.instant() if more.get("instant") else made.range()


def steps(*rising: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Thresholds: the color from each value on."""
    found = [models.Threshold(value=value, color=color) for value, color in rising]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def placed(
    panel: Any, title: str, about: str, at: tuple[int, int, int, int], queries: Sequence[Query], **more: Any
) -> Any:
    """A panel with what all of them have; `at`: x, y, width and height on the grid of 24."""
    x, y, width, height = at
    panel.title(title).description(about).datasource(SOURCE)
    panel.grid_pos(models.GridPos(x=x, y=y, w=width, h=height))
    for number, query in enumerate(queries):
        panel.with_target(target(number, query, **more))
    return panel


def lines(unit: str, *, stacked: bool = False, least: float | None = 0) -> timeseries.Panel:
    """Lines over time, with a table of the last and the highest value."""
    panel = timeseries.Panel().unit(unit).line_width(2).fill_opacity(30 if stacked else 8)
    panel.show_points(shapes.VisibilityMode.NEVER).span_nulls(True)
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.TABLE)
    panel.legend(legend.placement(shapes.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"]))
    panel.tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI))
    if stacked:
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    return panel if least is None else panel.min(least)


def shares(unit: str = "short") -> piechart.Panel:
    """A ring of shares."""
    panel = piechart.Panel().unit(unit).pie_type(pies.PieChartType.DONUT)
    legend = piechart.PieChartLegendOptions().display_mode(shapes.LegendDisplayMode.TABLE)
    values = [pies.PieChartLegendValues.VALUE, pies.PieChartLegendValues.PERCENT]
    panel.legend(legend.placement(shapes.LegendPlacement.RIGHT).values(values).show_legend(True))
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def this_pool() -> dashboard.DashboardLink:
    """A link from a series to this dashboard, with its pool alone."""
    link = dashboard.DashboardLink("Only ${__field.labels.pool}")
    return link.url("/d/mcp-pools/mcp-pools?${__url_time_range}&var-pool=${__field.labels.pool}")


def overview() -> Any:
    """Pool Overview."""
    panel = stat.Panel().unit("short").color_mode(shapes.BigValueColorMode.BACKGROUND)
    panel.thresholds(steps((None, BLUE))).text_mode(shapes.BigValueTextMode.VALUE_AND_NAME)
    for status, color in (("running", GREEN), ("degraded", ORANGE), ("failed", RED), ("draining", "purple")):
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(status, [models.DynamicConfigValue(id_val="color", value=fixed)])
    return placed(
        panel,
        "Pool Overview",
        "Pools by status. Anything but running wants a look: `mcp-pools health` says why a pool is degraded "
        "or failed; a draining one closes when what it runs has ended.",
        (0, 0, 6, 6),
        [("sum by (status) (mcp_pools_pools)", "{{status}}")],
    )


def success() -> Any:
    """Task Success Rate."""
    bad = f'sum(rate(mcp_pools_tasks_total{{{TASKS}, status=~"failed|timed_out"}}[5m])) or vector(0)'
    all_of_them = f'sum(rate(mcp_pools_tasks_total{{{TASKS}, status!="cancelled"}}[5m]))'
    panel = stat.Panel().unit("percentunit").decimals(1).min(0).max(1).no_value("no tasks")
    panel.thresholds(steps((None, RED), (0.9, ORANGE), (0.99, GREEN)))
    panel.graph_mode(shapes.BigValueGraphMode.AREA)
    return placed(
        panel,
        "Task Success Rate",
        "Completed tasks among those that completed, failed or timed out, over 5 minutes. Below "
        "99 %: look at "
        "Error Rate by Pool for the code, then `mcp-pools search --status failed`.",
        (6, 0, 4, 6),
        [(f"1 - ({bad}) / {all_of_them}", "success")],
    )


def health() -> Any:
    """Pool Health Status."""
    named = {
        "2": models.ValueMappingResult(text="healthy", color=GREEN, index=0),
        "1": models.ValueMappingResult(text="degraded", color=ORANGE, index=1),
        "0": models.ValueMappingResult(text="unhealthy", color=RED, index=2),
    }
    panel = statetimeline.Panel().unit("short").mappings([models.ValueMap(options=named)])
    panel.thresholds(steps((None, RED), (1, ORANGE), (2, GREEN))).data_links([this_pool()])
    return placed(
        panel,
        "Pool Health Status",
        "Each pool's health over time. Unhealthy: new tasks go elsewhere, pinned ones wait. "
        "`mcp-pools health "
        "--pool NAME` has the reason; a pool that flaps is short of memory or its workers do not start.",
        (10, 0, 14, 6),
        [(f"mcp_pools_pool_status{{{TYPED}}}", "{{pool}}")],
    )


def queue() -> Any:
    """Task Queue Size."""
    panel = lines("short").data_links([this_pool()])
    panel.override_by_query("B", [models.DynamicConfigValue(id_val="unit", value="s")])
    return placed(
        panel,
        "Task Queue Size",
        "Tasks that wait, and how long the oldest has waited. Growing while workers are idle: a "
        "limit or a sick "
        "pool holds them back (`mcp-pools search --status queued` says what each waits for). "
        "Growing while all "
        "are busy: `mcp-pools scale NAME --workers N`, or `mcp-pools rebalance`.",
        (0, 6, 8, 8),
        [
            (f"mcp_pools_queue_size{{{POOL}}}", "{{pool}}"),
            (f"mcp_pools_oldest_queued_seconds{{{POOL}}}", "{{pool}} oldest"),
        ],
    )


def workers() -> Any:
    """Worker Metrics."""
    return placed(
        lines("short", stacked=True).data_links([this_pool()]),
        "Worker Metrics",
        "Workers by what they do. All busy: the pool is full. Many starting for long: workers die young; the "
        "owner's log says of what. None at all while tasks wait is an alert.",
        (8, 6, 8, 8),
        [(f"sum by (pool, state) (mcp_pools_workers{{{TYPED}}})", "{{pool}} {{state}}")],
    )


def throughput() -> Any:
    """System Throughput."""
    return placed(
        lines("ops"),
        "System Throughput",
        "Tasks accepted and ended a second, and tool calls of clients. Accepted above ended for "
        "long is a queue "
        "that grows; both at nothing while clients call is a router in trouble.",
        (16, 6, 8, 8),
        [
            (f"sum(rate(mcp_pools_tasks_submitted_total{{{TASKS_BY_POOL}}}[{RATE}]))", "accepted"),
            (f"sum(rate(mcp_pools_tasks_total{{{TASKS}}}[{RATE}]))", "ended"),
            (
                f"sum by (outcome) (rate(mcp_pools_tool_duration_seconds_count[{RATE}]))",
                "tool calls {{outcome}}",
            ),
        ],
    )


def latency() -> Any:
    """Task Execution Latency."""

    def quantile(of: str, metric: str, labels: str = "") -> str:
        inside = f"{metric}_bucket{{{labels}}}" if labels else f"{metric}_bucket"
        return f"histogram_quantile({of}, sum by (le) (rate({inside}[{RATE}])))"

    running, waiting = "mcp_pools_task_duration_seconds", "mcp_pools_task_queue_seconds"
    return placed(
        lines("s"),
        "Task Execution Latency",
        "How long tasks run and wait, and what the router itself adds. Waiting above running: too "
        "few workers. "
        "Commits above 10 ms: the disk is slow or full. Choosing above 1 ms: something is wrong "
        "with the machine.",
        (0, 14, 8, 8),
        [
            (quantile("0.5", running, TASKS_BY_POOL), "run p50"),
            (quantile("0.95", running, TASKS_BY_POOL), "run p95"),
            (quantile("0.95", waiting, POOL), "wait p95"),
            (quantile("0.99", "mcp_pools_store_commit_seconds"), "commit p99"),
            (quantile("0.99", "mcp_pools_routing_duration_seconds"), "choosing p99"),
            (quantile("0.95", "mcp_pools_tool_duration_seconds"), "tool call p95"),
        ],
    )


def errors() -> Any:
    """Error Rate by Pool."""
    return placed(
        lines("ops", stacked=True).data_links([this_pool()]),
        "Error Rate by Pool",
        "Failed tasks, and failed items of chunks, a second by pool and code. `task_error` is the "
        "work's own; "
        "`worker_lost` and `out_of_memory` are the pool's; `timeout` wants a longer `--timeout` "
        "or smaller work. "
        "`mcp-pools search --status failed --pool NAME` has the messages.",
        (8, 14, 8, 8),
        [(f"sum by (pool, code) (rate(mcp_pools_errors_total{{{POOL}}}[{RATE}]))", "{{pool}} {{code}}")],
    )


def executed() -> Any:
    """Task Execution Metrics."""
    return placed(
        lines("ops", stacked=True),
        "Task Execution Metrics",
        "Tasks that ended a second by status, and attempts that are made again. Many retries with "
        "few failures: "
        "something is unstable and `max_attempts` hides it.",
        (16, 14, 8, 8),
        [
            (f"sum by (status) (rate(mcp_pools_tasks_total{{{TASKS}}}[{RATE}]))", "{{status}}"),
            (f"sum(rate(mcp_pools_retries_total{{{POOL}}}[{RATE}]))", "retried"),
        ],
    )


def utilization() -> Any:
    """Pool Utilization Heatmap."""
    busy = f'sum by (pool) (mcp_pools_workers{{{TYPED}, state="busy"}})'
    panel = heatmap.Panel().unit("percentunit").calculate(False)
    return placed(
        panel,
        "Pool Utilization Heatmap",
        "Busy workers among a pool's workers, a row a pool. One hot row among cold ones: work is "
        "pinned there, or "
        "only that pool runs its type; `mcp-pools rebalance --dry-run` says what could move.",
        (0, 22, 12, 8),
        [(f"{busy} / (sum by (pool) (mcp_pools_workers{{{TYPED}}}) > 0)", "{{pool}}")],
    )


def memory() -> Any:
    """Memory Usage by Pool."""
    panel = lines("bytes", stacked=True).data_links([this_pool()])
    panel.override_by_query(
        "B", [models.DynamicConfigValue(id_val="custom.stacking", value={"mode": "none"})]
    )
    return placed(
        panel,
        "Memory Usage by Pool",
        "Memory of each pool's workers. Rising without more workers: a task type keeps what it "
        "should let go; "
        "workers are recycled over `recycle_bytes`, and ended over `worker_memory_limit_bytes`.",
        (12, 22, 12, 8),
        [(f"mcp_pools_pool_memory_bytes{{{POOL}}}", "{{pool}}")],
    )


def by_pool() -> Any:
    """Task Distribution by Pool."""
    return placed(
        shares(),
        "Task Distribution by Pool",
        "Which pools the tasks of the shown time ended on. A pool with nothing is ill, full, or "
        "fits no selector.",
        (0, 30, 6, 8),
        [(f"sum by (pool) (increase(mcp_pools_tasks_total{{{TASKS}}}[{RANGE}]))", "{{pool}}")],
        instant=True,
    )


def by_type() -> Any:
    """Task Distribution by Type."""
    return placed(
        shares(),
        "Task Distribution by Type",
        "Which task types the tasks of the shown time were. A type you did not expect: `mcp-pools "
        "search -t TYPE` "
        "says whose they are.",
        (6, 30, 6, 8),
        [(f"sum by (task_type) (increase(mcp_pools_tasks_total{{{TASKS}}}[{RANGE}]))", "{{task_type}}")],
        instant=True,
    )


def strategies() -> Any:
    """Routing Strategy Distribution."""
    panel = bargauge.Panel().unit("short").orientation(shapes.VizOrientation.HORIZONTAL)
    panel.thresholds(steps((None, BLUE))).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return placed(
        panel,
        "Routing Strategy Distribution",
        "Tasks placed by strategy in the shown time. Much `affinity`: those are never moved, so a "
        "sick home pool "
        "makes them wait. Set `pool_routing_strategy` for what clients leave open.",
        (12, 30, 6, 8),
        [
            (
                f"sum by (strategy) (increase(mcp_pools_routing_decisions_total{{{POOL}}}[{RANGE}]))",
                "{{strategy}}",
            )
        ],
        instant=True,
    )


def scaling() -> Any:
    """Scaling Events."""
    panel = lines("short").draw_style(shapes.GraphDrawStyle.BARS).data_links([this_pool()])
    return placed(
        panel,
        "Scaling Events",
        "Workers gained and lost. Up and down without end: workers die, or `min_workers` is too "
        "low for how the "
        "work comes; raise it and they stay.",
        (18, 30, 6, 8),
        [
            (
                f"sum by (pool, direction) (increase(mcp_pools_scaling_events_total{{{POOL}}}[{RATE}]))",
                "{{pool}} {{direction}}",
            )
        ],
    )


PANELS: Final = (
    *(overview, success, health, queue, workers, throughput, latency, errors, executed),
    *(utilization, memory, by_pool, by_type, strategies, scaling),
)


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A choice of names, several at once, all by default."""
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE)
    made.query({"query": query, "refId": name}).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    made.current(models.VariableOption(text="All", value="$__all"))
    return made.multi(True).include_all(True).all_value(".*").sort(models.VariableSort.ALPHABETICAL_ASC)


def build() -> str:
    """The dashboard as Grafana imports it."""
    made = dashboard.Dashboard("mcp-pools").uid("mcp-pools").tags(["mcp-pools"]).refresh("10s")
    made.description("Pools of workers: what is slow, full, failing or dying, and why.")
    made.time("now-1h", "now").timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR).editable()
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    made.with_variable(source)
    for name, label, query in (
        ("pool_type", "Pool type", "label_values(mcp_pools_pool_status, pool_type)"),
        ("pool", "Pool", 'label_values(mcp_pools_pool_status{pool_type=~"$pool_type"}, pool)'),
        ("task_type", "Task type", "label_values(mcp_pools_tasks_submitted_total, task_type)"),
    ):
        made.with_variable(variable(name, label, query))
    for panel in PANELS:
        made.with_panel(panel())
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(build())
    print(f"{FILE.name}: {len(json.loads(FILE.read_text())['panels'])} panels")
