"""The contract of durable state: what is kept of pools and tasks, and how it changes.

A store applies *changes*. `commit` hands one over and returns at once with a future;
changes handed over while a commit is under way share the next one, and with it one
sync to disk. The future resolves only when the change is on disk.

Every update is fenced: it names the launch it speaks for, and a store refuses it
(`False`) when the task has since been launched again or has ended. A caller that saw
an error may hand the same change over again: repeating one that landed changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mcp_pools.models import PoolSpec, Status


@dataclass(slots=True, kw_only=True)
class TaskRow:
    """All that is kept of one task. Times are Unix seconds; payload and result JSON bytes."""

    # Written once, when the task is accepted.
    task_id: str
    task_type: str
    caller: str
    created_at: float
    payload: bytes
    cwd: str = "/"
    roots: tuple[str, ...] = ()
    timeout: float = 300.0
    priority: int = 0
    max_attempts: int = 1
    depth: int = 0
    strategy: str = "least_loaded"
    pinned: bool = False
    selector: dict[str, str] | None = None
    affinity_key: str | None = None
    distribution_id: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    trace: str | None = None
    """The `traceparent` it was asked for under. Kept of sampled traces, and known of unfinished rows."""
    part: int | None = None
    """Its place among the parts of its distribution; `FOLD` for the one that folds the others' results."""
    items: int | None = None
    """How many items it holds, each with an outcome of its own; `None`: it is one by itself. Both are
    known of rows that `parts` and `unfinished` return.
    """
    # Change with the task's life.
    status: Status = "queued"
    pool: str | None = None
    pool_type: str | None = None
    worker: str | None = None
    attempt: int = 0
    """Attempts that started; what the user counts."""
    launch: int = 0
    """Launches, also those that never started; what updates are fenced by."""
    seq: int = 0
    """The worker's own number of this launch: a worker's journal says how far it got."""
    not_before: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    progress: bytes | None = None
    result: bytes | None = None
    error: bytes | None = None
    output_tail: str | None = None
    cancel_requested_at: float | None = None

    @property
    def attempt_id(self) -> str:
        """The launch's own name: what workers, Jobs and delegates are keyed by."""
        return f"{self.task_id}.{self.launch}"


FOLD: Final = -1


@dataclass(slots=True, kw_only=True)
class DistributionRow:
    """What is kept of a distribution beside its parts, which are tasks."""

    distribution_id: str
    task_type: str
    caller: str
    created_at: float
    strategy: str
    reduce: str
    on_error: str
    total: int
    """Items; for a broadcast, pools."""
    cwd: str = "/"
    idempotency_key: str | None = None
    request_hash: str | None = None
    trace: str | None = None
    """As in a task's row."""
    cancel_requested_at: float | None = None
    # Change with its end.
    status: Status = "queued"
    finished_at: float | None = None
    reduced: bytes | None = None
    error: bytes | None = None


@dataclass(slots=True, kw_only=True)
class PoolRow:
    """All that is kept of one pool."""

    pool_id: str
    spec: PoolSpec
    status: str = "running"
    fixed_workers: int | None = None
    configured: bool = False
    created_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class EventRow:
    """An event to be written with the change it describes."""

    at: float
    kind: str
    pool: str | None = None
    task_id: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accept:
    """Keep a new task. `False`: a task with this caller and idempotency key is already kept."""

    row: TaskRow
    event: EventRow | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Write a task's changing fields, if its `launch` is still `fence` and it has not ended.

    The row is read when the change is handed over, so it may go on changing.
    """

    row: TaskRow
    fence: int
    event: EventRow | None = None


@dataclass(frozen=True, slots=True)
class Updates:
    """Several updates, of different tasks, in one commit. `False` when any is refused: the others
    may or may not have landed, so hand each over again by itself.
    """

    updates: Sequence[Update]


@dataclass(frozen=True, slots=True)
class AcceptDistribution:
    """Keep a new distribution with all its parts. `False`: its caller has used its idempotency key."""

    row: DistributionRow
    parts: Sequence[TaskRow]
    event: EventRow | None = None


@dataclass(frozen=True, slots=True)
class EndDistribution:
    """Keep how a distribution ended, if it has not ended yet."""

    row: DistributionRow
    event: EventRow | None = None


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """Keep the intent to cancel a task or a distribution, so that the next owner honours it too."""

    id: str
    at: float


@dataclass(frozen=True, slots=True)
class PutPool:
    """Keep a pool's definition and status, under its name."""

    row: PoolRow
    event: EventRow | None = None


