"""The commands that are no tool: `serve`, `task-types` and `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from mcp_pools.terminal import completion
from mcp_pools.terminal.output import Options, complain, shared_options, show


class Serve(click.Command):
    """A command whose flags click does not know."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The flags that its own parser knows."""
        from mcp_pools import serve

        names = serve.names()
        return [CompletionItem(name, help=words) for name, words in names if name.startswith(incomplete)]


def serve() -> click.Command:
    """`serve` reads its own flags: clients start it without the rest of the console."""

    def run(words: tuple[str, ...]) -> int:
        from mcp_pools import serve

        return serve.main(list(words))

    return Serve(
        "serve",
        params=[click.Argument(["words"], nargs=-1, type=click.UNPROCESSED)],
        callback=run,
        short_help="Serve the tools to an MCP client",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )


def task_types() -> click.Command:
    """`task-types`: what can be run, and what each payload must hold."""

    def run(name: str | None, **typed: Any) -> int:
        return _task_types(name, Options.taken_from(typed))

    return click.Command(
        "task-types",
        params=[
            click.Argument(["name"], required=False, shell_complete=completion.of(completion.task_types)),
            *shared_options(server=False),
        ],
        callback=run,
        help="List what can be run. With a NAME, show that type's JSON schema and an example payload.\n\n"
        "Result: each task type's name and summary; in JSON, and with a NAME, its schema, too.",
        short_help="List what can be run",
        epilog="Examples:\n\n\b\n  mcp-pools task-types\n  mcp-pools task-types analyze",
    )


def _task_types(name: str | None, options: Options) -> int:
    from mcp_pools.errors import PoolsError, nearest
    from mcp_pools.plugins import task_types
    from mcp_pools.settings import load
    from mcp_pools.type_listing import described

    try:
        known = task_types(load(config_file=options.config))
    except PoolsError as refused:
        complain(str(refused))
        return 2
    if name is not None and name not in known:
        complain(f"there is no task type {name!r}. {nearest(name, known)}")
        return 2
    show("task-types", described(known, name, whole=options.shown == "json"), options)
    return 0


def doctor() -> click.Command:
    """`doctor`: whether this installation works, and what to do when it does not."""

    def run(**typed: Any) -> int:
        from mcp_pools import doctor

        options = Options.taken_from(typed)
        report = doctor.report(options.config)
        show("doctor", report, options)
        return int(report["status"] == "failed")

    return click.Command(
        "doctor",
        params=shared_options(server=False),
        callback=run,
        help="Check this installation: Python, the state directory, the owner, a worker, the extras.\n\n"
        "Result: what was found, each with its status and what to do about it; exit status 1 when "
        "something failed.",
        short_help="Check this installation",
        epilog="Example:\n\n\b\n  mcp-pools doctor",
    )


COMMANDS: Final[dict[str, Callable[[], click.Command]]] = {
    "serve": serve,
    "task-types": task_types,
    "doctor": doctor,
}
"""The console's own commands and what makes each."""
