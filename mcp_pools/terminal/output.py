"""What every command takes, and how it prints: results on standard output, errors on the other."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any, Final

import click

FORMATS: Final = ("table", "json", "markdown", "progress")


@dataclass(frozen=True, slots=True)
class Options:
    """What every command takes."""

    format: str
    server: str | None = None
    config: str | None = None

    @classmethod
    def taken_from(cls, typed: dict[str, Any]) -> Options:
        """Take the shared options out of what was typed."""
        chosen = typed.pop("format_") or ("table" if sys.stdout.isatty() else "json")
        return cls(chosen, typed.pop("server_", None), typed.pop("config_", None))

    @property
    def shown(self) -> str:
        """The format of the result: `progress` speaks only of the wait."""
        if self.format != "progress":
            return self.format
        return "table" if sys.stdout.isatty() else "json"


def shared_options(server: bool = True) -> list[click.Parameter]:
    """The flags of every command."""
    kinds = click.Choice(FORMATS)
    words = "How to print the result. [default: table on a terminal, else json]"
    made: list[click.Parameter] = [click.Option(["--format", "-f", "format_"], type=kinds, help=words)]
    if server:
        about = "Ask the server at this URL instead of this machine's own."
        made.append(click.Option(["--server", "server_"], metavar="URL", help=about))
    about = "Configuration to use instead of the user's own."
    made.append(click.Option(["--config", "config_"], metavar="FILE", type=click.Path(), help=about))
    return made


def complain(words: str) -> None:
    """One line on standard error."""
    from mcp_pools.terminal.plain_text import one_line

    sys.stderr.write(f"mcp-pools: {one_line(words)}\n")


def show(name: str, data: dict[str, Any], options: Options) -> None:
    """Print a result; a reader that went away (`| head`) is no error."""
    import shutil

    from mcp_pools.formats import render

    width = shutil.get_terminal_size().columns
    write(render(name, data, options.shown, width, colored(), indent=sys.stdout.isatty()) + "\n")


def colored() -> bool:
    """Whether standard output is for colours: a terminal whose user did not refuse them."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not refused


def write(text: str) -> bool:
    """Text on standard output, at once; `False` when its reader went away."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit; let it find a writer that takes everything.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def is_read() -> bool:
    """Whether somebody still reads standard output, as far as its pipe can tell."""
    import select

    gone = select.poll()
    gone.register(sys.stdout.fileno(), 0)
    return not gone.poll(0)
