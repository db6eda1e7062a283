"""The spans of one task: each is recorded when it is over, with the times that were noted on the way.

    task                                whatever asked for it is the parent
      submit > commit                   accepted
      queue                             once an attempt
      attempt > commit, run             `run` happens in the worker
      commit                            its end

A task that is not traced has a trail, too: one that notes nothing. Nothing of a payload, a
result or a message is ever noted, only ids, names and codes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from mcp_pools import tracing
from mcp_pools.tracing import Context, Span

if TYPE_CHECKING:
    from mcp_pools.adapter import Ended, Ran
    from mcp_pools.store import DistributionRow, TaskRow


class Trail:
    """What a task that is not traced tells of itself: nothing."""

    __slots__ = ()

    @property
    def ids(self) -> dict[str, str]:
        """The trace and the task's own span, for logs."""
        return {}

    def accepted(self, row: TaskRow) -> None:
        """It is on disk."""

    def taken(self, row: TaskRow) -> None:
        """It has a slot, and is about to be kept as running."""

    def kept(self, row: TaskRow) -> None:
        """It is on disk as running."""

    def ran(self, ran: Ran) -> None:
        """Its worker says when its handler ran."""

    def returned(self, row: TaskRow) -> None:
        """Its launch goes back unstarted."""

    def attempted(self, row: TaskRow, ended: Ended) -> None:
        """An attempt is over."""

    def ending(self) -> None:
        """It is about to be kept as ended."""

    def ended(self, row: TaskRow) -> None:
        """Its end is on disk."""


UNTRACED: Final = Trail()


def trail_of(row: TaskRow) -> Trail:
    """The trail of a task: new, or taken up from an earlier owner."""
    if row.trace is None or not tracing.recording():
        return UNTRACED
    context = Context.read(row.trace)
    return UNTRACED if context is None or not context.sampled else Traced(row, context)


