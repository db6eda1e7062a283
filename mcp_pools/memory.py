"""The contract of a memory: a server that keeps what finished tasks were, and finds it again.

An implementation says which tools of the server to call, with which arguments, and what its
answers mean. When that happens, and what becomes of a refusal, is not its business.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from mcp_pools.line import Line

CALL_SECONDS: Final = 10.0
"""How long a memory may take to keep what one call gives it."""


@dataclass(frozen=True, slots=True)
class Memo:
    """What a memory is given of a task or distribution that ended.

    `place`: that of its end in the event log. `at`: when that was, in Unix seconds. `text` begins
    with `id`, within the 100 characters that Session-Buddy shows.
    """

    place: int
    id: str
    at: float
    text: str
    tags: tuple[str, ...]


class Memory(Protocol):
    """One kind of memory."""

    tools: frozenset[str]
    """What a server must offer to be one."""
    at_once: int
    """Memos that one call takes."""

    async def keep(self, line: Line, memos: Sequence[Memo]) -> dict[str, str]:
        """Hand over at most `at_once` memos.

        Returns:
            Of each that was not taken, by its id, what the server said.

        Raises:
            Lost: no answer; it may have them.
            Refused: it takes none of them.
        """

    async def search(self, line: Line, query: str, limit: int) -> list[str]:
        """What it finds for a query, best first, in its own words. Raises as `keep` does."""


class Breaker:
    """When to ask again who did not answer: each time later.

    Args:
        first, longest: seconds after a failure, doubled with each, and at most. Somewhat more or
            less, so that owners spread.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._until = 0.0
        self.failures = 0

    def failed(self) -> None:
        """It did not answer."""
        pause = min(self._first * 2.0**self.failures, self._longest)
        self._until = time.monotonic() + pause * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load
        self.failures = min(self.failures + 1, 16)

    def worked(self) -> None:
        """It answered."""
        self.failures, self._until = 0, 0.0

    @property
    def open_for(self) -> float:
        """Seconds that it is left alone; 0: it may be asked."""
        return max(0.0, self._until - time.monotonic())
