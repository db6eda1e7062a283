"""What the configured memories find for a query, while our own store is searched.

They are asked all at once and get two seconds. One that does not answer is named, and then left
alone for a while. What they say is other people's text: it stands in data fields, shortened.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcp_pools.memory import Breaker
from mcp_pools.models import Recollection

if TYPE_CHECKING:
    from mcp_pools.memories import Destination
    from mcp_pools.settings import Settings

SECONDS: Final = 2.0
"""How long memories may take, connecting included."""
MOST: Final = 5
"""What one memory may find."""
LONGEST: Final = 1000
"""Characters of a text that it found."""
FRESH_SECONDS: Final = 5.0
"""How long an answer holds: a page that is too long for a client is made again."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds for which a memory that did not answer is not asked."""

_OURS: Final = re.compile(r"\b[td]_[0-9a-f]{32}\b")


def recalling(settings: Settings) -> Recall | None:
    """Asks the configured memories, if `memory_search` is on and there is one."""
    if not settings.memory_search:
        return None
    from mcp_pools.memories import configured

    return Recall(found) if (found := configured(settings)) else None


class Recall:
    """Asks some memories."""

    def __init__(self, memories: Sequence[Destination]) -> None:
        self._memories = [_Asked(each, Breaker(FIRST_PAUSE, LONGEST_PAUSE)) for each in memories]
        self._ending: set[asyncio.Task[list[Recollection]]] = set()
        self._last: tuple[str, float, list[Recollection]] = ("", 0.0, [])

    async def ask(self, query: str) -> list[Recollection]:
        """What each found, best first, or why it did not. Takes `SECONDS` at most and raises nothing."""
        asked, until, found = self._last
        if asked != query or time.monotonic() > until:
            found = [each for answer in await self._answers(query) for each in answer]
            self._last = (query, time.monotonic() + FRESH_SECONDS, found)
        return found

    async def _answers(self, query: str) -> list[list[Recollection]]:
        asking = [asyncio.create_task(each.ask(query)) for each in self._memories]
        try:
            await asyncio.wait(asking, timeout=SECONDS)
        finally:
            for each in asking:  # nobody waits for the goodbye to a peer that hangs
                self._ending.add(each)
                each.add_done_callback(self._ending.discard)
                each.cancel()
        return [
            each.result() if each.done() else memory.failed(f"it did not answer within {SECONDS:g} s")
            for each, memory in zip(asking, self._memories, strict=True)
        ]


@dataclass(slots=True)
class _Asked:
    """One memory, and how it did lately."""

    memory: Destination
    breaker: Breaker
    why: str = ""

    async def ask(self, query: str) -> list[Recollection]:
        """What it found."""
        name = self.memory.name
        if (seconds := self.breaker.open_for) > 0:
            return [Recollection(source=name, error=f"{self.why}; it is asked again in {seconds:.0f} s")]
        try:
            async with self.memory.reached() as line:
                found = await self.memory.memory.search(line, query, MOST)
        except Exception as failure:  # no answer, one that is none, a secret that cannot be read
            return self.failed(_why(failure))
        self.breaker.worked()
        return list(_recollections(name, found))

    def failed(self, why: str) -> list[Recollection]:
        """It found nothing, for this reason."""
        self.why = why
        self.breaker.failed()
        return [Recollection(source=self.memory.name, error=why)]


def _why(failure: Exception) -> str:
    from mcp_pools.line import Lost, Refused

    if isinstance(failure, Refused):
        return f"it refused to search: {failure.words[:200]}"
    return failure.why if isinstance(failure, Lost) else f"asking it raised {type(failure).__name__}"


def _recollections(source: str, texts: Sequence[str]) -> Iterator[Recollection]:
    """Texts as data, each task once: Session-Buddy may show one from several of its tiers."""
    seen: set[str] = set()
    for text in texts:
        task_id = found[0] if (found := _OURS.search(text)) else None
        if task_id not in seen:
            yield Recollection(source=source, text=text[:LONGEST], task_id=task_id)
        seen |= {task_id} if task_id else set()
