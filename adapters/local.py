"""Pool type `local`: warm worker processes on this machine.

A worker runs one launch at a time. While launches are short and many wait, each worker
is handed some in advance, so that it never idles while the next one is committed; those
still lie in its channel and can be taken back. They are, as soon as the launch before
them turns out to be long, is to be cancelled, or takes the worker down.

Options: `memory_limit_bytes` (a worker over it is ended: `out_of_memory`),
`recycle_bytes` (a worker over it is replaced after its task), `idle_seconds` (an idle worker above
the minimum is retired).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from mcp_pools.adapter import (
    Changed,
    Ended,
    Launch,
    Printed,
    Progressed,
    Ran,
    Returned,
    Sink,
    Slot,
    Started,
    Surroundings,
)
from mcp_pools.errors import PoolsError
from mcp_pools.models import Health, PoolSpec, Worker
from mcp_pools.wire import ChannelClosed
from mcp_pools.worker_process import Journal, WorkerProcess, end_strangers

AHEAD: Final = 64
"""Launches a worker may hold, the one it runs included, while they are short."""

SHORT_SECONDS: Final = 0.005
"""Launches of this length are short: handing them out one by one would cost more than they do."""

STUCK_SECONDS: Final = 0.02
"""A launch running longer is not short: those behind it go back to whoever is free."""

_TICK_SECONDS: Final = 0.02
_MEMORY_TICKS: Final = 25
_GUARD_SECONDS: Final = 5.0
_STARTS_AT_ONCE: Final = max(2, os.cpu_count() or 2)
_PACKETS_AT_ONCE: Final = 256
"""What one worker may say before the others are heard."""

OPTIONS: Final[dict[str, float]] = {"memory_limit_bytes": 0, "recycle_bytes": 1 << 29, "idle_seconds": 60.0}


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker and what it was given, in order: the first launch runs, the others lie ahead."""

    process: WorkerProcess
    state: Literal["starting", "ready", "retiring", "ending"] = "starting"
    given: dict[str, Launch] = field(default_factory=dict)
    reserved: int = 0
    full: bool = False
    """Its channel had no room; it may have, once it has taken something."""
    seq: int = 0
    tasks_done: int = 0
    memory_bytes: int = 0
    born: float = field(default_factory=time.time)
    running_since: float = 0.0
    idle_since: float = field(default_factory=time.monotonic)
    ended_for: Ended | None = None
    killed_at: float = 0.0

    @property
    def held(self) -> int:
        return len(self.given) + self.reserved

    @property
    def running(self) -> Launch | None:
        return next(iter(self.given.values()), None)

    def stuck(self, now: float) -> bool:
        """Whether what it runs is not short, so that nothing should wait behind it."""
        return bool(self.given) and self.state != "starting" and now - self.running_since > STUCK_SECONDS


