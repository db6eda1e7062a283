"""What is counted of tasks and pools: `telemetry` says how, this says when and under which labels."""

from __future__ import annotations

from mcp_pools import telemetry
from mcp_pools.chunks import failures
from mcp_pools.pool import LivePool
from mcp_pools.store import TaskRow
from mcp_pools.telemetry import Meters


def count_start(meters: Meters, pool: str, row: TaskRow) -> None:
    """A launch is on disk. How long it waited is told of the first: later ones wait for other reasons."""
    if row.launch == 1:
        meters.observe(telemetry.QUEUE_SECONDS, (row.started_at or 0.0) - row.created_at, pool)


def count_end(meters: Meters, row: TaskRow) -> None:
    """A task's end is on disk."""
    pool = row.pool or ""
    meters.add(telemetry.TASKS, pool, row.pool_type or "", row.task_type, row.status)
    if row.started_at is not None and row.finished_at is not None:
        meters.observe(telemetry.DURATION, row.finished_at - row.started_at, pool, row.task_type)
    for code, number in failures(row).items():
        meters.add(telemetry.ERRORS, pool, code, amount=number)


def count_workers(meters: Meters, pool: LivePool) -> None:
    """Count the workers that a pool has gained or lost since it was last looked at."""
    workers = set() if pool.adapter is None else {worker.worker_id for worker in pool.adapter.workers}
    if gained := len(workers - pool.counted_workers):
        meters.add(telemetry.SCALING, pool.name, "up", amount=gained)
    if lost := len(pool.counted_workers - workers):
        meters.add(telemetry.SCALING, pool.name, "down", amount=lost)
    pool.counted_workers = workers
