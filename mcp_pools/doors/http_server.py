"""The HTTP server beneath the door: uvicorn, with bounds that one client cannot take from the others.

Connections cost descriptors, and the store and the workers need some. Beyond a number they
are refused one by one as they come; uvicorn's own limit looks only when a request arrives,
and refuses everybody while a thousand come at once. Who does not finish a request within a
while loses the connection, so that nobody holds one for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MOST_CONNECTIONS: Final = 512
REQUEST_SECONDS: Final = 60.0
"""For a request to arrive whole, body included."""
FAREWELL_SECONDS: Final = 2
"""For answers that are due, once nothing runs any more; a stream that never ends is cut after it."""
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class HttpServer(uvicorn.Server):
    """Serves an application until `should_exit`."""

    def __init__(self, application: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=BoundedConnection,
                lifespan="off",  # the session manager lives as long as the router, not as the server
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=FAREWELL_SECONDS,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the owner's: it decides when to leave, and in which order."""
        yield


class BoundedConnection(H11Protocol):
    """One connection; it is refused when there are too many, and ends when no whole request comes."""

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        full = len(self.connections) >= MOST_CONNECTIONS
        super().connection_made(transport)
        if full:
            transport.write(_FULL)
            transport.close()
        else:
            self._expect()

    def on_response_complete(self) -> None:
        """A request has been answered; the next one may come."""
        super().on_response_complete()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or was refused."""
        if self._impatience is not None:
            self._impatience.cancel()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
        self._impatience = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.more_body or self.cycle.response_complete:
            self.transport.abort()
