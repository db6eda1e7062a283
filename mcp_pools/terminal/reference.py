"""Writes the reference of the console, from the commands themselves.

python -m mcp_pools.terminal.reference > docs/console.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final

import click

from mcp_pools import serve
from mcp_pools.console import ToolCommand, app
from mcp_pools.terminal.output import shared_options

_BEGINNING: Final = """\
# The console

Every tool that an MCP client has is a command, and some commands are the console's own. This page is
generated from them: `python -m mcp_pools.terminal.reference > docs/console.md`.
"""
_FORMATS: Final = {
    "table": "Tables with colours and status marks, as wide as the terminal; the default there.",
    "json": "Exactly the `structuredContent` of the MCP tool; the default in a pipe. Indented on a terminal.",
    "markdown": "GitHub tables, for a document or an issue.",
    "progress": "While it waits, a bar on standard error with rate and time left; then the result, as a "
    "table on a terminal, else as JSON.",
}
_ABOUT_FORMATS: Final = """\
In a pipe, with `NO_COLOR` or with `TERM=dumb` there is no colour. Errors are one line on standard
error: what is wrong, then what to do.
"""
_LIVE: Final = """\
`mcp-pools watch` on a terminal shows the pools until you leave. DONE/S is an average over ten seconds,
FAILED counts since the view began. The bars show busy workers, idle ones, and those that could be
started. When the owner goes away the last line says so, and the view goes on with the next one.
"""
_KEYS: Final = {
    "q": "Quit.",
    "s": "Sort by the next of name, queue, busy workers, throughput.",
    "r": "Reverse the order.",
    "j k ↓ ↑": "Scroll by a line.",
    "PgDn PgUp space": "Scroll by a page.",
    "g G Home End": "To the first, to the last.",
    "p": "Hold the picture still; what happens meanwhile is not missed.",
}
_EXITS: Final = {
    "0": "Done.",
    "1": "The task failed, was cancelled or timed out; health is not healthy; or the state of things refused "
    "it (`conflict`, `queue_full`).",
    "2": "Wrong usage, invalid input, an unknown task type, or not allowed.",
    "3": "No such pool or task.",
    "4": "The server or owner that was asked does not answer.",
    "130": "Interrupted by Ctrl-C; the task it waited for is being cancelled.",
}
_OBJECTS: Final = """\
A flag that takes an object takes JSON (`--payload '{"n": 1}'`), a file (`--payload @file.json`),
standard input (`--payload -`), or pairs, repeated (`--payload n=1 --payload name=x`); later ones win. A
flag that takes a list is repeated.
"""
_COMPLETION: Final = """\
The shell completes commands, flags, and the names of pools, task types and tasks as they are now. One
line for it:

```sh
eval "$(_MCP_POOLS_COMPLETE=bash_source mcp-pools)"   # ~/.bashrc
eval "$(_MCP_POOLS_COMPLETE=zsh_source mcp-pools)"    # ~/.zshrc, after compinit
_MCP_POOLS_COMPLETE=fish_source mcp-pools | source    # ~/.config/fish/config.fish
```
"""
_ENVIRONMENT: Final = {
    "MCP_POOLS_HOME": "The home, which holds all state. Default: `mcp-pools` in `$XDG_STATE_HOME`, else in "
    "`~/.local/state`.",
    "MCP_POOLS_CONFIG": "The configuration file. Default: `mcp-pools/config.yaml` in `$XDG_CONFIG_HOME`, "
    "else in `~/.config`.",
    "MCP_POOLS_<KEY>": "Any key of the configuration, such as `MCP_POOLS_RETENTION_DAYS`.",
    "MCP_POOLS_TOKEN": "The token for `--server`.",
    "NO_COLOR": "No colours.",
    "COLUMNS": "How wide tables are, in place of the terminal's width.",
}


def reference() -> str:
    """The whole page."""
    group = app()
    with click.Context(group, info_name="mcp-pools") as context:
        commands = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
        parts = [
            _BEGINNING,
            _contents(group.list_commands(context)),
            *_general(),
            "## Every command takes\n",
            *_options(context, shared_options()),
        ]
        for name, command in commands:
            assert command is not None, name
            parts += _serve() if name == "serve" else _command(context, command)
    return "\n".join(parts).rstrip() + "\n"


def _contents(commands: list[str]) -> str:
    return "Commands: " + " · ".join(f"[{name}](#{name})" for name in commands) + "\n"


def _general() -> list[str]:
    return [
        "## Formats\n",
        *_table("`--format`", _FORMATS.items()),
        _ABOUT_FORMATS,
        "## The live view\n",
        _LIVE,
        *_table("key", _KEYS.items()),
        "## Exit codes\n",
        *_table("code", _EXITS.items()),
        "## Objects and lists\n",
        _OBJECTS,
        "## Completion\n",
        _COMPLETION,
        "## Environment\n",
        *_table("variable", _ENVIRONMENT.items()),
    ]


def _command(parent: click.Context, command: click.Command) -> list[str]:
    """A command: what it does, how it is called, what it takes, examples."""
    shared = {each.name for each in shared_options()}
    with click.Context(command, info_name=command.name, parent=parent) as context:
        usage = command.get_usage(context).removeprefix("Usage: ")
        options = [each for each in command.params if each.name not in shared]
        return [
            f"## {command.name}\n",
            *_paragraphs(command.help or ""),
            f"```\n{usage}\n```\n",
            *_arguments(command),
            *_options(context, options),
            *_paragraphs(command.epilog or ""),
        ]


def _paragraphs(text: str) -> list[str]:
    """Prose as it is; what must keep its lines as code."""
    made = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            lines = "\n".join(line.removeprefix("  ") for line in paragraph.splitlines()[1:])
            made.append(f"```sh\n{lines}\n```\n")
        elif paragraph:
            made.append(" ".join(paragraph.split()) + "\n")
    return made


def _arguments(command: click.Command) -> list[str]:
    if not isinstance(command, ToolCommand) or not command.tool.positional:
        return []
    rows = [
        (each.name, each.help) for each in command.tool.parameters if each.name in command.tool.positional
    ]
    return _table("argument", [(name.upper(), words) for name, words in rows])


def _options(context: click.Context, options: list[click.Parameter]) -> list[str]:
    taken = [each.get_help_record(context) for each in options if isinstance(each, click.Option)]
    return _table("option", [record for record in taken if record])


def _table(name: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    lines = [f"| `{cell(names)}` | {cell(words)} |" for names, words in rows]
    return [f"| {name} | |", "| --- | --- |", *lines, ""] if lines else []


def _serve() -> list[str]:
    """`serve` reads its own flags."""
    parser = serve.parser()
    flags = [
        (", ".join(each.option_strings) + (f" {each.metavar}" if each.metavar else ""), each.help or "")
        for each in parser._actions  # argparse lists them nowhere else
    ]
    example = (parser.epilog or "").removeprefix("Example: ")
    return [
        "## serve\n",
        f"{parser.description}\n",
        "```\nmcp-pools serve [OPTIONS]\n```\n",
        *_table("option", flags),
        f"Example:\n\n```sh\n{example}\n```\n",
    ]


if __name__ == "__main__":
    sys.stdout.write(reference())
