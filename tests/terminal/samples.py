"""Answers of `pool_watch` as an owner gives them, of any size."""

from __future__ import annotations

from typing import Any

STATUSES = ("running", "running", "running", "running", "degraded", "failed")


def pool(number: int, **more: Any) -> dict[str, Any]:
    """One of many pools, each a little different."""
    total = number % 9
    known = {
        "name": f"pool-{number:03}",
        "pool_id": f"p_{number}",
        "type": ("local", "kubernetes", "session-buddy")[number % 3],
        "status": STATUSES[number % len(STATUSES)],
        "workers": {"total": total, "busy": total // 2, "idle": total - total // 2},
        "min_workers": 0,
        "max_workers": 10,
        "queue_size": number * 7 % 53,
        "region": "default",
        "labels": {},
        "task_types": ["echo"],
    }
    return known | more


def event(number: int, kind: str = "task.completed", **more: Any) -> dict[str, Any]:
    """Something that happened."""
    known = {
        "cursor": number,
        "at": f"2026-07-28T12:{number // 60 % 60:02}:{number % 60:02}.5Z",
        "kind": kind,
        "pool": f"pool-{number % 7:03}",
        "task_id": f"t_{number:026}",
        "data": {},
    }
    return known | more


def answer(
    pools: int | list[dict[str, Any]] = 3, events: list[dict[str, Any]] | None = None, cursor: str = "c"
) -> dict[str, Any]:
    """The answer of `pool_watch`."""
    rows = [pool(number) for number in range(pools)] if isinstance(pools, int) else pools
    return {"pools": rows, "events": events or [], "cursor": cursor}
