"""What a tool's command has beyond its tool: flags of the console's own, and other ways to run.

A tool that is not in the table has neither: its command is generated and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from mcp_pools.terminal import watch
from mcp_pools.terminal.output import Options

Way = Callable[[], int]
"""Another way to run a command; returns the exit status.

Raises `Unreachable`, `Refused` or `KeyboardInterrupt`, which the console puts in words."""


@dataclass(frozen=True, slots=True)
class Addition:
    """What one command has beyond its tool.

    `way(arguments, typed, options)` looks at the tool's arguments, all that was typed and the
    shared options, and returns how to run; `None`: like any other command.
    """

    flags: Callable[[], list[click.Parameter]]
    way: Callable[[dict[str, Any], dict[str, Any], Options], Way | None]
    help: str
    examples: tuple[str, ...]


ADDITIONS: Final = {
    "pool_watch": Addition(watch.flags, watch.way, watch.HELP, watch.EXAMPLES),
}
"""By the tool's name."""
