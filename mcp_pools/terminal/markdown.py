"""Draws a page as GitHub Markdown, for a document or an issue."""

from __future__ import annotations

import re

from mcp_pools.terminal.blocks import Block, Cell, Facts, Grid, Headline, Page, Words
from mcp_pools.terminal.plain_text import one_line, plain

_SPECIAL = re.compile(r"[\\|<>*`\[\]~#]|(?<!\w)_|_(?!\w)")


def draw(page: Page) -> str:
    """The page as Markdown."""
    return "\n\n".join(part for block in page for part in _parts(block))


def _parts(block: Block) -> list[str]:
    if isinstance(block, Headline):
        return ["**" + " · ".join(_cell(cell) for cell in block.cells) + "**"]
    title = [f"### {_escaped(block.title)}"] if block.title else []
    if isinstance(block, Words):
        return [*title, _words(block)]
    if isinstance(block, Facts):
        rows = [[_cell(name.strip()), _cell(cell)] for name, cell in block.rows]
        return [*title, _table(["", ""], ["---", "---"], rows)]
    return [*title, _grid(block)]


def _grid(grid: Grid) -> str:
    rules = ["---:" if column.right else "---" for column in grid.columns]
    names = [_escaped(column.name) for column in grid.columns]
    return _table(names, rules, [[_cell(cell) for cell in row] for row in grid.rows])


def _table(names: list[str], rules: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [names, rules, *rows])


def _words(words: Words) -> str:
    """Text in a fence that nothing inside it can close."""
    text = plain(words.text)
    if words.style or ("\n" not in text and not words.title):
        return _escaped(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _cell(cell: Cell) -> str:
    if not isinstance(cell, str):
        return _escaped(cell.status)
    return "<br>".join(_escaped(line) for line in plain(cell).splitlines())


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: "\\" + found[0], one_line(text))
