"""What a change writes to PostgreSQL: the rows of each of its statements, and its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

from mcp_pools.store import (
    Accept,
    AcceptDistribution,
    Change,
    EndDistribution,
    EventRow,
    Happened,
    Prune,
    PutAffinity,
    PutPool,
    RequestCancel,
    TaskRow,
    Update,
    Updates,
)
from mcp_pools.stores.sql import postgres_rows as sql

Writes = Sequence[tuple[str, Sequence[sql.Row]]]


class Job(NamedTuple):
    """A change: the rows of each of its statements, of its events, and the tasks whose texts it touches.

    Thousands of rows are made where they are applied, not on the event loop.
    """

    writes: Writes | Callable[[], Writes]
    events: Sequence[sql.Row] = ()
    touched: Sequence[str] = ()

    def rows(self) -> Writes:
        """The rows of each statement."""
        return self.writes() if callable(self.writes) else self.writes


def job_of(change: Change, epoch: int) -> Job:
    """What a change writes for the owner of that epoch, as its rows stand now."""
    match change:
        case Update():
            return _updates([change], epoch)
        case Updates(updates=updates):
            return _updates(updates, epoch)
        case Accept(row=row, event=event):
            return Job([("accept", [sql.accepted(row, epoch)])], _told(event), [row.task_id])
        case AcceptDistribution(parts=parts, event=event):
            touched = [part.task_id for part in parts]
            return Job(partial(_distributed, change, epoch), _told(event), touched)
        case EndDistribution(row=row, event=event):
            return Job([("end", [(*sql.ending(row), row.distribution_id)])], _told(event))
        case RequestCancel():
            asked = [(change.at, change.id)]
            return Job([("cancel", asked), ("cancel_distribution", asked)])
        case PutPool(row=row, event=event):
            values = (row.spec.name, row.pool_id, json.dumps(asdict(row.spec)), row.status, row.fixed_workers)
            return Job([("pool", [(*values, row.configured, row.created_at)])], _told(event))
        case PutAffinity():
            return Job([("affinity", [(change.key, change.pool)])])
        case Happened(event=event):
            return Job([], _told(event))
        case Prune(before=before):
            return Job(
                [(key, [(before,)]) for key in ("prune_events", "prune_distributions", "prune")],
            )


def _updates(updates: Sequence[Update], epoch: int) -> Job:
    rows = [(change.row.task_id, change.fence, epoch, *sql.changing(change.row)) for change in updates]
    events = [row for change in updates for row in _told(change.event)]
    return Job([("update", rows)], events, [row.task_id for row in map(_row, updates) if row.finished_at])


def _row(change: Update) -> TaskRow:
    return change.row


def _distributed(change: AcceptDistribution, epoch: int) -> Writes:
    parts = [sql.accepted(part, epoch) for part in change.parts]
    return [("distribution", [sql.distribution(change.row)]), *([("accept", parts)] if parts else [])]


def _told(event: EventRow | None) -> Sequence[sql.Row]:
    return [sql.event_values(event)] if event is not None else ()
