"""One picture of the live view: what was seen, how somebody looks, and the size make lines.

Pure, and as fast as its visible rows: two hundred pools cost no more than those that fit.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mcp_pools.terminal.gauges import meter, rate_in_words, short, sparkline
from mcp_pools.terminal.general import pairs
from mcp_pools.terminal.keyboard import View
from mcp_pools.terminal.observed import Observed
from mcp_pools.terminal.plain_text import one_line
from mcp_pools.terminal.pool_rows import ROOMY, WIDE, in_order, table
from mcp_pools.terminal.tables import look

Record = dict[str, Any]

_ORDER: Final = ("running", "starting", "degraded", "failed", "draining", "closed")
_TALL: Final = 12
"""Lines from which there is room for events and for empty lines."""
_FEWEST_EVENTS: Final = 4


class Layout(NamedTuple):
    """How many lines each part has: empty ones below the header, pools, events with their title."""

    gap: int
    pools: int
    events: int


def layout(height: int, pools: int) -> Layout:
    """Share the lines out: pools first, but never all of a tall screen."""
    if height < _TALL:
        return Layout(0, max(1, height - 4), 0)
    free = height - 5  # two of the header, one empty, the columns' heading, the footer
    rows = min(max(pools, 1), free - max(_FEWEST_EVENTS, free // 3))
    return Layout(1, rows, free - rows)


class Moment(NamedTuple):
    """When the picture is taken: a monotonic clock in seconds, and the time of day in words."""

    now: float
    clock: str


def picture(seen: Observed, view: View, width: int, height: int, moment: Moment) -> list[Text]:
    """Exactly `height` lines of exactly `width` columns."""
    shares = layout(height, len(seen.pools))
    top = max(0, min(view.top, len(seen.pools) - shares.pools))
    ordered = in_order(seen, view, moment.now)[top : top + shares.pools]
    lines = [
        _statuses(seen, view, width, moment),
        _totals(seen, width, moment.now),
        *[Text()] * shares.gap,
        *table(seen, view, ordered, width, moment.now),
    ]
    lines += [Text()] * (2 + shares.gap + 1 + shares.pools - len(lines))
    lines += _events(seen.events, width, shares.events)
    lines = [*lines[: height - 1], _footer(seen, view, width, top, len(ordered))]
    return [_fitted(line, width) for line in lines[-height:]]


def rendered(lines: Sequence[Text], width: int, color: bool) -> list[str]:
    """The lines as a terminal takes them."""
    paper = io.StringIO()
    console = Console(
        file=paper,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for line in lines:
        console.print(line, no_wrap=True, crop=True)
    return paper.getvalue().split("\n")[: len(lines)]


def _statuses(seen: Observed, view: View, width: int, moment: Moment) -> Text:
    counts = Counter(pool["status"] for pool in seen.pools)
    known = [status for status in _ORDER if counts[status]]
    rest = sorted(counts.keys() - set(_ORDER))
    left = Text.assemble(("mcp-pools", "bold"))
    for status in [*known, *rest]:
        sign, style = look(status)
        word = f" {one_line(status)}" if width >= ROOMY else ""
        left.append(f"  {sign} {counts[status]}{word}", style=style)
    state = Text("paused", style="bold yellow") if view.paused else Text(moment.clock, style="dim")
    return _apart(left, state, width)


def _totals(seen: Observed, width: int, now: float) -> Text:
    busy = sum(pool["workers"]["busy"] for pool in seen.pools)
    total = sum(pool["workers"]["total"] for pool in seen.pools)
    most = sum(pool["max_workers"] for pool in seen.pools)
    failed = sum(seen.failed.values())
    queued = short(sum(pool["queue_size"] for pool in seen.pools))
    done = f"{rate_in_words(sum(seen.rates(now).values()))}/s"
    if width < ROOMY:
        said = [f"{busy}/{total} busy", f"{queued} queued", done]
        return _joined([Text(each) for each in [*said, *[f"{short(failed)} failed"] * bool(failed)]], width)
    bar = meter(busy, total, most, 10).append(f" {busy}/{total}")
    sparks = Text.assemble((sparkline(seen.history(now, 15)), "cyan"), f" {done}")
    lost = Text(short(failed), style="red" if failed else "")
    parts = {"workers": bar, "queued": Text(queued), "done": sparks, "failed": lost}
    return _joined([Text.assemble((f"{name} ", "dim"), each) for name, each in parts.items()], width)


def _joined(parts: list[Text], width: int) -> Text:
    """The first parts, as many as there is room for."""
    while len(parts) > 1 and sum(part.cell_len + 2 for part in parts) - 2 > width:
        parts = parts[:-1]
    return Text("  ").join(parts)


def _events(events: Sequence[Record], width: int, lines: int) -> list[Text]:
    """An empty line, a title, and the newest events first."""
    if lines < 3:
        return [Text()] * lines
    newest = list(reversed(events))[: lines - 2]
    longest = 16 if width < WIDE else 32  # the id is to fit into eighty columns, too
    names = min(
        longest if width >= ROOMY else 12,
        max([4, *(cell_len(one_line(each.get("pool") or "")) for each in newest)]),
    )
    drawn = [_event(each, width, names) for each in newest]
    drawn = drawn or [Text("Nothing has happened yet.", style="dim")]
    title = [Text(), Text("EVENTS", style="dim")]
    return [*title, *drawn, *[Text()] * (lines - 2 - len(drawn))]


def _event(event: Record, width: int, names: int) -> Text:
    """One event; `names` is how wide the pools' names are."""
    kind = one_line(event["kind"])
    about, _, what = kind.partition(".")
    sign, style = look("running" if what == "started" else what)
    pool = Text(one_line(event.get("pool") or ""))
    pool.truncate(names, overflow="ellipsis", pad=True)
    what = kind.ljust(22 if about == "distribution" else 15) if width >= ROOMY else (what or about).ljust(10)
    more = " ".join(filter(None, [event.get("task_id") or "", _more(about, event.get("data") or {})]))
    at = str(event["at"])[11:19]
    return Text.assemble((at, "dim"), (f" {sign} {what} ", style), pool, (f" {one_line(more)}", "dim"))


