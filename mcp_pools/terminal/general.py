"""Any value as blocks: records as facts, lists of records as tables, the rest as JSON.

What no view knows is shown by these; the views use them for the parts they do not know.
"""

from __future__ import annotations

import json
from typing import Any

from mcp_pools.terminal.blocks import Cell, Column, Facts, Grid, Mark, Page, Words

Record = dict[str, Any]


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
            return [records(data, title)]
    elif isinstance(data, list) and all(_is_scalar(each) for each in data):
        return [Words("\n".join(_shown(each) for each in data), title)]
    elif title and _is_table(data) and not any(title in each for each in data.values()):
        return [records([{title: key, **each} for key, each in data.items()], title)]
    elif isinstance(data, dict) and (not title or all(map(_is_plain, data.values()))):
        return general(data, title)
    return [Words(json.dumps(data, ensure_ascii=False, indent=2), title)]


def records(each_row: list[Record], title: str) -> Grid:
    """A table of records; columns that hold nothing are left out."""
    names = list(dict.fromkeys(name for record in each_row for name in record))
    shown = []
    for name in names:
        values = [record.get(name) for record in each_row]
        if not all(each is None for each in values):
            shown.append((_column(name, values), [_cell(name, each) for each in values]))
    return grid_of(shown, title)


def _column(name: str, values: list[Any]) -> Column:
    known = [each for each in values if each is not None]
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in known)
    return Column(name, right=numbers, wraps=not numbers and name != "status")


def _cell(name: str, each: Any) -> Cell:
    if name == "status" and isinstance(each, str):
        return Mark(each)
    return "" if each is None else _shown(each)


def grid_of(shown: list[tuple[Column, list[Cell]]], title: str = "") -> Grid:
    """A table from its columns, each with its cells from top to bottom."""
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


def shorten(text: str, most: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def compact(each: Any) -> str:
    """A value in one line of JSON; text as it is."""
    return each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)


def pairs(labels: Record) -> str:
    """A record of scalars in one line: `a=1, b=2`."""
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def number(each: Any) -> str:
    """A number, and nothing where there is none."""
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
