"""Keys: from what a terminal sends to what the live view does. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

SORTS: Final = ("name", "queue", "busy", "throughput")

_KEY: Final = re.compile(rb"\x1b(?:\[|O)[0-9;]*[A-Za-z~]|[\x20-\x7e]")
"""A sequence of a special key, or a character; all else means nothing here."""
_NAMES: Final = {
    b"\x1b[A": "k",
    b"\x1bOA": "k",
    b"\x1b[B": "j",
    b"\x1bOB": "j",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b" ": "page down",
    b"\x1b[H": "g",
    b"\x1bOH": "g",
    b"\x1b[1~": "g",
    b"\x1b[F": "G",
    b"\x1bOF": "G",
    b"\x1b[4~": "G",
}


@dataclass(frozen=True, slots=True)
class View:
    """How somebody looks: in which order, from which row on, and whether time stands still."""

    sort: str = "name"
    reverse: bool = False
    top: int = 0
    paused: bool = False


def keys(sent: bytes) -> list[str]:
    """The keys in what a terminal sent: characters, `page up` and `page down`; arrows are j and k."""
    found = (each[0] for each in _KEY.finditer(sent))
    return [_NAMES.get(key, key.decode()) for key in found]


def press(view: View, key: str, shown: int, of: int) -> View:
    """The view after a key.

    Args:
        shown: rows of pools on the screen.
        of: pools there are.
    """
    if key == "s":
        after = SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]
        return replace(view, sort=after, reverse=False, top=0)
    if key == "r":
        return replace(view, reverse=not view.reverse, top=0)
    if key == "p":
        return replace(view, paused=not view.paused)
    steps = {"j": 1, "k": -1, "page down": shown, "page up": -shown, "g": -of, "G": of}
    last = max(0, of - shown)
    return replace(view, top=max(0, min(last, view.top + steps.get(key, 0))))
