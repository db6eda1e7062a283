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
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mcp_pools import tracing
from mcp_pools.doors.event_store import ResumableSessions
from mcp_pools.doors.http_address import Address, authority, host_names, origins
from mcp_pools.doors.http_guard import ENVELOPE_BYTES, METADATA_PATH, Guard, Refused
from mcp_pools.doors.http_server import HttpServer
from mcp_pools.doors.metrics_door import PATH, MetricsEndpoint
from mcp_pools.doors.tokens import tokens
from mcp_pools.models import Caller
from mcp_pools.server import Session, new_server
from mcp_pools.subscriptions import LISTENING

if TYPE_CHECKING:
    import socket

    from starlette.types import Receive, Scope, Send

    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

_MOST_REQUESTS: Final = 448
"""Requests and streams of `/mcp` at once. Connections remain for who asks whether it lives."""
_LOOK_SECONDS: Final = 0.05
_NOBODY: Final = Caller(kind="mcp", cwd="/", everything=False)
_UNAVAILABLE: Final = -32000
_LATER: Final = {"Retry-After": "1", "Connection": "close"}  # a refused client holds no connection


class McpEndpoint:
    """`/mcp`: refuses until there is a router, then an SDK session manager serves it."""

    def __init__(self, address: Address, settings: Settings, guard: Guard) -> None:
        self._guard = guard
        self._router: Router | None = None
        self._requests = 0
        self.server = new_server(settings.home)
        self.server.lifespan = self._lifespan
        self.names = TransportSecurityMiddleware(
            TransportSecuritySettings(
                allowed_hosts=host_names(address, [*settings.http_allowed_hosts, *authority(guard.url)]),
                allowed_origins=origins(address, settings.http_allowed_origins),
            )
        )
        """Judges the `Host` and `Origin` of requests."""
        self._sessions = ResumableSessions(
            self.server,
            security_settings=self.names.settings,
            max_request_body_size=settings.max_payload_bytes + ENVELOPE_BYTES,
        )
        # Whose token it is, for what the SDK binds to its caller: a question's answer, for one.
        self._served = AuthContextMiddleware(self._sessions.handle_request)

    @asynccontextmanager
    async def admit(self, router: Router) -> AsyncIterator[None]:
        """Let clients in until the block ends."""
        self._router = router
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
        elif self._requests == _MOST_REQUESTS:
            why = f"{_MOST_REQUESTS} requests and streams are open. Close some, or try again in a moment."
            await _unavailable(why)(scope, receive, send)
        else:
            self._requests += 1
            try:
                await self._serve(scope, receive, send, self._router)
            finally:
                self._requests -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send, router: Router) -> None:
        try:
            receive = await self._guard.admit(scope, receive, router)
        except Refused as refused:
            await refused.response(scope, receive, send)
        else:
            with tracing.under(Headers(scope=scope).get(tracing.CONVEYED)):
                await self._served(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, server: Server[Session]) -> AsyncIterator[Session]:
        """Nobody's: each request has its own, see `Guard`."""
        assert self._router is not None
        yield Session(self._router.bound(_NOBODY), {})


class HttpDoor:
    """The HTTP server of one owner.

    Args:
        flags: what narrows every client of it, see `select_tools`.

    Raises:
        PoolsError: a flag names something that does not exist, or the tokens cannot be read.
    """

    def __init__(
        self, listening: socket.socket, address: Address, settings: Settings, flags: Mapping[str, Any]
    ) -> None:
        self._listening = listening
        self._drain_seconds = settings.http_drain_seconds
        self._tokens = tokens(settings, address)
        self._guard = Guard(address, settings, flags, self._tokens)
        self.mcp = McpEndpoint(address, settings, self._guard)
        self._metrics = MetricsEndpoint(counted=settings.metrics)
        self._server = HttpServer(self.application())

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/mcp", self.mcp),
                Route(PATH, self._metrics_if_known, methods=["GET"]),
                Route(METADATA_PATH, self._guard.metadata, methods=["GET"]),
                Route(f"{METADATA_PATH}/{{path:path}}", self._guard.metadata, methods=["GET"]),
                Route("/healthz", _alive, methods=["GET"]),
                Route("/readyz", self._ready, methods=["GET"]),
            ]
        )

    @asynccontextmanager
    async def beside(self, opening: AbstractAsyncContextManager[Router]) -> AsyncIterator[Router]:
        """Open a router and serve it; answer already while it opens and still while it leaves."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._listening]))
        try:
            async with opening as router, self.mcp.admit(router), self._metrics.of(router):
                try:
                    yield router
                finally:
                    await self._drain(router)
                    await self._stop(serving)
        finally:
            await self._stop(serving)
            if self._tokens is not None:
                await self._tokens.aclose()

    async def _stop(self, serving: asyncio.Task[None]) -> None:
        self._server.should_exit = True
        await serving

    async def _drain(self, router: Router) -> None:
        """Launch nothing more, and wait for what runs as long as the configuration says."""
        router.leave()
        LISTENING.close()
        until = time.monotonic() + self._drain_seconds
        while any(pool.running for pool in router.registry.pools.values()) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)

    async def _metrics_if_known(self, request: Request) -> Response:
        """The metrics, for whoever means this server and may read."""
        if (stranger := await self.mcp.names.validate_request(request)) is not None:
            return stranger
        try:
            await self._guard.reader(request)
        except Refused as refused:
            return refused.response
        return await self._metrics.answer(request)

    async def _ready(self, request: Request) -> Response:
        why = self.mcp.unready()
        return PlainTextResponse(f"{why or 'Ready.'}\n", 503 if why else 200)


async def _alive(request: Request) -> Response:
    return PlainTextResponse("Alive.\n")


def _unavailable(why: str) -> Response:
    error = {"code": _UNAVAILABLE, "message": why}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 503, headers=_LATER)
