"""`watch` at a terminal is a live view, with `--follow` a stream of events, else one answer."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from mcp_pools.terminal.output import Options

REFRESH: Final = 1.0
SHORTEST_REFRESH: Final = 0.1
"""Seconds. Looking more often shows a person nothing more."""

HELP: Final = """On a terminal this is a live view of pools, workers, queues, throughput and events; keys
sort, scroll, pause and quit. In a pipe, with -f json or markdown, and with --cursor or --wait-seconds
it is one answer. With --follow it prints each event as a line of JSON, for ever: first the latest 50, or
those behind --cursor.
"""
EXAMPLES: Final = ("mcp-pools watch", "mcp-pools watch --follow")


class Seconds(click.ParamType[float]):
    """A number of seconds between two looks."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; a usage error for anything but a finite one from `SHORTEST_REFRESH` up."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not SHORTEST_REFRESH <= seconds < math.inf:
            self.fail(f"{value!r} is no number of seconds from {SHORTEST_REFRESH} up.", param, ctx)
        return seconds


def flags() -> list[click.Parameter]:
    """The flags of the live view and of the stream."""
    often = f"Seconds between two looks of the live view, {SHORTEST_REFRESH} or more. [default: {REFRESH:g}]"
    return [
        click.Option(["--refresh", "-r"], type=Seconds(), help=often),
        click.Option(["--follow"], is_flag=True, help="Print each event as a line of JSON until Ctrl-C."),
    ]


def way(arguments: dict[str, Any], typed: dict[str, Any], options: Options) -> Callable[[], int] | None:
    """The live view or the stream; `None` for one answer.

    Raises:
        click.UsageError: flags that contradict each other.
    """
    if typed["follow"]:
        return _following(arguments, typed, options)
    if arguments or not _is_for_a_person(options):
        return None

    def show() -> int:
        from mcp_pools.terminal import live

        return live.run(typed["refresh"] or REFRESH, options)

    return show


def _following(arguments: dict[str, Any], typed: dict[str, Any], options: Options) -> Callable[[], int]:
    wrong = {
        "--refresh": typed["refresh"],
        "--wait-seconds": typed["wait_seconds"],
        f"--format {typed['format_']}": typed["format_"] not in (None, "json"),
    }
    for name, given in wrong.items():
        if given:
            raise click.UsageError(f"--follow and {name} contradict each other. Leave one of them out.")

    def stream() -> int:
        from mcp_pools.terminal import follow

        return follow.run(arguments.get("cursor"), options)

    return stream


def _is_for_a_person(options: Options) -> bool:
    """Whether somebody looks at a terminal that can do more than print lines."""
    return options.format == "table" and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
