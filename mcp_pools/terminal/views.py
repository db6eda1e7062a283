"""What is worth showing of a result: blocks that a table or a Markdown page draws.

Pure: from a tool's structured content to a page, whoever draws it. The special views are
chosen by the shape of the data, so that every tool that returns a pool or a task shows
it the same way; anything else gets the general view.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mcp_pools.terminal.blocks import Block, Cell, Column, Facts, Grid, Headline, Mark, Page, Words

Record = dict[str, Any]


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
    return [_grid_of([(column, cells) for column, cells in shown if any(cells)])]


def _pool_cell(name: str, pool: Record) -> Cell:
    workers = pool["workers"]
    cells: dict[str, Cell] = {
        "pool": pool["name"],
        "status": Mark(pool["status"]),
        "workers": f"{workers['busy']}/{workers['total']}",
        "queue": str(pool["queue_size"]),
        "size": f"{pool['min_workers']}-{pool['max_workers']}",
        "labels": _pairs(pool["labels"]),
        "runs": ", ".join(pool["task_types"]),
    }
    return cells[name] if name in cells else str(pool.get(name, ""))


def _pairs(labels: Record) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def pool(data: Record) -> Page:
    """One pool; with its workers and its history when they are there."""
    workers = data["workers"]
    rows: list[tuple[str, Cell]] = [
        ("workers", f"{workers['busy']} busy, {workers['idle']} idle, {workers['total']} in all"),
        ("size", f"{data['min_workers']} to {data['max_workers']}"),
        ("queue", str(data["queue_size"])),
        ("region", data["region"]),
        ("labels", _pairs(data["labels"])),
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
            _number(worker.get("pid")),
            worker.get("task_id") or "",
            _number(worker.get("tasks_done")),
            size(worker.get("memory_bytes")),
            moment(worker.get("started_at")),
        ]
        for worker in workers
    ]
    return Grid(columns, rows, "workers")


def _metrics(metrics: Record) -> Facts:
    quantiles = [(name, metrics.get(f"{name}_seconds")) for name in ("p50", "p95", "p99")]
    rows: list[tuple[str, Cell]] = [
        ("completed", _number(metrics.get("tasks_completed"))),
        ("failed", _number(metrics.get("tasks_failed"))),
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
            _number(each["workers"]),
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
            _pairs(each.get("data") or {}),
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
    return [_records(rows, "") if rows else nothing]


def cancelled(data: Record) -> Page:
    """Whether it was stopped."""
    if data["cancelled"]:
        return [Headline([Mark("cancelled"), data["id"]])]
    why = "had already finished" if data["already_finished"] else "was not cancelled"
    return [Headline([data["id"], why])]


def task(data: Record) -> Page:
    """One task: how it stands, why, and what it returned."""
    where = f"on {data['pool']}" if data.get("pool") else "on no pool yet"
    blocks: Page = [
        Headline([Mark(data["status"]), data["task_id"], data["task_type"], where]),
        Words(_times(data), style="dim"),
        *_troubles(data),
    ]
    if data.get("result") is not None or data["status"] == "completed":
        blocks += value(data.get("result"), "")
    if data.get("result_uri"):
        blocks.append(Facts([("the whole result", data["result_uri"])]))
    if data.get("output_tail"):
        blocks.append(Words(data["output_tail"].rstrip("\n"), "output"))
    if data.get("next"):
        blocks.append(Facts([("next", data["next"])]))
    return blocks


def tasks(data: Record) -> Page:
    """Tasks that were found, one a row."""
    if not data["tasks"]:
        return [Words("No task matches.")]
    columns = [
        Column("task", wraps=True),
        Column("status"),
        Column("type", wraps=True),
        Column("pool", wraps=True, drop=1),
        Column("created", drop=2),
        Column("ran", right=True, drop=3),
        Column("result", wraps=True, drop=4),
    ]
    rows: list[list[Cell]] = [
        [
            each["task_id"],
            Mark(each["status"]),
            each["task_type"],
            each.get("pool") or "",
            moment(each["created_at"]),
            seconds(each.get("run_seconds")),
            _gist(each),
        ]
        for each in data["tasks"]
    ]
    blocks: Page = [Grid(columns, rows)]
    if data.get("next_cursor"):
        blocks.append(Facts([("more", f"--cursor {data['next_cursor']}")]))
    return blocks


def _gist(data: Record) -> str:
    """What came of a task, or why not, in a few words."""
    if error := data.get("error"):
        return shorten(f"{error['code']}: {error['message']}")
    if waiting := data.get("waiting"):
        return shorten(f"waits: {waiting['code']}")
    if data.get("result") is None:
        return "(long)" if data["status"] == "completed" and data.get("next") else ""
    return shorten(compact(data["result"]))


def shorten(text: str, most: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _times(data: Record) -> str:
    parts = [f"created {moment(data['created_at'])}"]
    if data.get("queue_seconds") is not None:
        parts.append(f"queued {seconds(data['queue_seconds'])}")
    if data.get("run_seconds") is not None:
        parts.append(f"ran {seconds(data['run_seconds'])}")
    if data.get("finished_at"):
        parts.append(f"finished {moment(data['finished_at'])}")
    if data.get("max_attempts", 1) > 1:
        parts.append(f"attempt {data['attempt']} of {data['max_attempts']}")
    return ", ".join(parts)


def _troubles(data: Record) -> Page:
    """Why it waits, how far it is, why it failed."""
    rows: list[tuple[str, Cell]] = []
    if waiting := data.get("waiting"):
        rows.append(("waits", f"{waiting['code']}: {waiting['message']}"))
    if (progress := data.get("progress")) and data["status"] in ("queued", "running"):
        of = f" of {progress['total']:g}" if progress.get("total") else ""
        rows.append(("progress", f"{progress['done']:g}{of} {progress.get('message') or ''}".rstrip()))
    if error := data.get("error"):
        rows.append(("error", f"{error['code']}: {error['message']}"))
        rows += [(f"  {name}", compact(detail)) for name, detail in (error.get("details") or {}).items()]
    return [Facts(rows)] if rows else []


def general(data: Record, title: str = "") -> Page:
    """Any record: its scalars as facts, its lists of records as tables, the rest as JSON."""
    scalars = {key: each for key, each in data.items() if _is_scalar(each)}
    blocks: Page = [Facts([(key, _shown(each)) for key, each in scalars.items()], title)] if scalars else []
    for key, each in data.items():
        if key not in scalars:
            blocks += value(each, f"{title}.{key}" if title else key)
    return blocks


def value(data: Any, title: str) -> Page:
    """Any JSON value, in the plainest form that shows all of it."""
    if _is_scalar(data):
        return [Words("null" if data is None else _shown(data), title)]
    if not data:
        return [Words("none" if title else json.dumps(data), title)]
    if isinstance(data, list) and all(isinstance(each, dict) and each for each in data):
        if all(_is_flat(each) for each in data):
            return [_records(data, title)]
    elif isinstance(data, list) and all(_is_scalar(each) for each in data):
        return [Words("\n".join(_shown(each) for each in data), title)]
    elif title and _is_table(data) and not any(title in each for each in data.values()):
        return [_records([{title: key, **each} for key, each in data.items()], title)]
    elif isinstance(data, dict) and (not title or all(map(_is_plain, data.values()))):
        return general(data, title)
    return [Words(json.dumps(data, ensure_ascii=False, indent=2), title)]


def _records(records: list[Record], title: str) -> Grid:
    """A table of records; columns that hold nothing are left out."""
    names = list(dict.fromkeys(name for record in records for name in record))
    shown = []
    for name in names:
        values = [record.get(name) for record in records]
        if not all(each is None for each in values):
            shown.append((_column(name, values), [_cell(name, each) for each in values]))
    return _grid_of(shown, title)


def _column(name: str, values: list[Any]) -> Column:
    known = [each for each in values if each is not None]
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in known)
    return Column(name, right=numbers, wraps=not numbers and name != "status")


def _cell(name: str, each: Any) -> Cell:
    if name == "status" and isinstance(each, str):
        return Mark(each)
    return "" if each is None else _shown(each)


def _grid_of(shown: list[tuple[Column, list[Cell]]], title: str = "") -> Grid:
    rows = [list(row) for row in zip(*(cells for _, cells in shown), strict=True)]
    return Grid([column for column, _ in shown], rows, title)


def _is_scalar(each: Any) -> bool:
    return not isinstance(each, dict | list)


def _is_flat(record: Record) -> bool:
    """Whether a record's values all fit a cell: scalars, and short lists of them."""
    return all(
        _is_scalar(each) or (isinstance(each, list) and len(each) <= 8 and all(map(_is_scalar, each)))
        for each in record.values()
    )


