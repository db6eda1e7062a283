"""`mcp-pools serve`: its flags, and who serves.

Every MCP client starts this command, so it imports next to nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Final, NoReturn

from mcp_pools.errors import PoolsError

_HTTP: Final = "127.0.0.1:8680"


class _OneLine(argparse.ArgumentParser):
    """A parser whose errors are one line, like every other error of the console."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mcp-pools: {message}. See 'mcp-pools serve --help'.\n")


def main(argv: list[str]) -> int:
    """Serve MCP on standard input and output until the client leaves; the exit status.

    With `--http` this process becomes an owner that serves HTTP, and does not return.
    """
    given = parser().parse_args(argv)
    if given.metrics:
        os.environ["MCP_POOLS_METRICS_ADDRESS"] = given.metrics  # which an owner keeps, however it is started
    if given.http:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "mcp_pools.foreground", *argv])  # noqa: S606
    from mcp_pools import bridge

    return bridge.main(given.config, flags(given))


def flags(given: argparse.Namespace) -> dict[str, Any]:
    """The tool flags that narrow this client, as its hello says them."""
    return {
        "read_only": given.read_only,
        "disable_destructive": given.disable_destructive,
        "tools": _names(given.tools),
        "exclude_tools": _names(given.exclude_tools),
        "toolsets": _names(given.toolsets),
    }


def _address(text: str) -> str:
    """The text itself, if it is an address: a wrong one is a usage error like any other."""
    from mcp_pools.doors.http_address import Address

    try:
        Address.read(text)
    except PoolsError as wrong:
        raise argparse.ArgumentTypeError(str(wrong).rstrip(".")) from None
    return text


def _names(given: list[str]) -> list[str]:
    return [name.strip() for part in given for name in part.split(",") if name.strip()]


def names() -> list[tuple[str, str]]:
    """The flags' names, each with its words: for the shell's completion."""
    actions = parser()._actions  # argparse lists them nowhere else
    return [(name, each.help or "") for each in actions for name in each.option_strings]


def parser() -> argparse.ArgumentParser:
    """The flags of `serve`."""
    made = _OneLine(
        prog="mcp-pools serve",
        description="Serve the pool tools to an MCP client on standard input and output. "
        "All clients and consoles of one home share its pools and tasks.",
        epilog="Example: claude mcp add pools -- mcp-pools serve",
        allow_abbrev=False,
    )
    made.add_argument(
        "--http",
        metavar="HOST:PORT",
        nargs="?",
        const=_HTTP,
        type=_address,
        help=f"Serve HTTP here instead, in the foreground, at /mcp; without a value at {_HTTP}.",
    )
    made.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        type=_address,
        help="The owner that this starts serves metrics for Prometheus here, at /metrics.",
    )
    made.add_argument("--config", metavar="FILE", help="Configuration to use instead of the user's own.")
    made.add_argument("--read-only", action="store_true", help="Offer only the tools that change nothing.")
    made.add_argument("--disable-destructive", action="store_true", help="Offer no tool that ends work.")
    for name, words in (
        ("--tools", "Offer only these tools."),
        ("--exclude-tools", "Offer all tools but these."),
        ("--toolsets", "Offer only the tools of these sets."),
    ):
        made.add_argument(name, action="append", default=[], metavar="A,B", help=f"{words} May be repeated.")
    return made
