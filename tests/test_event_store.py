"""What was sent, kept for a while: `mcp_pools.doors.event_store`."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import JSONRPCResponse

from mcp_pools.doors import event_store
from mcp_pools.doors.event_store import SentEvents, SessionEvents

pytestmark = pytest.mark.anyio


def message(number: int, text: str = "") -> JSONRPCResponse:
    """A call's result."""
    result = {"content": [{"type": "text", "text": text}]}
    return JSONRPCResponse(jsonrpc="2.0", id=number, result=result)


async def replayed(events: SessionEvents, last: str) -> tuple[str | None, list[Any]]:
    """The stream that goes on, and the ids of its messages behind `last`."""
    found: list[Any] = []

    async def take(event: Any) -> None:
        found.append(event.message.id)

    return await events.replay_events_after(last, take), found


async def test_a_stream_goes_on_behind_the_event_that_was_seen() -> None:
    """Its own messages, in order; where it began counts as none."""
    events = SessionEvents(SentEvents())
    began = await events.store_event("1", None)
    first = await events.store_event("1", message(1))
    await events.store_event("2", message(2))
    await events.store_event("1", message(3))
    assert await replayed(events, began) == ("1", [1, 3])
    assert await replayed(events, first) == ("1", [3])


async def test_sessions_do_not_see_each_others_events() -> None:
    """Although both number their requests from 1, and know each other's ids."""
    sent = SentEvents()
    ann, bob = SessionEvents(sent), SessionEvents(sent)
    seen = await ann.store_event("1", None)
    await ann.store_event("1", message(1, "secret"))
    assert await replayed(bob, seen) == (None, [])
    assert (await replayed(ann, seen))[1] == [1]


@pytest.mark.parametrize("last", ["", "x", "-1", "99999999999999999999"])
async def test_an_id_that_is_not_kept_begins_nothing(last: str) -> None:
    """Made up, or too old."""
    assert await replayed(SessionEvents(SentEvents()), last) == (None, [])


async def test_the_oldest_go_when_there_are_too_many_or_they_are_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One bound for all sessions, in number and in size."""
    sent = SentEvents()
    ann, bob = SessionEvents(sent), SessionEvents(sent)
    monkeypatch.setattr(event_store, "MOST_EVENTS", 10)
    first = await ann.store_event("1", message(1))
    for number in range(9):
        await bob.store_event("1", message(number))
    assert (await replayed(ann, first))[0] == "1"
    await bob.store_event("1", message(10))
    assert (await replayed(ann, first))[0] is None
    monkeypatch.setattr(event_store, "MOST_CHARACTERS", 5000)
    await ann.store_event("2", message(11, "x" * 10_000))
    assert len(sent.of(ann)) + len(sent.of(bob)) == 0
