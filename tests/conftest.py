"""What every test may ask for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import hypothesis
import pytest
from mcp import Client
from mcp.shared.memory import create_client_server_memory_streams

from mcp_pools.errors import PoolsError
from mcp_pools.models import (
    Cancelled,
    HealthReport,
    Pool,
    PoolDetail,
    PoolHealth,
    PoolList,
    PoolMetrics,
    Task,
    TaskError,
    WorkerCounts,
)
from mcp_pools.server import serve_session

# How long an example takes says something of the machine, nothing of the code.
hypothesis.settings.register_profile(
    "mcp-pools", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("mcp-pools")

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio: the router is built on it."""
    return "asyncio"


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home whose path is short: a Unix socket in it must stay under 108 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def router() -> Any:
    """The router under the edge; exchange it here to run the same tests over another one."""
    return MemoryRouter()


@pytest.fixture(params=["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])
def connect(router: Any, request: pytest.FixtureRequest) -> Connect:
    """`async with connect(read_only=True) as client`, once in each protocol era."""

    @asynccontextmanager
    async def open_client(**flags: Any) -> AsyncIterator[Client]:
        async with Client(session_transport(router, flags), mode=request.param) as client:
            yield client

    return open_client


@asynccontextmanager
async def session_transport(router: Any, flags: dict[str, Any]) -> AsyncIterator[Any]:
    """The client's streams to a session of its own, which ends with the client."""
    async with create_client_server_memory_streams() as (client, server), anyio.create_task_group() as group:
        group.start_soon(serve_session, router, *server, flags)
        yield client
        await client[1].aclose()
        await client[0].aclose()


class MemoryRouter:
    """Just enough of a router: one pool, and three task types that need no worker.

    `echo` returns its payload, `sleep` reports progress and waits until it is cancelled,
    and `compute` always fails.
    """

    def __init__(self) -> None:
        self.defaults: dict[str, Any] = {}
        self.tasks: dict[str, Task] = {}
        self.keys: dict[str, str] = {}
        self.cancelled: dict[str, anyio.Event] = {}

    def bound(self, caller: Any = None, progress: Any = None) -> MemoryRouter:
        view = object.__new__(MemoryRouter)
        view.__dict__ = {**self.__dict__, "progress": progress}
        return view

    async def list_pools(self, *, active_only: bool, by_type: str | None) -> PoolList:
        busy = sum(task.status == "running" for task in self.tasks.values())
        pools = [_pool(busy=busy)] if by_type in (None, "local") else []
        return PoolList(pools=pools, total=len(pools))

    async def get_pool(self, name: str) -> PoolDetail:
        pool = self._known(name)
        fields = {field: getattr(pool, field) for field in pool.__slots__}
        metrics = PoolMetrics(
            tasks_completed=1,
            tasks_failed=0,
            avg_duration_seconds=0.1,
            p50_seconds=0.1,
            p95_seconds=None,
            p99_seconds=None,
            memory_bytes=1,
        )
        return PoolDetail(**fields, worker_rows=[], metrics=metrics)

    async def register_pool(self, *, name: str, **definition: Any) -> Pool:
        return _pool(name)

    async def scale_pool(self, name: str, workers: int | None) -> Pool:
        return self._known(name)

    async def close_pool(self, name: str, *, force: bool, drain_timeout: float) -> Pool:
        return self._known(name)

    async def health(self, pool: str | None) -> HealthReport:
        row = PoolHealth(name="local", status="healthy", workers=2, latency_seconds=0.001)
        return HealthReport(status="healthy", pools=[row])

    async def execute(
        self, *, task_type: str, payload: Any, idempotency_key: str | None, wait: bool, **rest: Any
    ) -> Task:
        if task_type not in ("echo", "sleep", "compute"):
            raise PoolsError("unknown_task_type", f"There is no task type {task_type!r}.", "Known: echo.")
        if idempotency_key in self.keys:
            return self.tasks[self.keys[idempotency_key]]
        task_id = f"t_{len(self.tasks)}"
        self.keys[idempotency_key or task_id] = task_id
        if task_type == "echo":
            return self._put(task_id, task_type, "completed", result=payload)
        if task_type == "compute":
            error = TaskError(code="task_error", message="division by zero")
            return self._put(task_id, task_type, "failed", error=error)
        self.cancelled[task_id] = anyio.Event()
        task = self._put(task_id, task_type, "running")
        return await self._sleep(task_id) if wait else task

    async def _sleep(self, task_id: str) -> Task:
        if progress := getattr(self, "progress", None):
            progress(1.0, 2.0, "half way")
            progress(0.5, 2.0, "backwards")
            progress(2.0, 2.0, "there")
        try:
            await self.cancelled[task_id].wait()
        except BaseException:
            await self.cancel(task_id)
            raise
        return self.tasks[task_id]

    async def task(self, task_id: str, **view: Any) -> Task:
        if task_id not in self.tasks:
            raise PoolsError("unknown_task", f"There is no task {task_id!r}.", "Call pool_search.")
        return self.tasks[task_id]

    async def cancel(self, task_id: str) -> Cancelled:
        task = await self.task(task_id)
        running = task.status == "running"
        if running:
            self._put(task_id, task.task_type, "cancelled")
            self.cancelled[task_id].set()
        return Cancelled(id=task_id, cancelled=running, already_finished=not running)

    def _known(self, name: str) -> Pool:
        if name != "local":
            raise PoolsError("unknown_pool", f"There is no pool {name!r}.", "Did you mean 'local'?")
        return _pool()

    def _put(self, task_id: str, task_type: str, status: Any, **rest: Any) -> Task:
        unset = dict.fromkeys(Task.__slots__)
        fields = {"caller": "local", "attempt": 1, "max_attempts": 1, "priority": 0, "created_at": _NOW}
        named = {"task_id": task_id, "task_type": task_type, "status": status}
        self.tasks[task_id] = Task(**{**unset, **fields, **named, **rest})
        return self.tasks[task_id]


def _pool(name: str = "local", busy: int = 0) -> Pool:
    return Pool(
        name=name,
        pool_id="p_1",
        type="local",
        status="running",
        workers=WorkerCounts(total=2, busy=busy, idle=2 - busy),
        min_workers=1,
        max_workers=2,
        queue_size=0,
        region="default",
        labels={},
        task_types=["echo", "sleep"],
    )
