"""Finished tasks, synced to memories: at least once, from where each memory is in the event log.

1. Every `memory_sync_interval`, what ended since is read from the event log and the store, and handed
   over in the order of the ends. A distribution is one memo, its parts are none.
2. How far a memory is lies in a file of the home, moved on after each answer: what it did not
   acknowledge it gets again, from the next owner if need be. Then it may have that one twice; the id
   stands in its text and tags. A memory that is new begins with what ends from now on.
3. A memory that is away, or takes nothing at all, keeps its place and is tried again with growing
   pauses. One that refuses some of what it gets and takes what ended later shows that it
   is not to blame: it is asked once more, and then passes that one over.
4. Each memory has a follower of its own. Nothing waits for one but the end of the owner, and that
   not long, and not at all while it is known to be away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcp_pools import memo
from mcp_pools.events import say
from mcp_pools.following import Follower, Position
from mcp_pools.memories import Destination
from mcp_pools.memory import Breaker, Memo
from mcp_pools.states import TERMINAL
from mcp_pools.store import EventRow, Store

if TYPE_CHECKING:
    from mcp_pools.line import Line

MOST: Final = 50
"""Memos that are read at a time; twice as many after each failure, for some may be all refused."""
MOST_REFUSED: Final = 1024
"""And at most."""
PAGE: Final = 500
"""Events that are read at a time."""
LONGEST_PAUSE: Final = 600.0
"""Seconds between two tries, unless the interval is longer."""
SILENCES: Final = 3
"""Calls in a row that may stay unanswered before it counts as away; one more after each failure."""
LIST_SECONDS: Final = 5.0

ENDS: Final = frozenset(f"{what}.{status}" for what in ("task", "distribution") for status in TERMINAL)
"""The events after which there is something to remember."""


@asynccontextmanager
async def remembering(
    memories: Sequence[Destination], store: Store, home: Path, interval: float
) -> AsyncIterator[None]:
    """Sync what ends to each memory for as long as the block lasts, and then the rest."""
    identity = await store.identity()
    followers = [Rememberer(each, store, position(home, identity, each), interval) for each in memories]
    for each in followers:
        await each.position.begin(store)
    work = [asyncio.create_task(each.run()) for each in followers]
    try:
        yield
    finally:
        ends = [follower.end(task) for follower, task in zip(followers, work, strict=True)]
        await asyncio.gather(*ends)


def position(home: Path, store: str, memory: Destination) -> Position:
    """How far a memory is; `store` is the identity of the home's store."""
    return Position(home / f"memory-{memory.name}.json", store, memory.url, "memory")


async def trouble(memory: Destination) -> str | None:
    """Why a memory cannot be told anything now; `None`: it can."""
    try:
        async with memory.reached() as line:
            await _look(memory, line)
    except Exception as failure:  # no answer, none that can be read, a secret that cannot be read
        return str(failure) or type(failure).__name__
    return None


async def _look(memory: Destination, line: Line) -> None:
    """Raises `Away` for a server that is no such memory, and what calls raise."""
    if missing := memory.memory.tools - await line.tools(LIST_SECONDS):
        raise Away(f"it does not offer {', '.join(sorted(missing))}")


