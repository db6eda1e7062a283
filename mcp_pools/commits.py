"""Handing changes to the store until it says what became of them.

A store may fail, or fail to answer although the change landed. Handing the same change
over again is safe (`mcp_pools.store`), so that is all that is ever done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from mcp_pools import telemetry
from mcp_pools.errors import PoolsError
from mcp_pools.store import Change, Store, Update, Updates
from mcp_pools.telemetry import Meters

log = logging.getLogger(__name__)

Following = tuple[Update, Callable[[], None]]
"""A change, and what follows once it is on disk."""


class Commits:
    """The way to the store.

    `overruled` is told of a task whose update the store refused: somebody else ended it.
    """

    def __init__(
        self, store: Store, overruled: Callable[[str], Coroutine[Any, Any, None]], meters: Meters
    ) -> None:
        self._store = store
        self._meters = meters
        self._overruled = overruled
        self._background: set[asyncio.Task[None]] = set()
        self._turn: list[Following] = []

    def after(self, change: Update, then: Callable[[], None]) -> None:
        """Hand a task's change over and, once it is on disk, call `then` on the event loop.

        Changes of one turn of the event loop go together: a thousand cost the loop little more
        than one.
        """
        if not self._turn:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._turn.append((change, then))

    def _hand_over(self) -> None:
        turn, self._turn = self._turn, []
        changes = [change for change, _ in turn]
        together = Updates(changes) if len(changes) > 1 else changes[0]
        self._store.commit(together).add_done_callback(partial(self._answered, turn, time.perf_counter()))

    def _answered(self, turn: Sequence[Following], began: float, future: asyncio.Future[bool]) -> None:
        if future.cancelled():
            return
        self._meters.observe(telemetry.COMMIT_SECONDS, time.perf_counter() - began)
        if future.exception() is None and future.result():
            for _, then in turn:
                then()
        elif len(turn) == 1 and future.exception() is None:
            self._told(*turn[0], False)
        else:
            for change, then in turn:
                self.spawn(self._insist(change, then))

    async def _insist(self, change: Update, then: Callable[[], None]) -> None:
        self._told(change, then, await self.landed(change, patience=float("inf")))

    def _told(self, change: Update, then: Callable[[], None], kept: bool) -> None:
        if kept:
            then()
        else:
            self._meters.add(telemetry.FENCED)
            self.spawn(self._overruled(change.row.task_id))

    async def landed(self, change: Change, patience: float = 2.0) -> bool:
        """Hand a change over until it is answered; after `patience` seconds of errors, raise the last."""
        delay, deadline = 0.05, time.monotonic() + patience
        while True:
            began = time.perf_counter()
            try:
                return await self._store.commit(change)
            except (PoolsError, OSError) as error:
                if isinstance(error, PoolsError) and not error.retryable:
                    raise
                if time.monotonic() + delay > deadline:
                    raise
            finally:
                self._meters.observe(telemetry.COMMIT_SECONDS, time.perf_counter() - began)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

    def unwatched(self, change: Change) -> None:
        """Hand over what may also get lost: a hint, a cleaning."""
        self._store.commit(change).add_done_callback(lambda done: done.cancelled() or done.exception())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something beside the rest; it ends with the router."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, PoolsError):  # the store's: it is another owner's, say
            log.warning("%s", error)
        elif error is not None:
            log.error("What was done beside the rest failed.", exc_info=error)

    async def end(self) -> None:
        """End what was spawned."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
