"""Numbers to be taken in at a glance: bars, columns, counts of a few characters. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

_SPARKS: Final = "▁▂▃▄▅▆▇█"


def meter(busy: int, total: int, most: int, width: int) -> Text:
    """Workers as a bar: busy ones heavy, idle ones light, those that could be started dotted."""
    most = max(most, total, 1)
    heavy = min(width, -(-busy * width // most))
    light = min(width, max(heavy, -(-total * width // most)))
    return Text.assemble(
        ("━" * heavy, "cyan"), ("─" * (light - heavy), "dim"), ("╌" * (width - light), "bright_black")
    )


def sparkline(counts: Sequence[int]) -> str:
    """Counts as columns of a height each; nothing is the lowest."""
    most = max([*counts, 1])
    return "".join(_SPARKS[-(-count * (len(_SPARKS) - 1) // most)] for count in counts)


def short(number: int) -> str:
    """A count in at most five characters."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if number >= 10 * size:
            return f"{number / size:.3g}{unit}" if number < 1000 * size else f"{number // size}{unit}"
    return str(number)


def rate_in_words(rate: float) -> str:
    """A rate per second, as exact as it is of use."""
    if rate == 0:
        return "0"
    return f"{rate:.2f}" if rate < 1 else f"{rate:.1f}" if rate < 100 else short(round(rate))
