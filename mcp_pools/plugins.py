"""Task types and pool types, found by name: ours always, other people's when they are named.

Both are entry points, of the groups `mcp_pools.task_types` and `mcp_pools.adapters`. Only
what is asked for is imported. That a distribution is installed does not yet offer its task
types: the configuration must name them under `plugins` (and its pool types under `adapters`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from mcp_pools.adapter import Adapter
from mcp_pools.errors import PoolsError, nearest
from mcp_pools.settings import Settings
from mcp_pools.task_type import TaskType, from_function

TASK_TYPES: Final = "mcp_pools.task_types"
ADAPTERS: Final = "mcp_pools.adapters"
ALIASES: Final = {"mahavishnu": "local"}
EXTRAS: Final = {"kubernetes": "kubernetes", "dask": "dask", "ray": "ray"}
"""Pool types that need an extra of this distribution."""
DECLARED: Final = ("session-buddy", "kubernetes", "mcp", "dask", "ray")
"""Pool types of the outward contract; which of them there are depends on the version."""


def task_types(settings: Settings) -> dict[str, TaskType]:
    """Every task type on offer, by name: built in, named under `plugins`, or in `task_modules`.

    Raises `PoolsError` `invalid_payload` (something named is missing or no task type) or
    `conflict` (two of one name).
    """
    entries = _entries(TASK_TYPES)
    ours = [entry for entry in entries if _is_ours(entry)]
    if not ours:
        raise _not_installed("task types")
    found: dict[str, TaskType] = {}
    for entry in [*ours, *(_named(entries, name) for name in settings.plugins)]:
        _add(found, _as_task_type(_loaded(entry), f"entry point {entry.name!r}"))
    for module in settings.task_modules:
        for kind in _marked(module):
            _add(found, kind)
    return found


def task_type_names(settings: Settings) -> list[str]:
    """The names of all task types, importing no more than it takes: for those who only list them."""
    if settings.task_modules:
        return list(task_types(settings))
    return [entry.name for entry in _entries(TASK_TYPES) if _is_ours(entry) or entry.name in settings.plugins]


def adapter(type_name: str, named: Collection[str] = ()) -> Callable[..., Adapter]:
    """The class of a pool type; call it with the pool's definition.

    Args:
        type_name: `local`, its alias `mahavishnu`, another built-in, or a plug-in's.
        named: the plug-ins that the configuration allows (`Settings.adapters`).

    Raises `PoolsError` `invalid_payload` when there is no such type, or it needs an extra
    that is not installed.
    """
    name = ALIASES.get(type_name, type_name)
    entries = _entries(ADAPTERS)
    if not any(_is_ours(entry) for entry in entries):
        raise _not_installed("pool types")
    for entry in sorted(entries, key=_is_ours, reverse=True):
        if entry.name == name and (_is_ours(entry) or name in named):
            return cast(Callable[..., Adapter], _loaded(entry, EXTRAS.get(name)))
    raise _no_adapter(type_name, entries, named)


def adapter_names(named: Collection[str] = ()) -> list[str]:
    """The pool types that can be registered, in alphabetical order, without importing any."""
    return sorted({entry.name for entry in _entries(ADAPTERS) if _is_ours(entry) or entry.name in named})


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    """What the installed distributions publish. Reading their metadata is slow, so once."""
    return tuple(entry_points(group=group))


def _is_ours(entry: EntryPoint) -> bool:
    return entry.module.startswith("mcp_pools.")


def _named(entries: Collection[EntryPoint], name: str) -> EntryPoint:
    others = {entry.name: entry for entry in entries if not _is_ours(entry)}
    if name not in others:
        raise _invalid(
            f"No installed distribution publishes the task type {name!r} that plugins names.",
            f"{nearest(name, others)} Install its distribution beside mcp-pools, or take it out.".lstrip(),
        )
    return others[name]


def _loaded(entry: EntryPoint, extra: str | None = None) -> Any:
    """What an entry point names. Its own failure is told by kind: it may quote anything."""
    try:
        return entry.load()
    except ModuleNotFoundError as missing:
        needs = f"mcp-pools[{extra}]" if extra else f"the distribution that has {missing.name!r}"
        raise _invalid(
            f"{entry.name!r} needs the module {missing.name!r}, which is not installed.",
            f"Run: pip install '{needs}'" if extra else f"Install {needs}.",
        ) from missing
    except Exception as failure:
        kind = type(failure).__name__
        raise _invalid(f"Importing {entry.value!r} raised {kind}.", "Correct that module.") from failure


def _as_task_type(found: Any, where: str) -> TaskType:
    if isinstance(found, TaskType):
        return found
    if callable(found) and "__task_type__" in getattr(found, "__dict__", ()):
        return from_function(found)
    hint = "Mark it with mcp_pools.task_type.task_type."
    raise _invalid(f"The {where} is a {type(found).__name__}, not a task type.", hint)


def _marked(module: str) -> Iterator[TaskType]:
    """The task types of a module: its marked functions, and `TaskType` objects."""
    try:
        namespace = vars(importlib.import_module(module))
    except ModuleNotFoundError as missing:
        raise _invalid(
            f"task_modules names {module!r}, but there is no module {missing.name!r}.",
            "Install it beside mcp-pools, or put its directory on PYTHONPATH.",
        ) from missing
    except Exception as failure:
        kind = type(failure).__name__
        raise _invalid(f"Importing {module!r} raised {kind}.", "Correct that module.") from failure
    found = [
        value
        for value in namespace.values()
        if isinstance(value, TaskType) or "__task_type__" in getattr(value, "__dict__", ())
    ]
    if not found:
        hint = "Mark a function with mcp_pools.task_type.task_type."
        raise _invalid(f"The module {module!r} of task_modules has no task type.", hint)
    return (_as_task_type(value, f"module {module!r}") for value in found)


def _add(found: dict[str, TaskType], kind: TaskType) -> None:
    """Offer a task type; that two modules share one is no conflict."""
    other = found.setdefault(kind.name, kind)
    if other.handler != kind.handler:
        raise PoolsError(
            "conflict",
            f"Two task types are named {kind.name!r}: {other.handler} and {kind.handler}.",
            "Rename one, or name only one of them in plugins and task_modules.",
        )


def _no_adapter(type_name: str, entries: Collection[EntryPoint], named: Collection[str]) -> PoolsError:
    if type_name in DECLARED:
        package = f"mcp-pools[{EXTRAS[type_name]}]" if type_name in EXTRAS else "mcp-pools"
        return _invalid(
            f"This version of mcp-pools has no pool type {type_name!r}.",
            f"Use one of {', '.join(adapter_names(named))}, or look for it in a newer version: "
            f"pip install -U '{package}'",
        )
    if any(entry.name == type_name for entry in entries):
        return _invalid(
            f"The pool type {type_name!r} comes from a plug-in that the configuration does not name.",
            f"Add {type_name!r} to `adapters` in the configuration.",
        )
    known = [*adapter_names(named), *ALIASES, *DECLARED]
    return _invalid(f"There is no pool type {type_name!r}.", nearest(type_name, known))


def _not_installed(what: str) -> PoolsError:
    return _invalid(
        f"No {what} were found: mcp-pools runs from a source tree that is not installed.",
        "Run: pip install -e . in the directory of its pyproject.toml.",
    )


def _invalid(message: str, next: str) -> PoolsError:
    return PoolsError("invalid_payload", message, next)
