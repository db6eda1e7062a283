"""What all pools on an engine have in common on the owner's side: a link, places, launches under way.

The engine's library is in the link (`mcp_pools.link`). When a link ends, another one takes up what
the first had under way, as it does after the death of an owner.

The pool's directory keeps a file for each launch that the engine was asked for: without one it
never ran. `link.log` has what the engine's library printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from mcp_pools.adapter import Changed, Ended, Launch, Returned, Sink, Slot, Started, Surroundings, Waits
from mcp_pools.carrier import heard
from mcp_pools.engine import receive, send
from mcp_pools.engine_worker import brief
from mcp_pools.errors import PoolsError
from mcp_pools.models import Health, PoolSpec, Worker
from mcp_pools.places import lowest_free, place_of

_OPEN_SECONDS: Final = 60.0
"""How long a link may take to reach its engine, or to start one."""
_LEAVE_SECONDS: Final = 20.0
_LONGEST_PAUSE: Final = 5.0
_MARKS_KEPT: Final = 1000
_LOG: Final = "link.log"


@dataclass(slots=True, eq=False)
class _Errand:
    """A launch on the engine, in its place here."""

    launch: Launch
    number: int
    born: float = field(default_factory=time.time)
    started: bool = False
    cancelled: bool = False


class EnginePool:
    """A pool on an engine (`mcp_pools.adapter.Adapter`), but for which engine it is."""

    engine: ClassVar[str]
    """The module of `mcp_pools.engines`."""
    options: ClassVar[frozenset[str]] = frozenset()
    patience: float = 10.0
    """How long a launch may wait for the engine before that is said, in seconds."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        for option in spec.options:
            if option not in self.options:
                known = f"It has: {', '.join(sorted(self.options))}." if self.options else "It has none."
                raise PoolsError(
                    "invalid_payload", f"A pool of type {self.engine} has no option {option!r}.", known
                )
        self.spec = spec
        self._surroundings = surroundings
        self._errands: dict[str, _Errand] = {}
        self._reserved: set[int] = set()
        self._seq = itertools.count(time.time_ns() // 1000)
        self._marks: deque[Path] = deque()
        self._capacity = 0
        self._told_size = 0
        self._trouble: str | None = "its link is not there yet"
        self._writer: asyncio.StreamWriter | None = None
        self._leaving = False

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. Raises `PoolsError`: `pool_unreachable` when the engine is not there,
        `invalid_payload` when it can never be this pool.
        """
        self._sink = sink
        self._directory = self._surroundings.directory
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for launch in orphans:
            self._take_up(launch)
        reader, process = await self._linked()
        # What an earlier owner collected is on disk by now; what this one collects may not be at its death.
        for mark in self._directory.iterdir():
            if mark.name != _LOG and mark.name not in self._errands:
                mark.unlink()
        self._adopt_all()
        listening = asyncio.create_task(self._listen(reader, process))
        try:
            yield
        finally:
            await self._leave(listening)

    def _take_up(self, launch: Launch) -> None:
        if self._mark(launch.attempt_id).exists():
            self._errands[launch.attempt_id] = _Errand(launch, place_of(launch.worker, self._taken()))
        else:
            self._sink(Returned(launch.attempt_id))

    def _mark(self, attempt_id: str) -> Path:
        return self._directory / attempt_id

    # The link.

    async def _linked(self) -> tuple[asyncio.StreamReader, asyncio.subprocess.Process]:
        """Start a link and wait until it has its engine."""
        process, reader = await self._start()
        self._told_size = self.spec.max_workers
        self._tell(
            "open",
            {"endpoint": self.spec.endpoint, "workers": self._told_size, "options": self.spec.options},
        )
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                header, _ = await receive(reader)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            header = ["trouble", f"it did not answer; {self._directory / _LOG} has what its library said"]
        if header[0] == "ready":
            self._capacity, self._trouble = header[1], None
            return reader, process
        await self._gone(process)
        where = self.spec.endpoint or "a cluster of its own"
        if header[0] == "unusable":
            raise PoolsError("invalid_payload", header[1], header[2])
        raise PoolsError(
            "pool_unreachable", f"Pool {self.spec.name} cannot use {where}: {header[1]}", retryable=True
        )

    async def _start(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        ours, theirs = socket.socketpair()
        with theirs, (self._directory / _LOG).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "mcp_pools.link", self.engine, str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        return process, reader

    async def _gone(self, process: asyncio.subprocess.Process) -> None:
        """Let go of a link; it ends when it sees that."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _tell(self, *header: Any, body: bytes = b"") -> None:
        if self._writer is not None:
            send(self._writer, list(header), body)

    async def _listen(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        """Hear the link, and the one after it, until the pool leaves."""
        while True:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    self._heard(*await receive(reader))
            self._became("its link to the engine ended")
            await self._gone(process)
            if self._leaving:
                return
            reader, process = await self._linked_again()
            self._became(None)
            self._adopt_all()

    async def _linked_again(self) -> tuple[asyncio.StreamReader, asyncio.subprocess.Process]:
        pause = 0.2
        while True:
            try:
                return await self._linked()
            except PoolsError as error:
                self._became(str(error))
            except OSError as error:
                self._became(f"its link cannot be started: {error}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _adopt_all(self) -> None:
        for attempt_id, errand in self._errands.items():
            self._tell("adopt", attempt_id, errand.launch.timeout)
            if errand.cancelled:
                self._tell("stop", attempt_id)

    async def _leave(self, listening: asyncio.Task[None]) -> None:
        """Let the link go. A cluster of our own ends with it, and all that ran there."""
        self._leaving = True
        self._tell("leave")
        await asyncio.wait([listening], timeout=_LEAVE_SECONDS)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        if self.spec.endpoint is None:
            message = "Its owner stopped while it ran; it may have run in part."
            for attempt_id in list(self._errands):
                self._end(Ended(attempt_id, "interrupted", message=message, retryable=True))

    # What the link says.

    def _heard(self, header: list[Any], body: bytes) -> None:
        match header:
            case ["said", attempt_id, kind] if errand := self._errands.get(attempt_id):
                if (event := heard(attempt_id, kind, body)) is not None:
                    errand.started |= isinstance(event, Started)
                    self._sink(event)
            case ["ended", attempt_id, None, *_]:
                self._end(Ended(attempt_id, None, body))
            case ["ended", attempt_id, code, message, retryable, details]:
                self._end(Ended(attempt_id, code, None, message, retryable, details))
            case ["returned", attempt_id]:
                self._end(Returned(attempt_id))
            case ["capacity", capacity]:
                self._capacity = capacity
                self._became(None)
            case ["trouble", words]:
                self._became(words)

    def _end(self, outcome: Ended | Returned) -> None:
        if self._errands.pop(outcome.attempt_id, None) is None:
            return
        self._sink(outcome)
        self._sink(Changed())
        self._marks.append(self._mark(outcome.attempt_id))
        if len(self._marks) > _MARKS_KEPT:  # its end has long been on disk
            self._marks.popleft().unlink(missing_ok=True)

    def _became(self, trouble: str | None) -> None:
        self._trouble = trouble
        self._sink(Changed())

    # Places for work.

    def _taken(self) -> set[int]:
        return {errand.number for errand in self._errands.values()} | self._reserved

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """See `Adapter.reserve`. A place is the right to have one launch more on the engine."""
        if self._trouble is not None:
            return ()
        if self._told_size != self.spec.max_workers:
            self._told_size = self.spec.max_workers
            self._tell("workers", self._told_size)
        taken = self._taken()
        own = self.spec.endpoint is None
        most = self.spec.max_workers if own else min(self.spec.max_workers, self._capacity)
        slots = []
        for _ in range(min(wanted, most - len(taken))):
            taken.add(number := lowest_free(taken))
            slots.append(self._slot(number))
        return slots

    def _slot(self, number: int) -> Slot:
        self._reserved.add(number)
        return Slot(f"{self.spec.name}-{number}", next(self._seq), partial(self._reserved.discard, number))

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        for launch in launches:
            if launch.attempt_id in self._errands:
                continue
            number = int(launch.worker.rpartition("-")[2])
            self._reserved.discard(number)
            self._errands[launch.attempt_id] = _Errand(launch, number)
            if self._writer is None:
                self._end(Returned(launch.attempt_id))
                continue
            self._mark(launch.attempt_id).touch()
            self._tell("launch", brief(launch, self._surroundings), body=launch.payload)
            asyncio.get_running_loop().call_later(self.patience, self._waits, launch.attempt_id)

    def _waits(self, attempt_id: str) -> None:
        """Say why a launch has not started yet, if it has not."""
        errand = self._errands.get(attempt_id)
        if errand is not None and not errand.started:
            message = f"The cluster has had no free worker for it for {self.patience:g} s."
            self._sink(Waits(attempt_id, "no_idle_worker", message))

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`. The link asks until it is told that nothing runs any more."""
        if (errand := self._errands.get(attempt_id)) is not None:
            errand.cancelled = True
            self._tell("stop", attempt_id)

    # How it stands.

    async def health(self) -> tuple[Health, str | None]:
        """See `Adapter.health`. The link looks once a second, and says when it is another."""
        if self._trouble is not None:
            return "unhealthy", self._trouble
        return ("healthy", None) if self._capacity else ("unhealthy", "the cluster has no workers")

    @property
    def workers(self) -> Sequence[Worker]:
        """What runs on the engine, each as a worker."""
        return [
            Worker(
                worker_id=f"{self.spec.name}-{errand.number}",
                status="busy" if errand.started else "starting",
                task_id=errand.launch.task_id,
                started_at=datetime.fromtimestamp(errand.born, UTC),
            )
            for errand in self._errands.values()
        ]
