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
import json
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
from mcp_pools.following import Follower, Position
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
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds after a refusal, doubled with each, and at most. Somewhat more or less, so that owners spread."""


@asynccontextmanager
async def sending(url: str, store: Store, home: Path) -> AsyncIterator[None]:
    """Send the events of an open store for as long as the block lasts, and then the rest of them."""
    position = Position(home / "events-sent.json", await store.identity(), url, "events")
    await position.begin(store)
    headers = {"user-agent": f"mcp-pools/{__version__}", "content-type": f"{MEDIA_TYPE}; charset=utf-8"}
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS, headers=headers) as client:
        sender = Sender(url, store, position, client)
        work = asyncio.create_task(sender.run())
        try:
            yield
        finally:
            await sender.end(work)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch. `pause`: seconds that the receiver asked for."""

    taken: bool
    why: str = ""
    status: int = 0
    pause: float = 0.0


class Sender(Follower):
    """Follows the event log of one store and tells one receiver."""

    def __init__(self, url: str, store: Store, position: Position, client: httpx.AsyncClient) -> None:
        super().__init__("events")
        self._url = url
        self._store = store
        self._position = position
        self._client = client
        self._most = MOST
        self._refusals = 0

    async def run(self) -> None:
        """Send what there is and wait for more, until the owner leaves or the receiver has gone for good."""
        while True:
            committed = self._store.next_commit()  # before looking: what comes in between is not missed
            events = await self._store.events(self._position.cursor or 0, self._most)
            if events:
                answer = await self._send(events)
                if not answer.taken and not await self._may_go_on(answer):
                    return
            elif self.leaving.is_set():
                return
            else:
                await self._either(committed)
                await self.pause(LINGER_SECONDS)

    async def _send(self, events: Events) -> Answer:
        """Send a batch and note that it was taken."""
        self._position.note_gap(events[0][0])
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
        if self.leaving.is_set():
            return False
        await self.pause(max(answer.pause, pause * random.uniform(0.75, 1.25)))  # noqa: S311 - spreads load
        return True

    async def _either(self, committed: asyncio.Future[None]) -> None:
        """Wait for a commit, or that the owner leaves."""
        leaving = asyncio.create_task(self.leaving.wait())
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
