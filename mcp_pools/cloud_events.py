"""The event log, sent to a URL as CloudEvents 1.0 in batches (`application/cloudevents-batch+json`).

    specversion  1.0
    source       urn:mcp-pools:HOME, HOME being the identity of the home's store
    id           the event's place in the event log
    type         mcp-pools.KIND, such as mcp-pools.task.completed
    subject      tasks/ID, distributions/ID or pools/NAME
    time         RFC 3339, UTC
    data         {"pool", "task_id", ...}: what the event log says, without secrets

1. At least once, in order. Source and id name an event for good, so a receiver can tell the
   one that comes again, and sees by the ids when one is missing.
2. How far the receiver is lies in a file of the home: what it has not taken the next owner sends.
   A receiver that is new begins with what happens from now on.
3. The event log is the buffer: memory holds one batch. What its retention takes before the
   receiver does is lost, and a line in the log says how much.
4. Nothing waits for the receiver but the end of the owner, and that not long.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from logging import WARNING
from pathlib import Path
from typing import Any, Final

import httpx

from mcp_pools import __version__
from mcp_pools.events import say
from mcp_pools.redaction import redacted
from mcp_pools.store import EventRow, Store

Events = Sequence[tuple[int, EventRow]]

MEDIA_TYPE: Final = "application/cloudevents-batch+json"
MOST: Final = 100
"""Events in a batch."""
LINGER_SECONDS: Final = 0.2
"""How long the first event of a batch waits for others."""
ANSWER_SECONDS: Final = 10.0
"""How long the receiver may take."""
FAREWELL_SECONDS: Final = 2.0
"""How long an owner that leaves stays for the events that are left."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds after a refusal, doubled with each, and at most. Somewhat more or less, so that owners spread."""


@asynccontextmanager
async def sending(url: str, store: Store, home: Path) -> AsyncIterator[None]:
    """Send the events of an open store for as long as the block lasts, and then the rest of them."""
    position = Position(home / "events-sent.json", await store.identity(), url)
    if position.cursor is None:
        newest = await store.latest_events(1)
        position.move(newest[-1][0] if newest else 0)
    headers = {"user-agent": f"mcp-pools/{__version__}", "content-type": f"{MEDIA_TYPE}; charset=utf-8"}
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, headers=headers) as client:
        sender = Sender(url, store, position, client)
        work = asyncio.create_task(sender.run())
        try:
            yield
        finally:
            await sender.end(work)


