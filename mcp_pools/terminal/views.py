"""What is worth showing of a result: blocks that a table or a Markdown page draws.

Pure: from a tool's structured content to a page, whoever draws it. The special views are
chosen by the shape of the data, so that every tool that returns a pool or a task shows
it the same way; anything else gets the general view. Those of work are in `task_views`.
"""

from __future__ import annotations

from collections.abc import Callable

from mcp_pools.terminal.blocks import Block, Cell, Column, Facts, Grid, Headline, Mark, Page, Words
from mcp_pools.terminal.general import (
    Record,
    general,
    grid_of,
    moment,
    number,
    pairs,
    records,
    seconds,
    shorten,
    size,
)
from mcp_pools.terminal.task_views import cancelled, distribution, rebalanced, task, tasks


def page(tool_name: str, data: Record) -> Page:
    """A tool's structured content as blocks."""
    for keys, view in _VIEWS:
        if keys <= data.keys():
            try:
                return view(data)
            except (KeyError, TypeError, AttributeError, ValueError):
                break  # A server of another version may shape it otherwise; it is still worth showing.
    return general(data) or [Words("Nothing to show.")]


def pool_list(data: Record) -> Page:
    """All pools, one a row."""
    if not data["pools"]:
        return [Words("No pools. Register one with 'mcp-pools register'.")]
    columns = [
        Column("pool", wraps=True),
        Column("status"),
        Column("type", drop=2),
        Column("workers", right=True),
        Column("queue", right=True),
        Column("size", right=True, drop=1),
        Column("region", drop=3),
        Column("labels", wraps=True, drop=4),
        Column("runs", wraps=True, drop=5),
    ]
    shown = [(column, [_pool_cell(column.name, pool) for pool in data["pools"]]) for column in columns]
    return [grid_of([(column, cells) for column, cells in shown if any(cells)])]


def _pool_cell(name: str, pool: Record) -> Cell:
    workers = pool["workers"]
    cells: dict[str, Cell] = {
        "pool": pool["name"],
        "status": Mark(pool["status"]),
        "workers": f"{workers['busy']}/{workers['total']}",
        "queue": str(pool["queue_size"]),
        "size": f"{pool['min_workers']}-{pool['max_workers']}",
        "labels": pairs(pool["labels"]),
        "runs": ", ".join(pool["task_types"]),
    }
    return cells[name] if name in cells else str(pool.get(name, ""))


def pool(data: Record) -> Page:
    """One pool; with its workers and its history when they are there."""
    workers = data["workers"]
    rows: list[tuple[str, Cell]] = [
        ("workers", f"{workers['busy']} busy, {workers['idle']} idle, {workers['total']} in all"),
        ("size", f"{data['min_workers']} to {data['max_workers']}"),
        ("queue", str(data["queue_size"])),
        ("region", data["region"]),
        ("labels", pairs(data["labels"])),
        ("runs", ", ".join(data["task_types"])),
        ("id", data["pool_id"]),
    ]
    blocks: Page = [Headline([Mark(data["status"]), data["name"], f"a {data['type']} pool"])]
    blocks.append(Facts([row for row in rows if row[1]]))
    if data.get("worker_rows"):
        blocks.append(_workers(data["worker_rows"]))
    if data.get("metrics"):
        blocks.append(_metrics(data["metrics"]))
    return blocks


def _workers(workers: list[Record]) -> Grid:
    columns = [
        Column("worker", wraps=True),
        Column("status"),
        Column("pid", right=True, drop=2),
        Column("task", wraps=True),
        Column("done", right=True),
        Column("memory", right=True, drop=1),
        Column("since", drop=3),
    ]
    rows: list[list[Cell]] = [
        [
            worker["worker_id"],
            Mark(worker["status"]),
            number(worker.get("pid")),
            worker.get("task_id") or "",
            number(worker.get("tasks_done")),
            size(worker.get("memory_bytes")),
            moment(worker.get("started_at")),
        ]
        for worker in workers
    ]
    return Grid(columns, rows, "workers")


def _metrics(metrics: Record) -> Facts:
    quantiles = [(name, metrics.get(f"{name}_seconds")) for name in ("p50", "p95", "p99")]
    rows: list[tuple[str, Cell]] = [
        ("completed", number(metrics.get("tasks_completed"))),
        ("failed", number(metrics.get("tasks_failed"))),
        ("average", seconds(metrics.get("avg_duration_seconds"))),
        *((name, seconds(value)) for name, value in quantiles),
        ("memory", size(metrics.get("memory_bytes"))),
    ]
    return Facts([row for row in rows if row[1]], "tasks")


