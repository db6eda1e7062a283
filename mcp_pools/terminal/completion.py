"""What the shell offers for a word: names of pools, task types and tasks, as they are now.

Asked at each Tab, so it starts nothing, waits a moment at most, and says nothing when
nobody answers. A server that `--server` names is not asked: it may be far away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from mcp_pools.tool import Parameter, Tool

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Found = Iterable[tuple[str, str]]
"""Words, each with what it is."""


def completer(tool: Tool, parameter: Parameter) -> Completer | None:
    """What completes a parameter of a tool; `None`: the shell's own way."""
    if parameter.name == "name" and parameter.name not in tool.positional:
        return None  # the name of something new
    find = _FINDERS.get(parameter.name)
    return of(find) if find else None


def of(find: Callable[[str | None], Found]) -> Completer:
    """A completer from what finds all words; it is given the configuration that was typed."""

    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        if context.params.get("server_"):
            return []
        try:
            found = find(context.params.get("config_"))
            return [CompletionItem(word, help=about) for word, about in found if word.startswith(begun)]
        except Exception:  # A shell that is typed into is no place for an error.
            return []

    return complete


def pools(config: str | None) -> Found:
    """The pools' names."""
    return [(pool["name"], f"{pool['status']} {pool['type']} pool") for pool in _pools(config)]


def pool_types(config: str | None) -> Found:
    """The types that can be registered."""
    from mcp_pools.plugins import adapter_names
    from mcp_pools.settings import load

    return [(name, "") for name in adapter_names(load(config_file=config).adapters)]


def task_types(config: str | None) -> Found:
    """What the pools run."""
    return [(name, "") for name in sorted({name for pool in _pools(config) for name in pool["task_types"]})]


def tasks(config: str | None) -> Found:
    """The newest tasks' ids."""
    return [
        (task["task_id"], f"{task['status']} {task['task_type']}")
        for task in _answer("pool_search", {"limit": 50}, config)["tasks"]
    ]


def _pools(config: str | None) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = _answer("pool_list", {}, config)["pools"]
    return listed


def _answer(tool_name: str, arguments: dict[str, Any], config: str | None) -> dict[str, Any]:
    from mcp_pools.terminal.reach import peek

    return peek(tool_name, arguments, config) or {"pools": [], "tasks": []}


_FINDERS: Final[dict[str, Callable[[str | None], Found]]] = {
    "name": pools,
    "pool": pools,
    "pools": pools,
    "task_type": task_types,
    "task_id": tasks,
    "type": pool_types,
    "by_type": pool_types,
    "pool_filter": pool_types,
}
"""By the name of a tool's parameter."""