class Position:
    """How far a receiver is, in a file: {"store", "receiver", "cursor"}; of another one it says nothing."""

    def __init__(self, file: Path, store: str, url: str) -> None:
        self._file = file
        # The URL may hold a password, and the file only has to know whether it is still the same.
        self._of = {"store": store, "receiver": hashlib.sha256(url.encode()).hexdigest()[:16]}
        self.store = store
        self.cursor = self._read()

    def _read(self) -> int | None:
        try:
            kept = json.loads(self._file.read_bytes())
            return int(kept["cursor"]) if self._of.items() <= kept.items() else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def move(self, cursor: int) -> None:
        """The receiver has all up to here. Should this get lost, it gets some of them again."""
        self.cursor = cursor
        written = self._file.with_suffix(".new")
        try:
            written.write_text(json.dumps({**self._of, "cursor": cursor}))
            os.replace(written, self._file)
        except OSError as failure:
            say("events.position_lost", WARNING, message=f"{self._file}: {failure.strerror}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch. `pause`: seconds that the receiver asked for."""

    taken: bool
    why: str = ""
    status: int = 0
    pause: float = 0.0


class Sender:
    """Follows the event log of one store and tells one receiver."""

    def __init__(self, url: str, store: Store, position: Position, client: httpx.AsyncClient) -> None:
        self._url = url
        self._store = store
        self._position = position
        self._client = client
        self._most = MOST
        self._refusals = 0
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Send what there is and wait for more, until the owner leaves or the receiver has gone for good."""
        while True:
            committed = self._store.next_commit()  # before looking: what comes in between is not missed
            events = await self._store.events(self._position.cursor or 0, self._most)
            if events:
                answer = await self._send(events)
                if not answer.taken and not await self._may_go_on(answer):
                    return
            elif self._leaving.is_set():
                return
            else:
                await self._either(committed)
                await self._pause(LINGER_SECONDS)

    async def end(self, work: asyncio.Task[None]) -> None:
        """The owner leaves: one more try for what is left."""
        self._leaving.set()
        _, unfinished = await asyncio.wait({work}, timeout=FAREWELL_SECONDS)
        work.cancel()
        (failure,) = await asyncio.gather(work, return_exceptions=True)
        if isinstance(failure, Exception):
            say("events.off", WARNING, message=f"{type(failure).__name__}: {failure}")
        if unfinished:
            say("events.left", message="The next owner sends what the receiver has not taken yet.")

    async def _send(self, events: Events) -> Answer:
        """Send a batch and note that it was taken."""
        self._note_gap(events[0][0])
        answer = await self._post(events)
        if answer.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE and len(events) == 1:
            say("events.dropped", WARNING, message="The receiver takes no event of this size.", dropped=1)
            answer = Answer(True)
        if answer.taken:
            if self._refusals:
                say("events.delivered", message="The receiver takes events again.")
            self._refusals, self._most = 0, min(MOST, self._most * 2)
            await asyncio.to_thread(self._position.move, events[-1][0])
        return answer

    def _note_gap(self, first: int) -> None:
        behind = (self._position.cursor or 0) + 1
        if first > behind:
            message = "The event log did not keep them until the receiver took them."
            say("events.dropped", WARNING, message=message, dropped=first - behind)

    async def _post(self, events: Events) -> Answer:
        body = json.dumps([cloud_event(*each, self._position.store) for each in events], ensure_ascii=False)
        try:
            async with self._client.stream("POST", self._url, content=body.encode()) as response:
                status, asked = response.status_code, response.headers.get("retry-after", "")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as failure:
            return Answer(False, type(failure).__name__)
        pause = float(asked) if asked.isdecimal() else 0.0
        return Answer(200 <= status < 300, f"HTTP {status}", status, min(pause, LONGEST_PAUSE))

    async def _may_go_on(self, answer: Answer) -> bool:
        """Wait before the same events are sent again; `False`: the owner leaves meanwhile."""
        if answer.status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            self._most = max(1, self._most // 4)
            return True
        if answer.status == httpx.codes.GONE:
            say("events.off", WARNING, message="The receiver has gone for good: HTTP 410.")
            return False
        if not self._refusals:
            say("events.undelivered", WARNING, message=f"The receiver did not take them: {answer.why}.")
        pause = min(FIRST_PAUSE * 2.0**self._refusals, LONGEST_PAUSE)
        self._refusals = min(self._refusals + 1, 16)
        if self._leaving.is_set():
            return False
        await self._pause(max(answer.pause, pause * random.uniform(0.75, 1.25)))  # noqa: S311 - spreads load
        return True

    async def _pause(self, seconds: float) -> None:
        """Wait; not when the owner leaves."""
        try:
            await asyncio.wait_for(self._leaving.wait(), seconds)
        except TimeoutError:
            return

    async def _either(self, committed: asyncio.Future[None]) -> None:
        """Wait for a commit, or that the owner leaves."""
        leaving = asyncio.create_task(self._leaving.wait())
        either: set[asyncio.Future[Any]] = {committed, leaving}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()


def cloud_event(cursor: int, event: EventRow, store: str) -> dict[str, Any]:
    """An event of the event log as a CloudEvent."""
    data = {"pool": event.pool, "task_id": event.task_id, **event.data}
    return {
        "specversion": "1.0",
        "id": str(cursor),
        "source": f"urn:mcp-pools:{store}",
        "type": f"mcp-pools.{event.kind}",
        "subject": subject(event),
        "time": datetime.fromtimestamp(event.at, UTC).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": redacted({name: value for name, value in data.items() if value is not None}),
    }


def subject(event: EventRow) -> str:
    """What an event is about."""
    if event.task_id is not None:
        return f"tasks/{event.task_id}"
    if "distribution_id" in event.data:
        return f"distributions/{event.data['distribution_id']}"
    return f"pools/{event.pool}"