@dataclass(frozen=True, slots=True)
class PutAffinity:
    """Keep which pool an affinity key belongs to."""

    key: str
    pool: str


@dataclass(frozen=True, slots=True)
class Happened:
    """Keep an event that belongs to no other change."""

    event: EventRow


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget tasks and distributions that ended, and events that happened, before a time."""

    before: float


Change = (
    Accept
    | Update
    | Updates
    | AcceptDistribution
    | EndDistribution
    | RequestCancel
    | PutPool
    | PutAffinity
    | Happened
    | Prune
)


@dataclass(frozen=True, slots=True)
class PoolHistory:
    """What finished on one pool: counts over all time, durations (s) of the latest 1,000, ascending."""

    completed: int
    failed: int
    durations: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which tasks are looked for. All that is given must hold; times are Unix seconds.

    `query`: words that are all in a task's type, payload, output, error or result; any text is
    a query. `before`: only tasks accepted before the one at this place.
    """

    query: str = ""
    status: Status | None = None
    pool: str | None = None
    task_type: str | None = None
    caller: str | None = None
    since: float | None = None
    before: int | None = None
    limit: int = 20
    result_bytes: int = 8000
    """A larger result is left out."""


@dataclass(frozen=True, slots=True)
class Found:
    """A task that was found: its place in the order of acceptance, and its row without the payload.

    `shortened`: its result was left out.
    """

    place: int
    row: TaskRow
    shortened: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """All tasks that are kept, counted, and how long the latest 10,000 that ran took.

    `counts`: (pool, task type, status, tasks); `durations`: (pool, task type, seconds).
    """

    counts: Sequence[tuple[str, str, Status, int]]
    durations: Sequence[tuple[str, str, float]]


class Store(Protocol):
    """Durable state of one home."""

    lost: bool
    """Whether another owner has taken it over: nothing is kept through this one any more."""

    async def open(self, *, read_only: bool = False) -> None:
        """Migrate, and take the store over for a new owner; `read_only`: only look.

        Raises `PoolsError` `conflict` when the store is of a newer version, cannot be
        written, or is not ours.
        """

    async def close(self) -> None:
        """Commit what was handed over, then let go."""

    def commit(self, change: Change) -> asyncio.Future[bool]:
        """Hand a change over. Resolves once it is on disk: `True`, or `False` when refused."""

    async def task(self, task_id: str) -> TaskRow | None:
        """One task, or `None`."""

    async def unfinished(self) -> list[TaskRow]:
        """Every task that has not ended, oldest first."""

    async def by_key(self, caller: str, idempotency_key: str) -> TaskRow | None:
        """The task this caller submitted under this key within the retention time."""

    async def distribution(self, distribution_id: str) -> DistributionRow | None:
        """One distribution, or `None`."""

    async def distribution_by_key(self, caller: str, idempotency_key: str) -> DistributionRow | None:
        """The distribution this caller submitted under this key within the retention time."""

    async def unfinished_distributions(self) -> list[DistributionRow]:
        """Every distribution that has not ended, oldest first."""

    async def parts(self, distribution_id: str) -> list[TaskRow]:
        """The parts of a distribution in their order, without payloads; the fold, if any, first."""

    async def pools(self) -> list[PoolRow]:
        """Every pool that is not closed, by name."""

    async def affinities(self) -> dict[str, str]:
        """Every affinity key and its pool."""

    async def history(self, pool: str) -> PoolHistory:
        """What finished on a pool."""

    async def tally(self) -> Tally:
        """All tasks that are kept, counted."""

    async def identity(self) -> str:
        """What tells this home's store from every other: cursors are bound to it."""

    async def search(self, wanted: Search) -> list[Found]:
        """Tasks, newest first. Filters see every task that is kept; a text is found 1 s later at most."""

    async def events(
        self, after: int = 0, limit: int = 1000, caller: str | None = None
    ) -> list[tuple[int, EventRow]]:
        """Events behind a cursor, oldest first, each with its own cursor.

        With `caller`, those of tasks and distributions only where they are that caller's.
        """

    async def latest_events(self, limit: int, caller: str | None = None) -> list[tuple[int, EventRow]]:
        """The newest events, oldest first, each with its own cursor; `caller` as in `events`."""

    def next_commit(self) -> asyncio.Future[None]:
        """Resolves after the next commit through this store. Shared: it is not to be cancelled."""
