"""A store that fails now and then, as networks and disks do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from mcp_pools.store import Change, Store


class Unlucky:
    """A store some of whose commits fail, at a seeded random rate.

    Args:
        lands: whether the change of a commit that fails is on disk nevertheless: the
            caller then sees a timeout for what worked (execute and time out).
    """

    def __init__(self, store: Store, *, lands: bool, rate: float = 0.4, seed: int = 7) -> None:
        self._store = store
        self._lands = lands
        self._random = random.Random(seed)
        self.rate = rate
        self.only: Callable[[Change], bool] = lambda change: True
        """Which changes may fail."""
        self.failures = 0

    def commit(self, change: Change) -> asyncio.Future[bool]:
        """Hand a change over; or pretend to; or hand it over and say that it failed."""
        if not self.only(change) or self._random.random() >= self.rate:
            return self._store.commit(change)
        self.failures += 1
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._lands:
            self._store.commit(change).add_done_callback(lambda done: _landed(done, answer))
        else:
            _fail(answer)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _fail(answer: asyncio.Future[bool]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError("the store did not answer"))


def _landed(done: asyncio.Future[bool], answer: asyncio.Future[bool]) -> None:
    done.exception()  # whatever it was, the caller sees a timeout
    _fail(answer)
