"""The console: every tool as a command, generated from the tool itself.

`mcp-pools X` shows what the tool of that name returns. A command that talks to an owner
imports neither pydantic nor asyncio nor the MCP SDK, and rich only to draw a table.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Final

import click

import mcp_pools.tools  # noqa: F401 - fills TOOLS
from mcp_pools import __version__
from mcp_pools.errors import nearest
from mcp_pools.terminal import flags, own
from mcp_pools.terminal.additions import ADDITIONS, Addition
from mcp_pools.terminal.output import Options, complain, shared_options, show
from mcp_pools.terminal.refusal import as_commands, refuse
from mcp_pools.tool import TOOLS, Tool

INTERRUPTED: Final = 130


def main(argv: list[str]) -> int:
    """Run one command; the exit status (contract §1)."""
    try:
        status = app().main(argv or ["--help"], prog_name="mcp-pools", standalone_mode=False)
    except click.ClickException as wrong:
        complain(_usage(wrong))
        return 2
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted.")
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def app() -> click.Group:
    """All commands; each is made when it is used."""
    names = {"help_option_names": ["-h", "--help"]}
    group = Commands("mcp-pools", help=_ABOUT, epilog=_MORE, context_settings=names)
    return click.version_option(__version__, message="mcp-pools %(version)s")(group)


_ABOUT: Final = "Run durable tasks on pools of workers: the tools that MCP clients use, from a terminal."
_MORE: Final = """Example:

\b
  mcp-pools execute -t compute --payload 'expression=6 * 7'

'mcp-pools COMMAND --help' has the flags, the result and an example of each command.

\b
Complete words with Tab, in bash (zsh_source and fish_source for those):
  eval "$(_MCP_POOLS_COMPLETE=bash_source mcp-pools)"
"""
_SECTIONS: Final = {"execution": "Work", "pools": "Pools", "monitoring": "What happens"}
"""The headings of the tools' sets; another set has its own name."""


class Commands(click.Group):
    """Finds a command by its tool; a tool that is not there has no command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what they are for, the console's own last."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in _SECTIONS.values()}
        for tool in TOOLS.values():
            title = _SECTIONS.get(tool.toolset, tool.toolset.capitalize())
            sections.setdefault(title, []).append((tool.command, tool.title))
        sections["This console"] = [
            (name, make().get_short_help_str()) for name, make in own.COMMANDS.items()
        ]
        for title, rows in sections.items():
            if not rows:
                continue
            with formatter.section(title):
                formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The tools' commands in the tools' order, then the console's own."""
        return [*(tool.command for tool in TOOLS.values()), *own.COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make one command."""
        for tool in TOOLS.values():
            if tool.command == cmd_name:
                return ToolCommand(tool)
        make = own.COMMANDS.get(cmd_name)
        return make() if make else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            hint = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"there is no command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


class ToolCommand(click.Command):
    """The command of one tool."""

    def __init__(self, tool: Tool) -> None:
        self.addition = ADDITIONS.get(tool.name)
        own_flags = self.addition.flags() if self.addition else []
        examples = [tool.example, *(self.addition.examples if self.addition else ())]
        super().__init__(
            tool.command,
            params=[*flags.flags(tool), *own_flags, *shared_options()],
            callback=self._run,
            help=_help(tool, self.addition),
            short_help=tool.title,
            epilog="Example{}:\n\n\b\n  {}".format("s" * (len(examples) > 1), "\n  ".join(examples)),
        )
        self.tool = tool

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The arguments with their words, then the flags."""
        words = {each.name: each.help for each in self.tool.parameters}
        rows = [(name.upper(), words[name]) for name in self.tool.positional]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)

    def _run(self, **typed: Any) -> int:
        arguments, options = flags.arguments(self.tool, typed), Options.taken_from(dict(typed))
        way = self.addition.way(arguments, typed, options) if self.addition else None
        return run_otherwise(way) if way else run(self.tool, arguments, options)


def _help(tool: Tool, addition: Addition | None) -> str:
    """What the tool does, what the console adds, and what comes back."""
    results = [_result(model) for model in tool.models if is_dataclass(model)]
    parts = [tool.description, addition.help if addition else "", *results]
    return as_commands("\n\n".join(filter(None, parts)))


def _result(model: type) -> str:
    """What a model is, and the names of its fields."""
    about = (inspect.getdoc(model) or "").split("\n\n")[0].replace("\n", " ")
    about = re.sub(r"^The answer of `\w+`[:.] ?", "", about)
    names = ", ".join(each.name for each in fields(model))
    return " ".join(filter(None, ["Result:", about, f"In JSON: {names}."]))


def run_otherwise(way: Callable[[], int]) -> int:
    """Run a command in a way of its own, and put in words what ends it; the exit status."""
    from mcp_pools.client import Unreachable
    from mcp_pools.terminal.reach import Refused

    try:
        return way()
    except Unreachable as silence:
        return _fail(4, str(silence), None)
    except Refused as refused:
        return refuse(refused.data)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted.", None)


def run(tool: Tool, arguments: dict[str, Any], options: Options) -> int:
    """Call a tool, print what it answers, and return the exit status."""
    from mcp_pools.client import Unreachable
    from mcp_pools.terminal.reach import ask

    waiting = _progress(tool, options)
    try:
        data, refused = ask(
            tool, arguments, server=options.server, config=options.config, on_progress=waiting
        )
    except Unreachable as silence:
        return _fail(4, str(silence), waiting)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, _interrupted(arguments, tool), waiting)
    if waiting:
        waiting.clear()
    if refused:
        return refuse(data)
    show(tool.name, data, options)
    return status_of(data)


def _progress(tool: Tool, options: Options) -> Any:
    """A line for the wait, where somebody looks: asked for, or a table on a terminal."""
    asked = options.format == "progress"
    if not asked and not (options.format == "table" and sys.stderr.isatty()):
        return None
    from mcp_pools.terminal.progress import ProgressLine

    line = ProgressLine(tool.command)
    if asked:
        line.start()
    return line


def _fail(status: int, words: str, waiting: Any) -> int:
    if waiting:
        waiting.clear()
    complain(words)
    return status


def _interrupted(arguments: dict[str, Any], tool: Tool) -> str:
    waits = any(each.name == "wait" for each in tool.parameters) and arguments.get("wait", True)
    return "interrupted; what it waited for is being cancelled." if waits else "interrupted."


def status_of(data: dict[str, Any]) -> int:
    """The exit status for a result: 1 for work that did not succeed and for ill health."""
    if "task_id" in data or "distribution_id" in data:
        ended_badly = data.get("status") in ("failed", "cancelled", "timed_out")
        unfolded = "results" in data and data.get("error") is not None
        return int(ended_badly or bool(data.get("failed")) or unfolded)
    return int(data.get("status") in ("degraded", "unhealthy"))


def _usage(wrong: click.ClickException) -> str:
    """A usage error in one line, with the help to read."""
    context = getattr(wrong, "ctx", None)
    path = context.command_path if context else "mcp-pools"
    words = wrong.format_message().rstrip()
    ending = "" if words.endswith((".", "?", "!")) else "."
    return f"{words}{ending} See '{path} --help'."