def _more(about: str, data: Record) -> str:
    """What an event tells beside its kind; of a distribution how far it is."""
    if about != "distribution":
        return pairs(data)
    statuses = ("completed", "failed", "timed_out", "cancelled")
    done = sum(data.get(status, 0) for status in statuses)
    lost = [f"{data[status]} {status}" for status in statuses[1:] if data.get(status)]
    return " ".join([f"{done}/{data.get('total')}", *lost, str(data.get("distribution_id"))])


def _footer(seen: Observed, view: View, width: int, top: int, shown: int) -> Text:
    if seen.trouble:
        return Text(f"✗ {one_line(seen.trouble)}", style="bold red")
    keys = [("q", "quit"), ("s", "sort"), ("r", "reverse"), ("p", "resume" if view.paused else "pause")]
    if shown < len(seen.pools):
        keys.append(("↑↓", "scroll"))
    left = _joined([Text.assemble((key, "bold"), (f" {words}", "dim")) for key, words in keys], width)
    of = f"{top + 1}-{top + shown} of {len(seen.pools)}" if shown < len(seen.pools) else ""
    return _apart(left, Text("catching up" if seen.behind else of, style="dim"), width)


def _apart(left: Text, right: Text, width: int) -> Text:
    """Two texts at both ends of a line; the right one goes when there is no room."""
    space = width - left.cell_len - right.cell_len
    return left.append(" " * space).append_text(right) if space > 1 else left


def _fitted(line: Text, width: int) -> Text:
    line = line.copy()
    line.truncate(width, overflow="ellipsis", pad=True)
    return line
