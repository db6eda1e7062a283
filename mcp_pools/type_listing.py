"""What can be run, as console and MCP show it: task types with their payloads' schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_pools.task_type import TaskType
from mcp_pools.tool import slim


def described(known: Mapping[str, TaskType], name: str | None, whole: bool) -> dict[str, Any]:
    """One task type with its schema, or all of them; `whole` includes their schemas too."""
    if name is not None:
        return _described(known[name])
    if whole:
        return {"task_types": [_described(each) for each in known.values()]}
    return {"task_types": [{"name": each.name, "summary": each.summary} for each in known.values()]}


def _described(each: TaskType) -> dict[str, Any]:
    return {
        "name": each.name,
        "summary": each.summary,
        "example": each.example,
        "schema": slim(each.payload.model_json_schema()),
    }
