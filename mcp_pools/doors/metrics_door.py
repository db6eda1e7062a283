"""`/metrics`: what Prometheus reads, beside `/mcp` or at an address of its own.

The address of its own (`metrics_address`, `serve --metrics`) is for owners that serve no HTTP;
nobody is asked for a token there, so it is on loopback. Beside `/mcp` the token that `auth` asks
for is needed here, too. What cannot be served or sent is a line in the owner's log: an owner
works without being looked at.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from mcp_pools.doors.owner_log import say
from mcp_pools.errors import PoolsError
from mcp_pools.telemetry import wants_otlp

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mcp_pools.exposition import Exposition
    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

PATH: Final = "/metrics"


class MetricsEndpoint:
    """Answers with the metrics of a router; the SDK is imported with the first request, off the loop.

    Args:
        counted: whether there are any.
    """

    def __init__(self, *, counted: bool = True) -> None:
        self._counted = counted
        self._router: Router | None = None
        self._exposition: Exposition | None = None
        self._making = asyncio.Lock()

    @asynccontextmanager
    async def of(self, router: Router) -> AsyncIterator[None]:
        """Serve this router's until the block ends."""
        self._router = router
        try:
            yield
        finally:
            self._router = None
            if self._exposition is not None:
                await self._exposition.aclose()

    async def answer(self, request: Request) -> Response:
        """One look."""
        from starlette.responses import PlainTextResponse, Response

        if not self._counted:
            return PlainTextResponse("Nothing is counted: metrics is false in the configuration.\n", 404)
        router = self._router
        if router is None:
            return PlainTextResponse("The router is opening, or leaving.\n", 503, {"Retry-After": "1"})
        async with self._making:
            if self._exposition is None:
                made = await asyncio.to_thread(importlib.import_module, "mcp_pools.exposition")
                self._exposition = made.Exposition(router)
        text = await self._exposition.text()
        return Response(text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


@asynccontextmanager
async def metrics_out(settings: Settings, router: Router) -> AsyncIterator[None]:
    """Serve the metrics at `metrics_address`, and send them where OpenTelemetry's variables say."""
    async with AsyncExitStack() as stack:
        if settings.metrics_address is not None:
            try:
                await stack.enter_async_context(_served(settings, settings.metrics_address, router))
            except PoolsError as refused:
                say("metrics.failed", message=refused.message, next=refused.next)
        if settings.metrics and wants_otlp():
            made = await asyncio.to_thread(importlib.import_module, "mcp_pools.exposition")
            stack.push_async_callback(made.Exposition(router, otlp=True).aclose)
        yield


@asynccontextmanager
async def _served(settings: Settings, text: str, router: Router) -> AsyncIterator[None]:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from mcp_pools.doors.http_address import Address, bound, listen, names
    from mcp_pools.doors.http_server import HttpServer

    address = Address.read(text)
    endpoint = MetricsEndpoint(counted=settings.metrics)

    async def answer(request: Request) -> Response:
        if not names(address, request.headers.get("host", "")):
            return PlainTextResponse("Invalid Host header", 421)
        return await endpoint.answer(request)

    with listen(address, flag="--metrics") as listening:
        server = HttpServer(Starlette(routes=[Route(PATH, answer, methods=["GET"])]))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        say("metrics.served", address=bound(address, listening).authority)
        async with endpoint.of(router):
            try:
                yield
            finally:
                server.should_exit = True
                with suppress(asyncio.CancelledError):
                    await serving
