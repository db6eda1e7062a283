"""What is worth showing of work: tasks, distributions, what was cancelled or moved."""

from __future__ import annotations

from typing import Final

from mcp_pools.terminal.blocks import Block, Cell, Column, Facts, Grid, Headline, Mark, Page, Words
from mcp_pools.terminal.general import Record, compact, moment, number, seconds, shorten, value

MOST_ROWS: Final = 50
"""Rows of one table; a longer list says how many more there are, and where."""


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
    """Tasks that were found, one a row, and what memories found."""
    if not data["tasks"]:
        return [Words("No task matches."), *_memories(data)]
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
    return blocks + _memories(data)


def _memories(data: Record) -> Page:
    rows: list[list[Cell]] = [
        [each["source"], each.get("task_id") or "", shorten(each.get("text") or each.get("error") or "")]
        for each in data.get("memories") or []
    ]
    columns = [Column("memory"), Column("task", wraps=True, drop=1), Column("says", wraps=True)]
    return [Grid(columns, rows, "memories")] if rows else []


def _gist(data: Record) -> str:
    """What came of a task, or why not, in a few words."""
    if error := data.get("error"):
        return shorten(f"{error['code']}: {error['message']}")
    if waiting := data.get("waiting"):
        return shorten(f"waits: {waiting['code']}")
    if data.get("result") is None:
        return "(long)" if data["status"] == "completed" and data.get("next") else ""
    return shorten(compact(data["result"]))


def cancelled(data: Record) -> Page:
    """Whether it was stopped."""
    if data["cancelled"]:
        return [Headline([Mark("cancelled"), data["id"]])]
    why = "had already finished" if data["already_finished"] else "was not cancelled"
    return [Headline([data["id"], why])]


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


def distribution(data: Record) -> Page:
    """Work that was spread over pools: what came of it in all, where it went, what failed, each item."""
    failures = [each for each in data["results"] if each.get("error")]
    blocks: Page = [
        Headline([Mark(data["status"]), data["distribution_id"], data["strategy"], _counted(data)]),
        Words(_spread(data), style="dim"),
    ]
    if error := data.get("error"):
        blocks.append(Facts([("error", f"{error['code']}: {error['message']}")]))
    if data.get("reduced") is not None:
        blocks += value(data["reduced"], "reduced")
    if data["pools"]:
        rows: list[list[Cell]] = [[name, str(items)] for name, items in data["pools"].items()]
        blocks.append(Grid([Column("pool", wraps=True), Column("items", right=True)], rows, "pools"))
    blocks += _cut(_failures(failures[:MOST_ROWS]), len(failures))
    blocks += _cut(_items(data["results"][:MOST_ROWS]), len(data["results"]))
    if data.get("next"):
        blocks.append(Facts([("next", data["next"])]))
    return blocks


def _counted(data: Record) -> str:
    """`40 of 42 succeeded, 2 failed`."""
    rest = [f", {data[name]} {name}" for name in ("failed", "cancelled") if data[name]]
    return f"{data['succeeded']} of {data['total']} succeeded" + "".join(rest)


def _spread(data: Record) -> str:
    parts = [f"{data['task_type']}, created {moment(data['created_at'])}"]
    if data.get("finished_at"):
        parts.append(f"finished {moment(data['finished_at'])}")
    return ", ".join(parts)


def _failures(items: list[Record]) -> Grid:
    columns = [
        Column("item", right=True),
        Column("task", wraps=True, drop=2),
        Column("pool", wraps=True, drop=1),
        Column("error", wraps=True),
    ]
    rows: list[list[Cell]] = [
        [str(each["index"]), each["task_id"], each.get("pool") or "", _why(each["error"])] for each in items
    ]
    return Grid(columns, rows, "failed")


def _why(error: Record) -> str:
    return f"{error['code']}: {error['message']}"


def _items(items: list[Record]) -> Grid:
    columns = [
        Column("item", right=True),
        Column("status"),
        Column("pool", wraps=True, drop=1),
        Column("result", wraps=True),
    ]
    rows: list[list[Cell]] = [
        [number(each["index"]), Mark(each["status"]), each.get("pool") or "", _came_of(each)]
        for each in items
    ]
    return Grid(columns, rows, "results")


def _came_of(item: Record) -> str:
    if error := item.get("error"):
        return shorten(_why(error))
    return "" if item.get("result") is None else shorten(compact(item["result"]))


def _cut(grid: Grid, of: int) -> list[Block]:
    """A table, if it has rows, and how many more of them there are."""
    more = of - len(grid.rows)
    rest = [Words(f"… and {more} more; -f json shows all", style="dim")] if more else []
    return [grid, *rest] if grid.rows else []


def rebalanced(data: Record) -> Page:
    """Which tasks moved where, and why."""
    columns = [Column("task", wraps=True), Column("from", wraps=True), Column("to", wraps=True)]
    moved = data["moved"]
    rows: list[list[Cell]] = [[each["task_id"], each["from"], each["to"]] for each in moved[:MOST_ROWS]]
    said = f"{len(moved)} task{'' if len(moved) == 1 else 's'} moved"
    return [Headline([said]), Words(data["why"]), *_cut(Grid(columns, rows), len(moved))]