class Traced(Trail):
    """The trail of a task whose spans are recorded."""

    __slots__ = ("_attempt", "_begun", "_committing", "_parent_id", "_queued_since", "_ran", "_self")

    def __init__(self, row: TaskRow, parent: Context) -> None:
        now = time.time()
        self._parent_id = parent.parent_id
        self._self = parent.below(row.task_id)
        self._attempt = row.started_at if row.status == "running" and row.started_at else now
        self._queued_since = now if row.attempt else row.created_at
        self._begun = now
        self._committing = 0.0
        self._ran: Ran | None = None

    @property
    def ids(self) -> dict[str, str]:
        """See `Trail.ids`."""
        return {"trace_id": self._self.trace_id, "span_id": self._self.span_id}

    def accepted(self, row: TaskRow) -> None:
        """See `Trail.accepted`. With a slot at once, this commit was that of the start, too."""
        now, self._committing = time.time(), 0.0
        chosen = {tracing.STRATEGY: row.strategy, tracing.POOL: row.pool, tracing.POOL_TYPE: row.pool_type}
        routed = ("routed", self._begun, chosen)
        submit = self._self.below(f"{row.task_id} {tracing.SUBMIT}")
        known = self._known(row) | {tracing.STRATEGY: row.strategy}
        self._record(tracing.SUBMIT, submit, row.created_at, now, known, kind="producer", events=(routed,))
        self._commit(row, submit, self._begun, now, "accept")

    def taken(self, row: TaskRow) -> None:
        """See `Trail.taken`."""
        now = time.time()
        known = self._known(row) | {tracing.ATTEMPT_NUMBER: row.attempt}
        queue = self._self.below(f"{row.attempt_id} {tracing.QUEUE}")
        self._record(tracing.QUEUE, queue, min(self._queued_since, now), now, known)
        self._attempt = self._committing = now

    def kept(self, row: TaskRow) -> None:
        """See `Trail.kept`."""
        if self._committing:
            self._commit(row, self._self.below(row.attempt_id), self._committing, time.time(), "start")
            self._committing = 0.0

    def ran(self, ran: Ran) -> None:
        """See `Trail.ran`."""
        self._ran = ran

    def returned(self, row: TaskRow) -> None:
        """See `Trail.returned`."""
        now = time.time()
        self._record_attempt(row, now, events=(("returned", now, {}),))

    def attempted(self, row: TaskRow, ended: Ended) -> None:
        """See `Trail.attempted`. What ran and did not live to tell ran until now."""
        now, ran = time.time(), self._ran
        started = row.started_at or now
        if ran is not None or started > self._attempt or ended.code is None:
            self._record_run(row, ended.code, started, now)
        self._record_attempt(row, now, error=ended.code)

    def _record_run(self, row: TaskRow, code: str | None, started: float, now: float) -> None:
        ran, known = self._ran, self._known(row) | {tracing.WORKER: row.worker or ""}
        if ran is not None and ran.attempt_id == row.attempt_id:
            started, now = ran.started, ran.ended
            known[tracing.PID] = ran.pid
        run = self._self.below(f"{row.attempt_id} {tracing.RUN}")
        parent = tracing.span_id(row.attempt_id)
        name = f"{tracing.RUN} {row.task_type}"
        self._record(name, run, started, now, known, parent_id=parent, error=code, kind="consumer")

    def _record_attempt(self, row: TaskRow, now: float, **more: Any) -> None:
        attempt = self._self.below(row.attempt_id)
        known = self._known(row) | {tracing.ATTEMPT_NUMBER: row.attempt, tracing.WORKER: row.worker or ""}
        self._record(tracing.ATTEMPT, attempt, self._attempt, now, known, **more)
        self._queued_since, self._ran, self._committing = now, None, 0.0

    def ending(self) -> None:
        """See `Trail.ending`."""
        self._committing = time.time()

    def ended(self, row: TaskRow) -> None:
        """See `Trail.ended`."""
        now = time.time()
        if self._committing:
            self._commit(row, self._self, self._committing, now, "end")
        known = self._known(row) | {tracing.STATUS: row.status, tracing.ATTEMPT_NUMBER: row.attempt}
        known |= {tracing.TASK_TYPE: row.task_type, tracing.POOL_TYPE: row.pool_type or ""}
        if row.distribution_id is not None:
            known[tracing.DISTRIBUTION_ID] = row.distribution_id
        error = None if row.status == "completed" else row.status
        name = f"{tracing.TASK} {row.task_type}"
        self._record(name, self._self, row.created_at, now, known, parent_id=self._parent_id, error=error)

    def _known(self, row: TaskRow) -> dict[str, Any]:
        """What each span says; the task's own says the rest once, for encoding them is most of the cost."""
        return {tracing.TASK_ID: row.task_id, tracing.POOL: row.pool or ""}

    def _commit(self, row: TaskRow, inside: Context, started: float, ended: float, change: str) -> None:
        commit = self._self.below(f"{row.attempt_id} {tracing.COMMIT} {change}")
        known = {tracing.CHANGE: change}
        self._record(tracing.COMMIT, commit, started, ended, known, parent_id=inside.span_id)

    def _record(
        self,
        name: str,
        context: Context,
        started: float,
        ended: float,
        attributes: dict[str, Any],
        *,
        parent_id: str | None = "",
        **more: Any,
    ) -> None:
        """Record a span, below the task's own unless it is said below which."""
        above = self._self.span_id if parent_id == "" else parent_id
        tracing.record(Span(name, context, above, started, max(started, ended), attributes, **more))


def distribution_ended(row: DistributionRow) -> None:
    """A distribution's end is on disk."""
    context = Context.read(row.trace)
    if context is None or not context.sampled or not tracing.recording():
        return
    known = {
        tracing.DISTRIBUTION_ID: row.distribution_id,
        tracing.TASK_TYPE: row.task_type,
        tracing.STRATEGY: row.strategy,
        tracing.STATUS: row.status,
        tracing.ITEMS: row.total,
    }
    error = None if row.status == "completed" else row.status
    name = f"{tracing.DISTRIBUTION} {row.task_type}"
    own = context.below(row.distribution_id)
    tracing.record(Span(name, own, context.parent_id, row.created_at, time.time(), known, error))
