"""`echo`: the payload comes back unchanged. For trying a pool out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_pools.task_type import Context


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return `payload`."""
    return payload
