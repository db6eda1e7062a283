"""What a page is made of, whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Mark(NamedTuple):
    """A status, to be shown with its colour and its mark."""

    status: str


Cell = str | Mark


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `right` for numbers, `wraps` may be folded, higher `drop` leaves first when narrow."""

    name: str
    right: bool = False
    wraps: bool = False
    drop: int = 0


@dataclass(frozen=True, slots=True)
class Grid:
    """Records, one a row."""

    columns: list[Column]
    rows: list[list[Cell]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: list[tuple[str, Cell]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Text as it is."""

    text: str
    title: str = ""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """The one line that says it all."""

    cells: list[Cell]


Block = Grid | Facts | Words | Headline
Page = list[Block]
