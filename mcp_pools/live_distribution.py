"""A distribution that has not ended: its parts, and how many of its items have ended how.

What is shown and reported counts only ends that are on disk. What is written into the event
log counts those that go to disk with it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mcp_pools.events import tell
from mcp_pools.models import Status
from mcp_pools.pool import LiveTask, ProgressReport
from mcp_pools.present import outcomes_of
from mcp_pools.states import TERMINAL
from mcp_pools.store import DistributionRow, EventRow, TaskRow

REPORTS: Final = 20
"""Events that tell how far a distribution is, at most."""

REPORT_SECONDS: Final = 0.1
"""How often those who wait are told how far it is."""


@dataclass(slots=True, eq=False)
class LiveDistribution:
    """A distribution that has not ended (`mcp_pools.pool.Whole`)."""

    row: DistributionRow
    parts: list[LiveTask]
    all_ended: Callable[[LiveDistribution], None]
    one_failed: Callable[[LiveDistribution], None]
    folding: LiveTask | None = None
    cancelling: bool = False
    listeners: list[ProgressReport] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)
    """Items by status, of the parts whose end is on disk."""
    _left: int = 0
    _ending: dict[str, Counter[Status]] = field(default_factory=dict)
    _news: dict[str, Counter[str]] = field(default_factory=dict)
    _happened: Counter[str] = field(default_factory=Counter)
    _told: Counter[str] = field(default_factory=Counter)
    _next_report: int = 0
    _reported_at: float = 0.0

    def __post_init__(self) -> None:
        for part in self.parts:
            part.whole = self
            if part.row.status in TERMINAL:
                self.counts.update(statuses(part.row))
        self._left = sum(part.row.status not in TERMINAL for part in self.parts)
        self._told = self.counts.copy()
        self._next_report = self.counts.total() + self._stride

    @property
    def distribution_id(self) -> str:
        """Its id."""
        return self.row.distribution_id

    @property
    def ended(self) -> asyncio.Event:
        """Set once its end is on disk."""
        return self.over

    @property
    def _stride(self) -> int:
        return max(1, self.row.total // REPORTS)

    def happened(self, kind: str) -> None:
        """Something happened to a part; its next event says how often."""
        self._happened[kind] += 1

    def ending(self, part: LiveTask) -> EventRow | None:
        """A part is about to be kept as ended; now and then, an event to be kept with it."""
        counts = self._ending[part.task_id] = statuses(part.row)
        self._told.update(counts)
        self._news.setdefault(part.row.pool or "", Counter()).update(counts)
        done = self._told.total()
        if done < self._next_report or done >= self.row.total:
            return None
        self._next_report = done + self._stride
        return self.event("progress")

    def ended_part(self, part: LiveTask) -> None:
        """A part's end is on disk."""
        counts = self._ending.pop(part.task_id, None)
        self.counts.update(statuses(part.row) if counts is None else counts)
        self._left -= 1
        self._report()
        if not self._left:
            self.all_ended(self)
        elif self.row.on_error == "fail_fast" and self.has_failed:
            self.one_failed(self)

    @property
    def has_failed(self) -> bool:
        """Whether an item has."""
        return bool(self.counts["failed"] or self.counts["timed_out"])

    def event(self, kind: str) -> EventRow:
        """What has happened to it: items by status in all, and since its last event what its parts
        went through (`since`) and how items ended on each pool (`pools`).
        """
        news, self._news = self._news, {}
        happened, self._happened = self._happened, Counter()
        data = {
            "distribution_id": self.distribution_id,
            "total": self.row.total,
            **{status: count for status, count in sorted(self._told.items()) if count},
            "since": dict(sorted(happened.items())),
            "pools": {pool: dict(counts) for pool, counts in news.items()},
        }
        event = EventRow(at=time.time(), kind=f"distribution.{kind}", data=data)
        tell(event, {})
        return event

    def _report(self) -> None:
        now = time.monotonic()
        if not self.listeners or (self._left and now - self._reported_at < REPORT_SECONDS):
            return
        self._reported_at = now
        failed = self.counts.total() - self.counts["completed"]
        for listener in self.listeners:
            listener(self.counts.total(), self.row.total, f"{failed} failed" if failed else None)

    @property
    def status(self) -> Status:
        """Queued until its first part starts."""
        if self.row.status in TERMINAL:
            return self.row.status
        waits = all(part.row.status == "queued" for part in self.parts)
        return "queued" if waits and not self.counts else "running"


def statuses(row: TaskRow) -> Counter[Status]:
    """How many items of a part that has ended have which status."""
    if row.items is None:
        return Counter({row.status: 1})
    if row.status == "completed" and b'"error"' not in (row.result or b""):
        return Counter({"completed": row.items})
    return Counter(outcome.status for outcome in outcomes_of(row))
