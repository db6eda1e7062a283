"""MCP over HTTP, beside the owner's socket: `/mcp`, `/healthz` and `/readyz`.

1. It answers as long as the process lives. While the router opens, `/mcp` says so with
   status 503; `/readyz` does so while it opens and while it leaves.
2. Both protocol eras are served at `/mcp`. A client of 2025-11-25 cancels a call with a
   message, and one that goes away leaves its call running. In 2026-07-28 closing the
   response is the cancellation; to the server both look alike, and the call is cancelled.
3. There is no caller's directory over HTTP: calls run from `/`, which gives no default
   roots and no defaults of a working directory.
4. On leaving, what runs may end for a while, and whoever asks is answered. What only waits
   stays in the store for the next owner, and so does what is still accepted meanwhile; at
   the end who waits for it is cut off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mcp_pools import tracing
from mcp_pools.doors.http_address import Address, host_names, origins
from mcp_pools.models import Caller
from mcp_pools.selection import select_tools
from mcp_pools.server import Session, new_server

if TYPE_CHECKING:
    import socket

    from starlette.types import Receive, Scope, Send

    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

ENVELOPE_BYTES: Final = 1 << 20
"""What a request may hold beside its payload."""
_FAREWELL_SECONDS: Final = 2
"""For answers that are due, once nothing runs any more; a stream that never ends is cut after it."""
_MOST_CONNECTIONS: Final = 512
"""More are answered with 503: each costs a descriptor, and the store and the workers need some."""
_LOOK_SECONDS: Final = 0.05
_UNAVAILABLE: Final = -32000


class McpEndpoint:
    """`/mcp`: refuses until there is a router, then an SDK session manager serves it.

    Args:
        flags: what narrows every client of it, see `select_tools`.

    Raises:
        PoolsError: a flag names something that does not exist.
    """

    def __init__(self, address: Address, settings: Settings, flags: Mapping[str, Any]) -> None:
        self._settings = settings
        self._tools = select_tools(flags)
        self._router: Router | None = None
        self._server = new_server(settings.home)
        self._server.lifespan = self._lifespan
        self._sessions = StreamableHTTPSessionManager(
            self._server,
            security_settings=TransportSecuritySettings(
                allowed_hosts=host_names(address, settings.http_allowed_hosts),
                allowed_origins=origins(address, settings.http_allowed_origins),
            ),
            max_request_body_size=settings.max_payload_bytes + ENVELOPE_BYTES,
        )

    @asynccontextmanager
    async def admit(self, router: Router) -> AsyncIterator[None]:
        """Let clients in until the block ends."""
        seconds = self._settings.mcp_wait_seconds
        self._router = router.bound(Caller(kind="mcp", cwd="/", patience=seconds))
        async with self._sessions.run():
            yield

    def unready(self) -> str | None:
        """Why no work is accepted just now, if none is."""
        if self._router is None:
            return "The router is opening."
        return "The router is leaving." if self._router.dispatcher.leaving else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._router is None:
            await _unavailable("The router is opening. Try again in a moment.")(scope, receive, send)
        else:
            with tracing.under(Headers(scope=scope).get(tracing.CONVEYED)):
                await self._sessions.handle_request(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, server: Server[Session]) -> AsyncIterator[Session]:
        assert self._router is not None
        yield Session(self._router, self._tools)


class HttpDoor:
    """The HTTP server of one owner."""

    def __init__(
        self, listening: socket.socket, address: Address, settings: Settings, flags: Mapping[str, Any]
    ) -> None:
        self._listening = listening
        self._drain_seconds = settings.http_drain_seconds
        self._mcp = McpEndpoint(address, settings, flags)
        self._server = _Server(
            uvicorn.Config(
                self.application(),
                lifespan="off",  # the session manager lives as long as the router, not as the server
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_FAREWELL_SECONDS,
            )
        )

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/mcp", self._mcp),
                Route("/healthz", _alive, methods=["GET"]),
                Route("/readyz", self._ready, methods=["GET"]),
            ]
        )

    @asynccontextmanager
    async def beside(self, opening: AbstractAsyncContextManager[Router]) -> AsyncIterator[Router]:
        """Open a router and serve it; answer already while it opens and still while it leaves."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._listening]))
        try:
            async with opening as router, self._mcp.admit(router):
                try:
                    yield router
                finally:
                    await self._drain(router)
                    await self._stop(serving)
        finally:
            await self._stop(serving)

    async def _stop(self, serving: asyncio.Task[None]) -> None:
        self._server.should_exit = True
        await serving

    async def _drain(self, router: Router) -> None:
        """Launch nothing more, and wait for what runs as long as the configuration says."""
        router.leave()
        until = time.monotonic() + self._drain_seconds
        while any(pool.running for pool in router.registry.pools.values()) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ready(self, request: Request) -> Response:
        why = self._mcp.unready()
        return PlainTextResponse(f"{why or 'Ready.'}\n", 503 if why else 200)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the owner's: it decides when to leave, and in which order."""
        yield


async def _alive(request: Request) -> Response:
    return PlainTextResponse("Alive.\n")


def _unavailable(why: str) -> Response:
    error = {"code": _UNAVAILABLE, "message": why}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 503, headers={"Retry-After": "1"})
