"""An MCP client for whoever delegates work to another server, or asks what one offers.

Importing this module costs the SDK, half a second: import it where it is needed, and off
the event loop. Peers are not trusted: time and size of their answers are bounded, and what
they say stands in no message of ours.
"""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation

from mcp_pools import __version__, tracing
from mcp_pools.errors import PoolsError

MOST_BYTES: Final = 1 << 20
"""An answer that is longer is not read."""
SILENCE: Final = 5.0
"""Seconds that a connection, and without other word an answer, may take."""

_MOST_PAGES: Final = 50

# What a peer does wrong is told by our own errors; the SDK's traces would quote the peer.
logging.getLogger("mcp.client").setLevel(logging.CRITICAL)


async def tool_names(url: str, seconds: float) -> list[str]:
    """The names of the tools that the server at `url` offers; of many pages, those that came in time.

    Args:
        seconds: how long all of it may take.

    Raises:
        PoolsError: `insufficient_scope` when it asks for credentials, `pool_unreachable` when it
            does not answer as an MCP server.
        TimeoutError: it did not answer in time.
    """
    peer = Peer()
    names: list[str] | None = None
    try:
        # A scope of anyio's, for it ends the goodbye too: a peer may hang there as well.
        with anyio.move_on_after(seconds):
            async with connected(url, peer) as client:
                names, cursor = [], None
                for _ in range(_MOST_PAGES):
                    page = await client.list_tools(cursor=cursor)
                    names += [tool.name for tool in page.tools]
                    if (cursor := page.next_cursor) is None:
                        break
    except Exception as failure:  # the SDK's, its libraries', groups of both
        if names is None:
            raise peer.error() from failure
    if names is None:
        raise TimeoutError
    return names


@asynccontextmanager
async def connected(
    url: str, peer: Peer | None = None, *, silence: float | None = SILENCE
) -> AsyncIterator[Client]:
    """A client of the server at `url`, in the newest protocol era that both speak.

    It connects directly: no proxy, no redirect to another origin, and no credentials but `peer`'s.

    Args:
        silence: seconds without a byte after which an answer counts as lost; `None`: whoever calls says.
    """
    headers = {"accept-encoding": "identity", "user-agent": f"mcp-pools/{__version__}"}
    peer = peer or Peer()
    patience = httpx2.Timeout(SILENCE, read=silence)
    async with (
        httpx2.AsyncClient(transport=peer, headers=headers, trust_env=False, timeout=patience) as http,
        speaking(streamable_http_client(url, http_client=http, max_sse_event_size=peer.most_bytes)) as client,
    ):
        yield client


def speaking(transport: Any) -> Client:
    """The SDK's client over a transport of its kind, in the newest protocol era that both speak."""
    us = Implementation(name="mcp-pools", version=__version__)
    return Client(transport, client_info=us, cache=None)


def continuing(traceparent: str | None) -> AbstractContextManager[None]:
    """Calls made in the block go on with a launch's trace (`Launch.traceparent`): the SDK's client conveys
    it in their `_meta`.
    """
    return tracing.under(traceparent)


class Peer(httpx2.AsyncHTTPTransport):
    """The way to one server: reads no more than `most_bytes` of an answer, and remembers what went wrong."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        # As many connections as there are calls: whoever calls says how many that may be.
        super().__init__(verify=_tls(), trust_env=False, limits=httpx2.Limits(max_keepalive_connections=20))
        self.most_bytes = most_bytes
        self._status = 0
        self._trouble = ""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. The body is taken as it comes: nothing that is packed is inflated."""
        try:
            response = await super().handle_async_request(request)
        except httpx2.TransportError as failure:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(failure)
            self._trouble = "its certificate is not trusted" if untrusted else "it takes no connection"
            raise
        self._status = response.status_code
        response.headers.pop("content-encoding", None)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, self.most_bytes)
        return response

    def error(self) -> PoolsError:
        """Why nothing came of it."""
        if self._status in (401, 403):
            message = f"it asks for credentials (HTTP {self._status})"
            return PoolsError("insufficient_scope", message)
        said = f" (HTTP {self._status})" if self._status >= 300 else ""
        return PoolsError("pool_unreachable", self._trouble or f"it does not answer as an MCP server{said}")


class _Bounded(httpx2.AsyncByteStream):
    """A response's body, up to a number of bytes."""

    def __init__(self, stream: httpx2.AsyncByteStream, most: int) -> None:
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > self._most:
                raise httpx2.StreamError(f"more than {self._most} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes longer than a whole conversation."""
    return httpx2.create_ssl_context()