def _is_table(data: Any) -> bool:
    """Whether it is a record of flat records: a table whose first column is the key."""
    return isinstance(data, dict) and all(
        isinstance(each, dict) and each and _is_flat(each) for each in data.values()
    )


def _is_plain(each: Any) -> bool:
    return _is_scalar(each) or (isinstance(each, dict) and (_is_flat(each) or _is_table(each)))


def _shown(each: Any) -> str:
    if isinstance(each, float):
        return repr(round(each, 6))
    if isinstance(each, list):
        return ", ".join(_shown(part) for part in each)
    return each if isinstance(each, str) else compact(each)


def compact(each: Any) -> str:
    """A value in one line of JSON; text as it is."""
    return each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)


def _number(each: Any) -> str:
    return "" if each is None else str(each)


def seconds(duration: float | None) -> str:
    """A duration as people say it."""
    if duration is None:
        return ""
    if duration < 1:
        return f"{duration * 1000:.3g} ms"
    if duration < 60:
        return f"{duration:.3g} s"
    minutes, rest = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: int | None) -> str:
    """A number of bytes as people say it."""
    if count is None:
        return ""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.3g} {units[0]}" if units[0] != "B" else f"{count} B"


def moment(stamp: str | None) -> str:
    """An RFC 3339 time without what nobody reads: `2026-07-28 12:00:03 UTC`."""
    if not stamp:
        return ""
    day, _, clock = stamp.partition("T")
    return f"{day} {clock[:8]} UTC" if clock else stamp


_VIEWS: list[tuple[frozenset[str], Callable[[Record], Page]]] = [
    (frozenset({"task_id", "task_type", "status", "created_at"}), task),
    (frozenset({"pool_id", "workers", "status"}), pool),
    (frozenset({"status", "pools"}), health),
    (frozenset({"pools", "total"}), pool_list),
    (frozenset({"tasks", "next_cursor"}), tasks),
    (frozenset({"events", "cursor", "pools"}), watched),
    (frozenset({"totals", "pools", "by_type"}), stats),
    (frozenset({"checks", "version"}), findings),
    (frozenset({"cancelled", "already_finished"}), cancelled),
    (frozenset({"found"}), found),
]
"""Which keys make which view; the first that fits."""
