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
from typing import Final, Generic, TypeVar

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
    """

    def __init__(self, apply: Callable[[Sequence[Job]], Sequence[Outcome]]) -> None:
        self._apply = apply
        self._loop = asyncio.get_running_loop()
        self._pending: list[Handed[Job]] = []
        self._batches: queue.SimpleQueue[list[Handed[Job]] | None] = queue.SimpleQueue()
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
        else:
            self._in_flight += 1
            self._batches.put(batch)

    def _timed(self, batch: Sequence[Handed[Job]]) -> Sequence[Outcome]:
        started = time.perf_counter()
        outcomes = self._apply([job for job, _ in batch])
        took = time.perf_counter() - started
        self._usual_seconds = 0.9 * self._usual_seconds + 0.1 * min(took, 10 * QUICK_SECONDS)
        return outcomes

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            count = 1
            while len(batch) < _MOST and not self._batches.empty():
                more = self._batches.get()
                if more is None:
                    self._batches.put(None)  # the sign to end, for after this batch
                    break
                batch += more
                count += 1
            outcomes = self._timed(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._settled, batch, outcomes, count)

    def _settled(self, batch: Sequence[Handed[Job]], outcomes: Sequence[Outcome], count: int) -> None:
        self._in_flight -= count
        resolve(batch, outcomes)

    async def close(self) -> None:
        """Apply what was handed over, then end the thread."""
        self._flush()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)


def resolve(batch: Iterable[Handed[Job]], outcomes: Iterable[Outcome]) -> None:
    """Tell everybody who waits, on the event loop's thread."""
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
