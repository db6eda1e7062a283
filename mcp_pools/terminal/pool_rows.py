"""The live view's table of pools: as many columns as there is room for, in the view's order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from mcp_pools.terminal.gauges import meter, rate_in_words, short
from mcp_pools.terminal.keyboard import View
from mcp_pools.terminal.observed import Observed
from mcp_pools.terminal.plain_text import one_line
from mcp_pools.terminal.tables import look

Record = dict[str, Any]

ROOMY: Final = 60
"""Columns from which there is room for bars and failures."""
_SPACIOUS: Final = 80
"""Columns from which there is room for types."""
WIDE: Final = 110
"""Columns from which there is room for all else."""


def in_order(seen: Observed, view: View, now: float) -> list[Record]:
    """The pools as the view sorts them: numbers from the top down, names from A on."""
    rates = seen.rates(now)
    keys: dict[str, Callable[[Record], float]] = {
        "name": lambda pool: 0.0,
        "queue": lambda pool: -pool["queue_size"],
        "busy": lambda pool: -pool["workers"]["busy"],
        "throughput": lambda pool: -rates.get(pool["name"], 0.0),
    }
    key = keys[view.sort]
    return sorted(seen.pools, key=lambda pool: (key(pool), pool["name"]), reverse=view.reverse)


class Column(NamedTuple):
    """A column of the table of pools: its heading, its width, and what stands in it."""

    name: str
    sort: str
    width: int
    right: bool
    cell: Callable[[Record], Text]


def _columns(seen: Observed, width: int, now: float) -> list[Column]:
    numbers = _numbers(seen, width, now)
    words = [_text(seen, "type", 13)] if width >= _SPACIOUS else []
    if width >= WIDE:
        words += [Column("status", "", 9, False, _status), _text(seen, "region", 14)]
    left = width - sum(each.width + 1 for each in (*words, *numbers)) - 1
    name = min(_widest(seen, "name", 40) + 2, left)
    return [Column("pool", "name", name, False, _name), *words, *numbers]


def _numbers(seen: Observed, width: int, now: float) -> list[Column]:
    rates = seen.rates(now)
    roomy = width >= ROOMY
    busy = Column("busy", "busy", 8 if roomy else 7, True, _workers)
    queue = Column("queue", "queue", 7 if roomy else 6, True, lambda pool: _count(pool["queue_size"]))
    done = Column("done/s", "throughput", 7, True, lambda pool: _rate(rates.get(pool["name"], 0.0)))
    if not roomy:
        return [busy, queue, done]
    long = 24 if width >= WIDE else 10
    bar = Column("workers", "", long, False, lambda pool: _bar(pool, long))
    lost = Column("failed", "", 6, True, lambda pool: _count(seen.failed.get(pool["name"], 0), "red"))
    return [bar, busy, queue, done, lost]


def _text(seen: Observed, key: str, most: int) -> Column:
    """A column of words, as wide as the longest."""
    return Column(
        key, "", _widest(seen, key, most), False, lambda pool: Text(one_line(str(pool[key])), style="dim")
    )


def _widest(seen: Observed, key: str, most: int) -> int:
    return min(most, max([len(key), *(cell_len(one_line(str(pool[key]))) for pool in seen.pools)]))


def table(seen: Observed, view: View, pools: Sequence[Record], width: int, now: float) -> list[Text]:
    """A heading, and a line for each of `pools`."""
    columns = _columns(seen, width, now)
    heading = _row([_heading(each, view) for each in columns], columns)
    return [heading, *(_row([column.cell(pool) for column in columns], columns) for pool in pools)]


def _heading(column: Column, view: View) -> Text:
    if column.sort != view.sort:
        return Text(column.name.upper(), style="dim")
    rises = (view.sort == "name") != view.reverse
    return Text(f"{column.name.upper()}{'▲' if rises else '▼'}", style="bold")


def _row(cells: Sequence[Text], columns: Sequence[Column]) -> Text:
    row = Text()
    for cell, column in zip(cells, columns, strict=True):
        cell.truncate(column.width, overflow="ellipsis")
        space = " " * (column.width - cell.cell_len)
        row.append(space if column.right else "").append_text(cell).append("" if column.right else space)
        row.append(" ")
    return row


def _name(pool: Record) -> Text:
    sign, style = look(pool["status"])
    return Text.assemble((sign, style), f" {one_line(pool['name'])}")


def _status(pool: Record) -> Text:
    return Text(one_line(pool["status"]), style=look(pool["status"])[1])


def _workers(pool: Record) -> Text:
    workers = pool["workers"]
    return Text(f"{workers['busy']}/{workers['total']}", style="" if workers["busy"] else "dim")


def _bar(pool: Record, width: int) -> Text:
    return meter(pool["workers"]["busy"], pool["workers"]["total"], pool["max_workers"], width)


def _count(number: int, style: str = "") -> Text:
    return Text(short(number), style=style if number else "dim")


def _rate(rate: float) -> Text:
    return Text(rate_in_words(rate), style="" if rate else "dim")
