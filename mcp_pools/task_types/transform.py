"""`transform`: a JMESPath expression over one document, or over each of several."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

PROGRESS_EVERY = 1000
"""Items between two reports of progress."""


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Apply `expression` to `data`, or to each of `items`.

    Returns:
        `{"value": JSON}` for `data`; for `items` `{"items": [outcome]}` in their order, an
        outcome being `{"result": JSON}` or `{"error": {"code", "message"}}`.

    Raises:
        PoolsError: `task_error` when the expression does not fit `data`.
    """
    import jmespath

    expression = jmespath.compile(payload["expression"])
    items = payload.get("items")
    if items is None:
        return {"value": _apply(expression, payload.get("data"))}
    outcomes = []
    for done, item in enumerate(items):
        if done % PROGRESS_EVERY == 0:
            context.progress(done, len(items))
        outcomes.append(_outcome(expression, item))
    context.progress(len(items), len(items))
    return {"items": outcomes}


def _outcome(expression: Any, item: Any) -> dict[str, Any]:
    try:
        return {"result": _apply(expression, item)}
    except PoolsError as error:
        return {"error": {"code": error.code, "message": error.message}}


def _apply(expression: Any, data: Any) -> Any:
    try:
        value = expression.search(data)
        # `to_number('inf')` and `&name` give what JSON cannot hold.
        json.dumps(value, allow_nan=False)
    except Exception as error:  # whatever the library raises, the expression does not fit this item
        reason = str(error) or type(error).__name__
        raise PoolsError(
            "task_error",
            f"The expression {expression.expression!r} does not fit the data: {reason}.",
            "Correct the expression, or look at the item it failed on.",
        ) from error
    return value
