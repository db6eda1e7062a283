"""Group commit: changes handed over while a commit is under way share the next one.

One thread applies batches, each in one transaction with one sync, so that a slow disk
never holds the event loop up. Waking that thread and being woken by it costs more than a
quick disk's sync, though. So when at most two changes come alone, are not heavy, and the
disk has been quick of late, they are applied where they are, on the event loop's thread.
Then nothing is in flight, so the two never apply at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

QUICK_SECONDS: Final = 0.0005
"""A disk is quick while its commits usually take no longer; how long the event loop may be held up."""

_ALONE: Final = 2
_MOST: Final = 2000

Job = TypeVar("Job")
Outcome = bool | Exception
Handed = tuple[Job, "asyncio.Future[bool]"]


class GroupCommit(Generic[Job]):
    """Applies jobs in batches.

    Args:
        apply: applies a batch durably, in any thread but one at a time; an outcome for each job.
        applied: told on the event loop's thread after each batch.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Job]], Sequence[Outcome]],
        applied: Callable[[], None] = lambda: None,
    ) -> None:
        self._apply = apply
        self._applied = applied
        self._loop = asyncio.get_running_loop()
        self._pending: list[Handed[Job]] = []
        self._batches: queue.SimpleQueue[list[Handed[Job]] | _Aside | None] = queue.SimpleQueue()
        self._heavy = False
        self._in_flight = 0
        self._usual_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def add(self, job: Job, *, heavy: bool = False) -> asyncio.Future[bool]:
        """Hand a job over; the future resolves once it is durable.

        Args:
            heavy: it takes the disk longer than a job usually does, however quick that is.
        """
        future: asyncio.Future[bool] = self._loop.create_future()
        self._heavy |= heavy
        self._pending.append((job, future))
        if len(self._pending) == 1:
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        """All that came in one turn of the event loop goes together."""
        batch, self._pending = self._pending, []
        light, self._heavy = not self._heavy and len(batch) <= _ALONE, False
        if not batch:
            return
        if light and not self._in_flight and self._usual_seconds < QUICK_SECONDS:
            resolve(batch, self._timed(batch))
            self._applied()
        else:
            self._in_flight += 1
            self._batches.put(batch)

    def _timed(self, batch: Sequence[Handed[Job]]) -> Sequence[Outcome]:
        started = time.perf_counter()
        outcomes = self._apply([job for job, _ in batch])
        took = time.perf_counter() - started
        self._usual_seconds = 0.9 * self._usual_seconds + 0.1 * min(took, 10 * QUICK_SECONDS)
        return outcomes

    def aside(self, work: Callable[[], None]) -> asyncio.Future[bool]:
        """Do other work where batches are applied, between two of them; they wait meanwhile."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._in_flight += 1
        self._batches.put(_Aside(work, future))
        return future

    def _run(self) -> None:
        batch = self._batches.get()
        while batch is not None:
            following: list[Handed[Job]] | _Aside | None = []
            if isinstance(batch, _Aside):
                self._tell([(None, batch.future)], [batch.outcome()], 1)
            else:
                count = 1
                while len(batch) < _MOST and not self._batches.empty():
                    following = self._batches.get()
                    if not isinstance(following, list):
                        break  # it has its turn after this batch
                    batch += following
                    count += 1
                self._tell(batch, self._timed(batch), count)
            batch = self._batches.get() if isinstance(following, list) else following

    def _tell(self, batch: Sequence[Handed[Any]], outcomes: Sequence[Outcome], count: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settled, batch, outcomes, count)

    def _settled(self, batch: Sequence[Handed[Any]], outcomes: Sequence[Outcome], count: int) -> None:
        self._in_flight -= count
        resolve(batch, outcomes)
        self._applied()

    async def close(self) -> None:
        """Apply what was handed over, then end the thread."""
        self._flush()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)


class _Aside(NamedTuple):
    """Work of another kind, to be done between two batches."""

    work: Callable[[], None]
    future: asyncio.Future[bool]

    def outcome(self) -> Outcome:
        """Do it: `True`, or what it raised."""
        try:
            self.work()
        except Exception as error:
            return error
        return True


def resolve(batch: Iterable[Handed[Job]], outcomes: Iterable[Outcome]) -> None:
    """Tell everybody who waits, on the event loop's thread."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
