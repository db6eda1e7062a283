"""What a peer of these tests offers: the handlers of `hostile`, called by name, as one task type."""

from importlib import import_module
from typing import Any

from mcp_pools.task_type import task_type


@task_type(summary="Call a handler of these tests")
def hostile(handler: str, payload: dict[str, Any], context: Any = None) -> Any:
    """`handler` is `module:function`."""
    module, _, name = handler.partition(":")
    return getattr(import_module(module), name)(payload, context)
