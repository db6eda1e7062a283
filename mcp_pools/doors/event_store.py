"""What was sent over HTTP to clients of 2025-11-25, for a while: one whose stream broke gets the rest.

Such a client comes back with the id of the last event that it has seen. Each session has a
store of its own, for in the SDK a stream is named after its request, and two sessions may
number theirs alike. All sessions share one bound; the oldest events go first, and who asks for
one that is gone gets none: what matters is in the store of tasks anyway.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mcp.server.lowlevel import Server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

if TYPE_CHECKING:
    from mcp_types import JSONRPCMessage

MOST_EVENTS: Final = 4096
MOST_CHARACTERS: Final = 32 << 20
RETRY_MS: Final = 1000
"""How long clients are told to wait before they come back."""
_OF_AN_ENVELOPE: Final = 500


class _Kept(NamedTuple):
    session: SessionEvents
    stream: str
    number: int
    message: JSONRPCMessage | None
    size: int


class SentEvents:
    """The latest events of all sessions."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque()
        self._size = 0
        self._numbers = itertools.count(1)

    def add(self, session: SessionEvents, stream: str, message: JSONRPCMessage | None) -> int:
        """Keep one; its number."""
        kept = _Kept(session, stream, next(self._numbers), message, _size(message))
        self._kept.append(kept)
        self._size += kept.size
        while len(self._kept) > MOST_EVENTS or self._size > MOST_CHARACTERS:
            self._size -= self._kept.popleft().size
        return kept.number

    def of(self, session: SessionEvents) -> list[_Kept]:
        """Those of one session, oldest first."""
        return [each for each in self._kept if each.session is session]


class SessionEvents(EventStore):
    """The events of one session."""

    def __init__(self, sent: SentEvents) -> None:
        self._sent = sent

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep an event of a stream; its id. No message: the stream begins."""
        return str(self._sent.add(self, stream_id, message))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what followed an event in its stream; the stream, or `None` when the event is not kept."""
        kept = self._sent.of(self)
        seen = next((each for each in kept if str(each.number) == last_event_id), None)
        if seen is None:
            return None
        for each in kept:
            if each.stream == seen.stream and each.number > seen.number and each.message is not None:
                await send_callback(EventMessage(each.message, str(each.number)))
        return seen.stream


class ResumableSessions(StreamableHTTPSessionManager):
    """Sessions whose streams can be taken up again."""

    def __init__(self, server: Server[Any], **more: Any) -> None:
        self._sent = SentEvents()
        super().__init__(server, **more)
        self.retry_interval = RETRY_MS

    @property
    def event_store(self) -> EventStore:
        """A new one each time: the manager asks once for each session."""
        return SessionEvents(self._sent)

    @event_store.setter
    def event_store(self, given: EventStore | None) -> None:
        """Takes what the manager sets when it is made: nothing."""


def _size(message: Any) -> int:
    """About how many characters a message holds: its texts are what can be long, and come twice."""
    content = getattr(message, "result", None)
    if not isinstance(content, dict):
        return _OF_AN_ENVELOPE
    blocks = [*(content.get("content") or ()), *(content.get("contents") or ())]
    texts = (str(block.get("text", "")) for block in blocks if isinstance(block, dict))
    return _OF_AN_ENVELOPE + 2 * sum(map(len, texts))