class LocalPool:
    """A pool of worker processes (`mcp_pools.adapter.Adapter`)."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self._first_spec = spec
        self._surroundings = surroundings
        self._workers: dict[str, _Worker] = {}
        self._where: dict[str, _Worker] = {}
        self._count = 0
        self._usual_seconds: float | None = None
        self._failed_starts = 0
        self._last_failure = ""
        self._start_after = 0.0
        self._strength = 0
        self._ticks = 0
        self._closing = False
        options(spec)

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. Nothing of this machine outlives its owner: orphans only get their verdict."""
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        directory = self._surroundings.directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        attempts = frozenset(launch.attempt_id for launch in orphans)
        await asyncio.to_thread(end_strangers, directory, attempts)
        for launch in orphans:
            sink(self._verdict(launch))
        # The verdicts are not on disk yet: another owner may need those journals once more.
        needed = {launch.worker for launch in orphans}
        for journal in directory.iterdir():
            if journal.name not in needed:
                journal.unlink(missing_ok=True)
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            self._closing = True
            ticking.cancel()
            await self._end_all()

    def _verdict(self, launch: Launch) -> Ended | Returned:
        if Journal(self._surroundings.directory / launch.worker).started(launch.seq):
            message = "Its owner died while it ran; it may have run, in part or in whole."
            return Ended(launch.attempt_id, "interrupted", message=message, retryable=True)
        return Returned(launch.attempt_id)

    async def _end_all(self) -> None:
        for worker in self._workers.values():
            self._stop(worker)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GUARD_SECONDS):
                    while self._workers:
                        await asyncio.sleep(0.005)
        finally:  # also when nobody has the time to wait: none is left behind
            for worker in list(self._workers.values()):
                worker.process.kill_guard()
                self._reap(worker)

    def _stop(self, worker: _Worker) -> None:
        running = worker.running
        message = "Its owner stopped while it ran; it may have run in part."
        stopped = None
        if running is not None:
            stopped = Ended(running.attempt_id, "interrupted", message=message, retryable=True)
        if not self._kill(worker, stopped):
            self._stop(worker)

    # Places for work.

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """See `Adapter.reserve`."""
        slots = self._reserve(wanted, most=1)
        missing = wanted - len(slots)
        if missing > 0:
            self._start_more(missing)
            slots += self._reserve(missing, most=1)
        if len(slots) < wanted and self._usual_seconds is not None and self._usual_seconds < SHORT_SECONDS:
            slots += self._reserve(wanted - len(slots), most=AHEAD)
        return slots

    def _reserve(self, wanted: int, most: int) -> list[Slot]:
        """Slots on workers that hold fewer than `most`, evenly."""
        slots: list[Slot] = []
        now = time.monotonic()
        able = [
            worker
            for worker in self._workers.values()
            if worker.state in ("ready", "starting") and not worker.full and not worker.stuck(now)
        ]
        while len(slots) < wanted and (able := [worker for worker in able if worker.held < most]):
            slots += [self._slot(worker) for worker in able[: wanted - len(slots)]]
        return slots

    def _slot(self, worker: _Worker) -> Slot:
        worker.reserved += 1
        worker.seq += 1

        def give_back() -> None:
            worker.reserved -= 1

        return Slot(worker.process.worker_id, worker.seq, give_back)

    def _start_more(self, missing: int) -> None:
        """Start workers for what waits, unless those there are will be through with it at once."""
        now = time.monotonic()
        live = sum(worker.state != "ending" for worker in self._workers.values())
        able = sum(
            worker.state in ("ready", "starting") and not worker.stuck(now)
            for worker in self._workers.values()
        )
        if able and self._usual_seconds is not None and self._usual_seconds * missing / able < 0.05:
            return
        starting = sum(worker.state == "starting" for worker in self._workers.values())
        room = min(self.spec.max_workers - live, _STARTS_AT_ONCE - starting)
        for _ in range(min(missing, room)):
            self._start()

    def _start(self) -> None:
        if self._closing or time.monotonic() < self._start_after:
            return
        self._count += 1
        worker_id = f"{self.spec.name}-{self._count}-{os.urandom(4).hex()}"
        limit = int(self._option("memory_limit_bytes"))
        try:
            process = WorkerProcess(worker_id, self._surroundings, limit)
        except OSError as error:
            self._failed(f"a worker cannot be started: {error}")
            return
        worker = _Worker(process)
        self._workers[worker_id] = worker
        self._loop.add_reader(process.channel, self._read, worker)
        self._loop.add_reader(process.pidfd, self._reap, worker)

    def _option(self, name: str) -> float:
        default = self._surroundings.memory_bytes if name == "memory_limit_bytes" else OPTIONS[name]
        return float(self.spec.options.get(name, default))

    # Launching, and what workers say.

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        for launch in launches:
            worker = self._workers.get(launch.worker)
            if launch.attempt_id in self._where:
                continue
            if worker is None or worker.state == "ending":
                self._sink(Returned(launch.attempt_id))
                continue
            worker.reserved -= 1
            self._give(worker, launch)

    def _give(self, worker: _Worker, launch: Launch) -> None:
        try:
            worker.process.run(launch)
        except (OSError, ChannelClosed):
            worker.full = bool(worker.given)
            self._sink(Returned(launch.attempt_id))
            return
        worker.given[launch.attempt_id] = launch
        self._where[launch.attempt_id] = worker
        if len(worker.given) == 1:
            self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        """The first launch given to a worker that is ready runs from now."""
        running = worker.running
        if running is not None and worker.state != "starting":
            worker.running_since = time.monotonic()
            self._sink(Started(running.attempt_id, time.time()))

    def _read(self, worker: _Worker) -> None:
        for header, body in worker.process.receive(_PACKETS_AT_ONCE):
            self._heard(worker, header, body)

    def _read_all(self, worker: _Worker) -> None:
        """Hear what a worker has said, to its last word."""
        while packets := list(worker.process.receive(_PACKETS_AT_ONCE)):
            for header, body in packets:
                self._heard(worker, header, body)

    def _heard(self, worker: _Worker, header: list[Any], body: bytes) -> None:
        match header:
            case ["ended", attempt_id, None]:
                self._ended(worker, Ended(attempt_id, None, body))
            case ["ended", attempt_id, code, message, retryable, details]:
                self._ended(worker, Ended(attempt_id, code, None, message, retryable, details))
            case ["printed", attempt_id]:
                self._sink(Printed(attempt_id, body))
            case ["progress", attempt_id, done, total, message]:
                self._sink(Progressed(attempt_id, done, total, message))
            case ["ran", attempt_id, started, ended, pid]:
                self._sink(Ran(attempt_id, started, ended, pid))
            case ["ready"] if worker.state == "starting":
                worker.state = "ready"
                self._failed_starts = 0
                self._strength = max(self._strength, len(self._workers))
                self._begin(worker)
                self._sink(Changed())

    def _ended(self, worker: _Worker, ended: Ended) -> None:
        if worker.given.pop(ended.attempt_id, None) is None:
            return
        del self._where[ended.attempt_id]
        took = time.monotonic() - worker.running_since
        self._usual_seconds = took if self._usual_seconds is None else 0.8 * self._usual_seconds + 0.2 * took
        worker.tasks_done += 1
        worker.full = False
        worker.idle_since = time.monotonic()
        self._begin(worker)
        if ended.code == "out_of_memory" or worker.state == "retiring":
            self._retire(worker)
        self._sink(ended)

    # Ends: of launches, of workers.

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`."""
        worker = self._where.get(attempt_id)
        if worker is None:
            return
        ended = Ended(attempt_id, "cancelled", message="Cancelled.")
        if attempt_id in self._recall(worker, keep=attempt_id):
            self._forget(worker, attempt_id)
            self._sink(ended)
        elif attempt_id in worker.given:
            self._kill(worker, ended)

    def _recall(self, worker: _Worker, keep: str = "") -> list[str]:
        """Take back what the worker has not taken; all but `keep` is returned to the router."""
        recalled = worker.process.recall()
        for attempt_id in recalled:
            if attempt_id != keep:
                self._forget(worker, attempt_id)
                self._sink(Returned(attempt_id))
        return recalled

    def _forget(self, worker: _Worker, attempt_id: str) -> None:
        worker.given.pop(attempt_id, None)
        self._where.pop(attempt_id, None)

    def _kill(self, worker: _Worker, ended: Ended | None) -> bool:
        """End a worker; `ended` is what its running launch ended for.

        `False`: that launch has ended by itself in the meantime, so the worker may live. With
        its channel emptied first it has taken nothing that it had not taken when it said so.
        """
        if worker.state == "ending":
            return True
        was, worker.state = worker.state, "ending"
        self._recall(worker)
        self._read_all(worker)
        if ended is not None and ended.attempt_id not in worker.given:
            worker.state = "ready"
            if was == "retiring":
                self._retire(worker)
            return False
        worker.ended_for = ended
        worker.killed_at = time.monotonic()
        worker.process.kill()
        return True

    def _retire(self, worker: _Worker) -> None:
        """Let a worker finish what it runs and take nothing more."""
        if worker.state != "ending":
            worker.state = "retiring"
            self._recall(worker)
            if not worker.given:
                self._kill(worker, None)

    def _reap(self, worker: _Worker) -> None:
        """A worker has ended: hear its last words, judge what it ran, restore the pool's strength."""
        self._loop.remove_reader(worker.process.pidfd)
        self._loop.remove_reader(worker.process.channel)
        was = worker.state
        exit = worker.process.reap(worker.given)
        worker.state = "ending"
        self._read_all(worker)
        self._recall(worker)
        for launch in list(worker.given.values()):
            self._forget(worker, launch.attempt_id)
            if exit.printed:
                self._sink(Printed(launch.attempt_id, exit.printed))
            known = worker.ended_for
            if known is None or known.attempt_id != launch.attempt_id:
                known = self._lost(launch, exit.words, exit.out_of_memory)
            self._sink(known)
        del self._workers[worker.process.worker_id]
        worker.process.close()
        if was == "starting":
            self._failed(
                f"a worker {exit.words} before it was ready: {exit.printed[-500:].decode(errors='replace')}"
            )
        elif was == "ready" and len(self._workers) < min(self._strength, self.spec.max_workers):
            self._start()
        self._sink(Changed())

    def _lost(self, launch: Launch, words: str, out_of_memory: bool) -> Ended:
        if out_of_memory:
            message = "The kernel ended its worker for want of memory."
            return Ended(launch.attempt_id, "out_of_memory", message=message, retryable=True)
        return Ended(launch.attempt_id, "worker_lost", message=f"Its worker {words}.", retryable=True)

    def _failed(self, reason: str) -> None:
        self._failed_starts += 1
        self._last_failure = reason
        self._start_after = time.monotonic() + min(0.1 * 2**self._failed_starts, 5.0)

    # Once in a while.

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS if self._where else _TICK_SECONDS * 5)
            self._ticks += 1
            now = time.monotonic()
            for worker in list(self._workers.values()):
                self._look_at(worker, now)
            self._resize(now)

    def _look_at(self, worker: _Worker, now: float) -> None:
        running = worker.running
        if worker.state == "ending":
            if now - worker.killed_at > _GUARD_SECONDS:
                worker.process.kill_guard()
            return
        if running is not None and worker.state != "starting":
            ran = now - worker.running_since
            if ran > running.timeout:
                message = f"It ran longer than its timeout of {running.timeout:g} s."
                self._kill(worker, Ended(running.attempt_id, "timeout", message=message))
            elif ran > STUCK_SECONDS and len(worker.given) > 1:
                self._recall(worker)
        if self._ticks % _MEMORY_TICKS == 0:
            self._weigh(worker, running)

    def _weigh(self, worker: _Worker, running: Launch | None) -> None:
        worker.memory_bytes = worker.process.resident_bytes()
        limit = int(self._option("memory_limit_bytes"))
        if running is not None and limit and worker.memory_bytes > limit:
            message = f"It used {worker.memory_bytes} bytes of memory; its worker may use {limit}."
            self._kill(worker, Ended(running.attempt_id, "out_of_memory", message=message))
        elif worker.memory_bytes > self._option("recycle_bytes"):
            self._retire(worker)

    def _resize(self, now: float) -> None:
        """Retire what is above the maximum, or idle for long and above the minimum; start what is below.

        A pool that nobody has used or resized yet has no workers: they start when they are needed.
        """
        live = [worker for worker in self._workers.values() if worker.state in ("ready", "starting")]
        idle = [worker for worker in live if not worker.held and worker.state == "ready"]
        surplus = len(live) - self.spec.max_workers
        for worker in sorted(live, key=lambda each: each.held)[: max(surplus, 0)]:
            self._retire(worker)
        for worker in idle[: max(len(live) - max(self.spec.min_workers, surplus), 0)]:
            if now - worker.idle_since > self._option("idle_seconds"):
                self._strength = max(self.spec.min_workers, len(live) - 1)
                self._retire(worker)
        if self._count or self.spec is not self._first_spec:
            starting = sum(worker.state == "starting" for worker in live)
            missing = min(self.spec.min_workers, self.spec.max_workers) - len(live)
            for _ in range(min(missing, _STARTS_AT_ONCE - starting)):
                self._start()

    # How it stands.

    async def health(self) -> tuple[Health, str | None]:
        """See `Adapter.health`."""
        if self._failed_starts >= 3:
            return "unhealthy", self._last_failure
        return ("degraded", self._last_failure) if self._failed_starts else ("healthy", None)

    @property
    def workers(self) -> Sequence[Worker]:
        """The workers as they stand."""
        return [self._row(worker) for worker in self._workers.values()]

    def _row(self, worker: _Worker) -> Worker:
        running = worker.running
        status: Any = {"starting": "starting", "ending": "stopping", "retiring": "stopping"}.get(worker.state)
        return Worker(
            worker_id=worker.process.worker_id,
            status=status or ("busy" if running else "idle"),
            pid=worker.process.pid,
            task_id=running.task_id if running else None,
            tasks_done=worker.tasks_done,
            memory_bytes=worker.memory_bytes or worker.process.resident_bytes(),
            started_at=datetime.fromtimestamp(worker.born, UTC),
        )


def options(spec: PoolSpec) -> None:
    """Check a definition's options; raises `PoolsError` `invalid_payload`."""
    for name, value in spec.options.items():
        if name not in OPTIONS:
            known = ", ".join(OPTIONS)
            raise PoolsError("invalid_payload", f"A local pool has no option {name!r}.", f"It has: {known}.")
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise PoolsError("invalid_payload", f"Option {name} is {value!r}.", "Give a number, 0 or more.")
