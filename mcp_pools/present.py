"""What is kept, turned into what the outside sees. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, get_args

from mcp_pools.distribution import Outcome, item_error, outcomes
from mcp_pools.errors import PoolsError
from mcp_pools.models import (
    Distribution,
    Event,
    Figures,
    ItemResult,
    Pool,
    PoolMetrics,
    PoolStatus,
    Progress,
    Stats,
    Status,
    Task,
    TaskError,
    Waiting,
    Worker,
    WorkerCounts,
)
from mcp_pools.states import TERMINAL
from mcp_pools.store import DistributionRow, EventRow, PoolHistory, PoolRow, Tally, TaskRow

TAIL_CHARACTERS: Final = 2000
"""How much of its output a task shows when nobody asked for all that is kept."""


def moment(seconds: float | None) -> datetime | None:
    """Unix seconds as an aware UTC time."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def task_view(
    row: TaskRow,
    now: float,
    *,
    waiting: Waiting | None = None,
    progress: Progress | None = None,
    printed: str | None = None,
    whole_output: bool = False,
) -> Task:
    """A task as it stands at `now`; `waiting`, `progress` and `printed` are known only while it lives."""
    output = row.output_tail if printed is None else printed
    created = datetime.fromtimestamp(row.created_at, UTC)
    return Task(
        task_id=row.task_id,
        task_type=row.task_type,
        status=row.status,
        pool=row.pool,
        pool_type=row.pool_type,
        worker=row.worker,
        caller=row.caller,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        priority=row.priority,
        distribution_id=row.distribution_id,
        created_at=created,
        started_at=moment(row.started_at),
        finished_at=moment(row.finished_at),
        queue_seconds=round((row.started_at or row.finished_at or now) - row.created_at, 6),
        run_seconds=round((row.finished_at or now) - row.started_at, 6) if row.started_at else None,
        progress=progress or _progress(row.progress),
        waiting=waiting,
        result=None if row.result is None else json.loads(row.result),
        result_uri=None,
        output_tail=output if output is None or whole_output else output[-TAIL_CHARACTERS:],
        error=None if row.error is None else TaskError(**json.loads(row.error)),
        next=None if row.status in TERMINAL else f'pool_task(task_id="{row.task_id}", wait_seconds=30)',
    )


def outcomes_of(row: TaskRow) -> list[Outcome]:
    """What became of the items of a part."""
    result = None if row.result is None else json.loads(row.result)
    error = None if row.error is None else json.loads(row.error)
    return outcomes(row.status, result, error, row.items)


def distribution_view(row: DistributionRow, parts: Sequence[TaskRow]) -> Distribution:
    """A distribution as it stands, from its parts in their order."""
    results: list[ItemResult] = []
    pools: Counter[str] = Counter()
    for part in parts:
        found = outcomes_of(part)
        pools[part.pool or ""] += len(found)
        results += [_item(len(results) + at, part, outcome) for at, outcome in enumerate(found)]
    counts = Counter(each.status for each in results)
    over = row.finished_at is not None
    return Distribution(
        distribution_id=row.distribution_id,
        task_type=row.task_type,
        strategy=row.strategy,
        status=row.status,
        total=row.total,
        succeeded=counts["completed"],
        failed=counts["failed"] + counts["timed_out"],
        cancelled=counts["cancelled"],
        pools=dict(pools),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        finished_at=moment(row.finished_at),
        results=results,
        reduced=None if row.reduced is None else json.loads(row.reduced),
        error=None if row.error is None else TaskError(**json.loads(row.error)),
        next=None if over else f'pool_task(task_id="{row.distribution_id}", wait_seconds=30)',
    )


def _item(index: int, part: TaskRow, outcome: Outcome) -> ItemResult:
    error = None if outcome.error is None else item_error(outcome.error)
    return ItemResult(
        index=index,
        task_id=part.task_id,
        pool=part.pool,
        status=outcome.status,
        result=outcome.result,
        error=error,
    )


def _progress(kept: bytes | None) -> Progress | None:
    return None if kept is None else Progress(**json.loads(kept))


