"""What the outside sees: pools, workers, tasks, distributions, events.

Plain frozen dataclasses: cheap to import for the console, described to MCP clients by
pydantic at the edge. Times are aware UTC datetimes, durations seconds, sizes bytes.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Status = Literal["queued", "running", "completed", "failed", "cancelled", "timed_out"]
PoolStatus = Literal["starting", "running", "degraded", "failed", "draining", "closed"]
WaitingCode = Literal[
    "no_idle_worker",
    "pool_unhealthy",
    "pool_draining",
    "rate_limited",
    "concurrency_limited",
    "retry_backoff",
    "unschedulable",
    "image_pull",
    "quota",
]
Health = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """What may run. Each key is a tuple of shell globs; empty refuses, `*` allows all."""

    commands: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    roots: tuple[str, ...] | None = None
    """Directories that files may be read from; `None`: the caller's own directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """A pool as somebody defined it: in the configuration or with `pool_register`."""

    name: str
    type: str
    min_workers: int = 1
    max_workers: int = 10
    worker_type: str = "python"
    endpoint: str | None = None
    region: str = "default"
    namespace: str = "mcp-pools"
    container_image: str = "python:3.13-slim"
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """How many workers a pool has right now."""

    total: int
    busy: int
    idle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker of a pool."""

    worker_id: str
    status: Literal["starting", "idle", "busy", "stopping"]
    pid: int | None = None
    task_id: str | None = None
    tasks_done: int = 0
    memory_bytes: int | None = None
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMetrics:
    """A pool's history, read from the store; seconds over its latest 1,000 finished tasks."""

    tasks_completed: int
    tasks_failed: int
    avg_duration_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool of workers as `pool_list` shows it."""

    name: str
    pool_id: str
    type: str
    status: PoolStatus
    workers: WorkerCounts
    min_workers: int
    max_workers: int
    queue_size: int
    region: str
    labels: dict[str, str]
    task_types: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDetail(Pool):
    """A pool as `pool_get` shows it: with its workers and its history."""

    worker_rows: list[Worker]
    metrics: PoolMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolList:
    """The answer of `pool_list`."""

    pools: list[Pool]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHealth:
    """One pool's health; `latency_seconds` is how long its check took."""

    name: str
    status: Health
    workers: int
    latency_seconds: float
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The answer of `pool_health`: the worst pool decides."""

    status: Health
    pools: list[PoolHealth]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running task says it is."""

    done: float
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a queued task waits, in one machine-readable form for every pool type."""

    code: WaitingCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why a task did not complete."""

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands. Terminal statuses never change."""

    task_id: str
    task_type: str
    status: Status
    pool: str | None
    pool_type: str | None
    worker: str | None
    caller: str
    attempt: int
    max_attempts: int
    priority: int
    distribution_id: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_seconds: float | None
    run_seconds: float | None
    progress: Progress | None
    waiting: Waiting | None
    result: Any
    result_uri: str | None
    output_tail: str | None
    error: TaskError | None
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """What became of one item of a distribution; of a broadcast, on one pool."""

    index: int
    task_id: str
    pool: str | None
    status: Status
    result: Any = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Work that was spread over pools, as it stands; counts and results are of items, in their order.

    `error`: why the fold failed (`reduced` is then null), whatever became of the items.
    """

    distribution_id: str
    task_type: str
    strategy: str
    status: Status
    total: int
    succeeded: int
    failed: int
    cancelled: int
    pools: dict[str, int]
    created_at: datetime
    finished_at: datetime | None
    results: list[ItemResult]
    reduced: Any
    error: TaskError | None
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalanced:
    """The answer of `pool_rebalance`: each move is {`task_id`, `from`, `to`}; `why` says it in words."""

    moved: list[dict[str, str]]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Something that could be a pool. `reachable` is null for what was not asked; `note` says who
    names it, and what stands in the way of a pool.
    """

    name: str
    type: str
    endpoint: str | None
    reachable: bool | None
    offers: list[str]
    registered: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """The answer of `pool_discover`."""

    found: list[Discovery]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """The answer of `pool_search`: tasks, newest first, and the cursor of the next page, if there is one."""

    tasks: list[Task]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """What a memory found, in its own words, or why it found nothing.

    `task_id`: the task or distribution that its words name.
    """

    source: str
    text: str | None = None
    task_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallPage(TaskPage):
    """The answer of `pool_search`: with the setting `memory_search`, what each memory found, too."""

    memories: list[Recollection]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Some tasks in numbers. Seconds are of running, over those of the latest 10,000 that ran."""

    tasks: int
    statuses: dict[str, int]
    success_rate: float | None
    """Completed ones among those that completed, failed or timed out; `None` of none."""
    avg_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The answer of `pool_stats`: all tasks that are kept, those of each pool, those of each type."""

    totals: Figures
    pools: dict[str, Figures]
    by_type: dict[str, Figures] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The answer of `pool_cancel`."""

    id: str
    cancelled: bool
    already_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the event log, written in the same commit as the change it describes."""

    cursor: int
    at: datetime
    kind: str
    pool: str | None
    task_id: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The answer of `pool_watch`: events, oldest first, the cursor to go on from, the pools."""

    events: list[Event]
    cursor: str
    pools: list[Pool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf a tool runs.

    `patience` is how long, in seconds, a waiting call may last before it answers with
    the task as it stands; `None` waits as long as it was told to. Who does not see `everything`
    sees the tasks and distributions of its own name alone; the others are not there for it.
    """

    name: str = "local"
    kind: Literal["python", "console", "mcp"] = "python"
    cwd: str = "/"
    patience: float | None = None
    depth: int = 0
    everything: bool = True

    @property
    def narrowed(self) -> str | None:
        """The one name whose tasks it may see; `None`: all."""
        return None if self.everything else self.name

    def sees(self, owner: str) -> bool:
        """Whether what `owner` submitted is there for this caller."""
        return self.everything or owner == self.name