class Away(Exception):
    """A memory takes nothing now. `said`: why, perhaps in its own words."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class Rememberer(Follower):
    """Follows the ends of one store's tasks and tells one memory."""

    def __init__(self, memory: Destination, store: Store, position: Position, interval: float) -> None:
        super().__init__("memory")
        self.position = position
        self._memory = memory
        self._store = store
        self._interval = interval
        self._breaker = Breaker(interval, max(interval, LONGEST_PAUSE))
        self._known = False
        """Whether the server was seen to offer what it must."""

    async def run(self) -> None:
        """Sync now and then, until the owner leaves, and once more then."""
        while not self.leaving.is_set():
            await self.pause(max(self._interval, self._breaker.open_for))
            if not (self.leaving.is_set() and self._breaker.failures):
                await self._round()

    async def end(self, work: asyncio.Task[None]) -> None:
        """See `Follower.end`; what is known to be away gets no more tries."""
        if self._breaker.failures:
            work.cancel()
        await super().end(work)

    async def _round(self) -> None:
        """Hand over all there is, unless the memory does not work."""
        ends, place = await self._ends(1)
        if not ends:
            await self._moved(place)
        elif (failure := await self._visited()) is not None:
            self._failed(failure)

    async def _moved(self, place: int) -> None:
        if place != self.position.cursor:
            await asyncio.to_thread(self.position.move, place)

    # What there is to tell.

    async def _ends(self, most: int) -> tuple[list[tuple[int, EventRow]], int]:
        """At most so many ends behind the place where the memory is, and the place behind them."""
        place = self.position.cursor or 0
        ends: list[tuple[int, EventRow]] = []
        while events := await self._store.events(place, PAGE):
            if place == self.position.cursor:
                self.position.note_gap(events[0][0])
            for place, event in events:
                ends += [(place, event)] if event.kind in ENDS else []
                if len(ends) == most:
                    return ends, place
        return ends, place

    async def _memo(self, place: int, event: EventRow) -> Memo | None:
        """What is written of one end; `None`: the store forgot it."""
        if event.task_id is not None:
            task = await self._store.task(event.task_id)
            return None if task is None else await asyncio.to_thread(memo.of_task, place, task)
        whole = await self._store.distribution(event.data["distribution_id"])
        return None if whole is None else await asyncio.to_thread(memo.of_distribution, place, whole, event)

    # Telling it.

    async def _visited(self) -> Exception | None:
        """Hand over all there is; what hindered that, if anything did."""
        try:
            async with self._memory.reached() as line:
                if not self._known:
                    await _look(self._memory, line)
                    self._known = True
                await self._tell(line)
        except Exception as failure:  # no answer, none that can be read, a secret that cannot be read
            return failure
        return None

    async def _tell(self, line: Line) -> None:
        """Hand over batch after batch. Raises what a `Memory` raises, and `Away`."""
        ends, place = await self._ends(self._most)
        while ends:
            found = [await self._memo(*each) for each in ends]
            await self._hand_over(line, [each for each in found if each is not None])
            await self._moved(place)
            self._worked()
            ends, place = await self._ends(self._most)

    @property
    def _most(self) -> int:
        return min(MOST << self._breaker.failures, MOST_REFUSED)

    async def _hand_over(self, line: Line, memos: Sequence[Memo]) -> None:
        size = 1 if self._breaker.failures else self._memory.memory.at_once
        held: dict[str, Memo] = {}
        silent, why = 0, ""
        for start in range(0, len(memos), size):
            group = memos[start : start + size]
            refused, answered = await self._kept(line, group)
            held |= {each.id: each for each in group if each.id in refused}
            if len(refused) < len(group):
                await self._again(line, list(held.values()))
                await self._moved(group[-1].place)
                held, silent = {}, 0
                continue
            silent, why = (0 if answered else silent + 1), next(iter(refused.values()))
            if silent >= SILENCES + self._breaker.failures:
                break
        if held:
            raise Away(why)

    async def _kept(self, line: Line, group: Sequence[Memo]) -> tuple[dict[str, str], bool]:
        """Of each memo that was not taken, why, by its id; and whether there was an answer."""
        from mcp_pools.line import Lost, Refused

        try:
            return await self._memory.memory.keep(line, group), True
        except Refused as refusal:
            return dict.fromkeys((each.id for each in group), refusal.words), True
        except Lost as lost:
            if not lost.sent:
                raise
            return dict.fromkeys((each.id for each in group), lost.why), False

    async def _again(self, line: Line, held: Sequence[Memo]) -> None:
        """It has just taken another: what it refuses now, too, is passed over."""
        for each in held:
            refused, _ = await self._kept(line, [each])
            for said in refused.values():
                message = "The memory takes others, but not this one."
                say(
                    "memory.refused",
                    WARNING,
                    memory=self._memory.name,
                    message=message,
                    task_id=each.id,
                    said=said[:200],
                )

    def _failed(self, failure: Exception) -> None:
        if not self._breaker.failures:
            said = failure.said if isinstance(failure, Away) else str(failure) or type(failure).__name__
            message = "The memory does not take what ended; it is kept for it."
            say("memory.undelivered", WARNING, memory=self._memory.name, message=message, said=said[:200])
        self._breaker.failed()

    def _worked(self) -> None:
        if self._breaker.failures:
            say("memory.delivered", memory=self._memory.name, message="The memory takes what ends again.")
        self._breaker.worked()