def part_of(result: Any, *, select: str | None, offset: int, limit: int | None) -> Any:
    """A part of a result: what a JMESPath expression selects, then a slice of a list or text.

    Raises `PoolsError` `invalid_payload` for an expression that is none.
    """
    if select is not None:
        import jmespath

        try:
            result = jmespath.search(select, result)
        except jmespath.exceptions.JMESPathError as error:
            problem = " ".join(str(error).split())
            raise PoolsError("invalid_payload", f"select: {problem}.", "See jmespath.org.") from None
    if isinstance(result, list | str) and (offset or limit is not None):
        return result[offset : None if limit is None else offset + limit]
    return result


def part_of_distribution(
    whole: Distribution, *, select: str | None, offset: int, limit: int | None
) -> Distribution:
    """A distribution with some of its items, and of each one's result what a JMESPath expression selects."""
    results = part_of(whole.results, select=None, offset=offset, limit=limit)
    if select is not None:
        results = [
            replace(each, result=part_of(each.result, select=select, offset=0, limit=None))
            for each in results
        ]
    return replace(whole, results=results)


def pool_view(
    row: PoolRow, *, status: PoolStatus, workers: Sequence[Worker], queue_size: int, task_types: list[str]
) -> Pool:
    """A pool as it stands."""
    busy = sum(worker.status == "busy" for worker in workers)
    fixed = row.fixed_workers
    return Pool(
        name=row.spec.name,
        pool_id=row.pool_id,
        type=row.spec.type,
        status=status,
        workers=WorkerCounts(total=len(workers), busy=busy, idle=sum(w.status == "idle" for w in workers)),
        min_workers=row.spec.min_workers if fixed is None else fixed,
        max_workers=row.spec.max_workers if fixed is None else fixed,
        queue_size=queue_size,
        region=row.spec.region,
        labels=dict(row.spec.labels),
        task_types=task_types,
    )


def metrics_view(history: PoolHistory, memory_bytes: int) -> PoolMetrics:
    """What finished on a pool, in numbers."""
    durations = history.durations
    return PoolMetrics(
        tasks_completed=history.completed,
        tasks_failed=history.failed,
        avg_duration_seconds=sum(durations) / len(durations) if durations else None,
        p50_seconds=percentile(durations, 0.50),
        p95_seconds=percentile(durations, 0.95),
        p99_seconds=percentile(durations, 0.99),
        memory_bytes=memory_bytes,
    )


def event_view(cursor: int, row: EventRow) -> Event:
    """A line of the event log."""
    at = datetime.fromtimestamp(row.at, UTC)
    return Event(cursor=cursor, at=at, kind=row.kind, pool=row.pool, task_id=row.task_id, data=row.data)


def stats_view(tally: Tally, by_type: bool) -> Stats:
    """All tasks in numbers, those of each pool, and, if asked for, those of each type."""

    def of(place: int) -> dict[str, Figures]:
        names = sorted({str(count[place]) for count in tally.counts if count[place]})
        return {name: _figures(tally, place, name) for name in names}

    return Stats(totals=_figures(tally), pools=of(0), by_type=of(1) if by_type else None)


def _figures(tally: Tally, place: int = 0, name: object = None) -> Figures:
    """The tasks of one pool (place 0) or type (place 1); without a name, all."""
    statuses: Counter[str] = Counter()
    for count in tally.counts:
        if name in (None, count[place]):
            statuses[count[2]] += count[3]
    durations = sorted(each[2] for each in tally.durations if name in (None, each[place]))
    judged = statuses["completed"] + statuses["failed"] + statuses["timed_out"]
    return Figures(
        tasks=statuses.total(),
        statuses={status: statuses[status] for status in get_args(Status) if statuses[status]},
        success_rate=round(statuses["completed"] / judged, 6) if judged else None,
        avg_seconds=sum(durations) / len(durations) if durations else None,
        p50_seconds=percentile(durations, 0.50),
        p95_seconds=percentile(durations, 0.95),
        p99_seconds=percentile(durations, 0.99),
    )


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed; `None` of no values."""
    if not ascending:
        return None
    return ascending[max(0, -(-int(share * 1000) * len(ascending) // 1000) - 1)]
