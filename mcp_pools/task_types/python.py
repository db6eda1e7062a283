"""`python`: a function of an installed module, called in the worker.

The caller's directory is not searched for modules: an agent may have been started in a
stranger's clone. A warm worker keeps a module it has imported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from mcp_pools.task_type import Context


def run(payload: dict[str, Any], context: Context) -> Any:
    """Call `function` ("module:name") with `kwargs`.

    Returns:
        What the function returns, which must be JSON.

    Raises:
        PoolsError: `task_error` when the module cannot be imported, the name is no
            function, or it does not take these arguments.
    """
    kwargs = payload.get("kwargs") or {}
    function = _function(payload["function"])
    _takes(function, payload["function"], kwargs)
    return function(**kwargs)


def _function(whole: str) -> Callable[..., Any]:
    module_name, _, name = whole.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's own code runs here, and may raise anything
        raise PoolsError(
            "task_error",
            f"The module {module_name!r} could not be imported: {type(error).__name__}: {error}.",
            "Install it into the environment that mcp-pools runs in, or correct the name.",
        ) from error
    found = getattr(module, name, None)
    if callable(found) and not inspect.isclass(found) and not inspect.iscoroutinefunction(found):
        return found  # type: ignore[no-any-return]
    raise PoolsError(
        "task_error", f"{whole!r} is not a function: {_kind(module_name, name, found)}.", "Name a function."
    )


def _kind(module: str, name: str, found: Any) -> str:
    if found is None:
        return f"the module {module!r} has no {name!r}"
    if inspect.iscoroutinefunction(found):
        return "it is a coroutine function, which nothing would await"
    return f"it is {found!r}" if inspect.isclass(found) else f"it is a value of type {type(found).__name__}"


def _takes(function: Callable[..., Any], whole: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that do not fit, so that it does not look like a failure of the function's."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return  # some built-ins do not tell
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise PoolsError(
            "task_error",
            f"{whole}{signature} does not take the arguments {sorted(kwargs)}: {error}.",
            "Correct kwargs.",
        ) from None