def health(data: Record) -> Page:
    """The verdict, then each pool's own."""
    columns = [
        Column("pool", wraps=True),
        Column("status"),
        Column("workers", right=True),
        Column("latency", right=True, drop=1),
        Column("reason", wraps=True),
    ]
    rows: list[list[Cell]] = [
        [
            each["name"],
            Mark(each["status"]),
            number(each["workers"]),
            seconds(each["latency_seconds"]),
            each.get("reason") or "",
        ]
        for each in data["pools"]
    ]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    said = f"{len(rows)} pool{'' if len(rows) == 1 else 's'}"
    return [Headline([Mark(data["status"]), said]), *([Grid(columns, rows)] if rows else [])]


def stats(data: Record) -> Page:
    """All tasks in numbers; those of each pool and of each type, one a row."""
    totals = data["totals"]
    counts = ", ".join(f"{count} {status}" for status, count in totals["statuses"].items())
    blocks: Page = [Headline([f"{totals['tasks']} tasks", counts]), _figures({"all": totals}, "")]
    for key, title in (("pools", "pool"), ("by_type", "type")):
        if data.get(key):
            blocks.append(_figures(data[key], title))
    return blocks


def _figures(groups: dict[str, Record], title: str) -> Grid:
    columns = [
        Column(title or "tasks", wraps=True),
        Column("count", right=True),
        Column("success", right=True),
        Column("failed", right=True, drop=1),
        Column("average", right=True, drop=2),
        *(Column(name, right=True, drop=3) for name in ("p50", "p95", "p99")),
    ]
    rows: list[list[Cell]] = [
        [
            name,
            str(each["tasks"]),
            "" if each["success_rate"] is None else f"{each['success_rate']:.1%}",
            str(sum(each["statuses"].get(status, 0) for status in ("failed", "timed_out"))),
            seconds(each["avg_seconds"]),
            *(seconds(each[f"{quantile}_seconds"]) for quantile in ("p50", "p95", "p99")),
        ]
        for name, each in groups.items()
    ]
    return Grid(columns, rows)


def watched(data: Record) -> Page:
    """What happened, one event a row, then the pools."""
    columns = [
        Column("at"),
        Column("event"),
        Column("pool", wraps=True),
        Column("task", wraps=True, drop=1),
        Column("more", wraps=True, drop=2),
    ]
    rows: list[list[Cell]] = [
        [
            moment(each["at"]),
            each["kind"],
            each.get("pool") or "",
            each.get("task_id") or "",
            pairs(each.get("data") or {}),
        ]
        for each in data["events"]
    ]
    events: Block = Grid(columns, rows) if rows else Words("Nothing has happened.")
    return [events, *pool_list(data), Facts([("go on", f"--cursor {data['cursor']}")])]


def findings(data: Record) -> Page:
    """What `doctor` found, each with what to do about it."""
    columns = [Column("check", wraps=True), Column("status"), Column("finding", wraps=True)]
    rows: list[list[Cell]] = [
        [each["check"], Mark(each["status"]), " → ".join(filter(None, [each["finding"], each["next"]]))]
        for each in data["checks"]
    ]
    return [Headline([Mark(data["status"]), f"mcp-pools {data['version']}"]), Grid(columns, rows)]


def found(data: Record) -> Page:
    """What could be a pool, one a row."""
    said = {True: "yes", False: "no", None: "not asked"}
    rows = [
        {
            **each,
            "reachable": said[each["reachable"]],
            "offers": shorten(", ".join(each["offers"])),
            "registered": said[each["registered"]],
        }
        for each in data["found"]
    ]
    nothing = Words("Nothing was found. Name servers under 'ecosystem' in the configuration.")
    return [records(rows, "") if rows else nothing]


_VIEWS: list[tuple[frozenset[str], Callable[[Record], Page]]] = [
    (frozenset({"task_id", "task_type", "status", "created_at"}), task),
    (frozenset({"distribution_id", "strategy", "results"}), distribution),
    (frozenset({"pool_id", "workers", "status"}), pool),
    (frozenset({"status", "pools"}), health),
    (frozenset({"pools", "total"}), pool_list),
    (frozenset({"tasks", "next_cursor"}), tasks),
    (frozenset({"events", "cursor", "pools"}), watched),
    (frozenset({"totals", "pools", "by_type"}), stats),
    (frozenset({"checks", "version"}), findings),
    (frozenset({"cancelled", "already_finished"}), cancelled),
    (frozenset({"found"}), found),
    (frozenset({"moved", "why"}), rebalanced),
]
"""Which keys make which view; the first that fits."""
