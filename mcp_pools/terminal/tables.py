"""Draws a page for a terminal: as wide as it is, in colour where that is wanted.

A table that is too wide first loses the columns its view can do without; when even that
is not enough, each record becomes a block of its own.
"""

from __future__ import annotations

import io
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mcp_pools.terminal.blocks import Block, Cell, Column, Facts, Grid, Headline, Page, Words
from mcp_pools.terminal.plain_text import one_line, plain

_LOOKS: Final = {
    "running": ("●", "cyan"),
    "busy": ("●", "cyan"),
    "queued": ("○", "yellow"),
    "starting": ("○", "yellow"),
    "idle": ("○", "dim"),
    "draining": ("◐", "yellow"),
    "stopping": ("◐", "yellow"),
    "degraded": ("▲", "yellow"),
    "warning": ("▲", "yellow"),
    "completed": ("✓", "green"),
    "healthy": ("✓", "green"),
    "ok": ("✓", "green"),
    "failed": ("✗", "red"),
    "unhealthy": ("✗", "red"),
    "timed_out": ("✗", "red"),
    "cancelled": ("■", "magenta"),
    "closed": ("■", "dim"),
}
_GAP: Final = 2
_NARROWEST_FOLDED: Final = 14


def look(status: str) -> tuple[str, str]:
    """A status' mark and its style."""
    return _LOOKS.get(status, ("·", ""))


def draw(page: Page, width: int, color: bool) -> str:
    """The page as text, no line wider than `width`."""
    paper = io.StringIO()
    console = Console(
        file=paper,
        width=max(width, 1),
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for number, block in enumerate(page):
        if number and not _belongs(page[number - 1], block):
            console.print()
        for part in _drawn(block, width, color):
            console.print(part, overflow="fold")
    return "\n".join(line.rstrip(" ") for line in paper.getvalue().rstrip("\n").split("\n"))


def _belongs(before: Block, block: Block) -> bool:
    """Whether a block continues the one before it, with no empty line between."""
    if isinstance(before, Grid):
        return isinstance(block, Words) and not block.title
    return isinstance(before, Headline) and isinstance(block, Words | Facts) and not block.title


def _drawn(block: Block, width: int, color: bool) -> list[RenderableType]:
    if isinstance(block, Headline):
        return [Text("  ").join(_text(cell, color, _bold(at)) for at, cell in enumerate(block.cells))]
    title: list[RenderableType] = [Text(one_line(block.title), style="bold")] if block.title else []
    if isinstance(block, Words):
        return [*title, Text(plain(block.text), style=block.style)]
    if isinstance(block, Facts):
        return [*title, _facts(block.rows, color)]
    return [*title, *_grid(block, width, color)]


def _bold(at: int) -> str:
    return "bold" if at == 1 else ""


def _text(cell: Cell, color: bool, style: str = "") -> Text:
    if isinstance(cell, str):
        return Text(plain(cell), style=style)
    sign, style = look(cell.status)
    word = one_line(cell.status)
    return Text(f"{sign} {word}", style=style) if color else Text(word)


def _facts(rows: list[tuple[str, Cell]], color: bool) -> Table:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(style="dim", overflow="fold", max_width=24)
    table.add_column(overflow="fold")
    for name, cell in rows:
        table.add_row(Text(plain(name)), _text(cell, color))
    return table


def _grid(grid: Grid, width: int, color: bool) -> list[RenderableType]:
    kept = _fitting(grid, width, color)
    if not kept:
        return _cards(grid, color)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    for at in kept:
        column = grid.columns[at]
        table.add_column(
            Text("\n".join(_words(column))),
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold",
        )
    for row in grid.rows:
        table.add_row(*(_flat(row[at], color) for at in kept))
    return [table]


def _flat(cell: Cell, color: bool) -> Text:
    return _text(one_line(cell) if isinstance(cell, str) else cell, color)


def _fitting(grid: Grid, width: int, color: bool) -> list[int]:
    """The columns that fit side by side; none when even the indispensable ones do not."""
    needed = [_needed(grid, at, color) for at in range(len(grid.columns))]
    kept = list(range(len(grid.columns)))
    while kept and sum(needed[at] + _GAP for at in kept) - _GAP > width:
        most = max(kept, key=lambda at: grid.columns[at].drop)
        if not grid.columns[most].drop:
            return []
        kept.remove(most)
    return kept


def _needed(grid: Grid, at: int, color: bool) -> int:
    column: Column = grid.columns[at]
    heading = max(map(cell_len, _words(column)))
    widest = max([heading, *(_flat(row[at], color).cell_len for row in grid.rows)])
    return min(widest, max(_NARROWEST_FOLDED, heading)) if column.wraps else widest


def _words(column: Column) -> list[str]:
    """A heading's words, one above the other: what is below them may be narrow."""
    return one_line(column.name).upper().replace("_", " ").split(" ")


def _cards(grid: Grid, color: bool) -> list[RenderableType]:
    cards: list[RenderableType] = []
    names = [column.name for column in grid.columns]
    for row in grid.rows:
        if cards:
            cards.append(Text(""))
        cards.append(_facts([pair for pair in zip(names, row, strict=True) if pair[1]], color))
    return cards
