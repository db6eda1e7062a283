"""Bounds of the HTTP server, on a real socket: `mcp_pools.doors.http_server`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mcp_pools.doors import http_server
from mcp_pools.doors.http_address import Address, bound, listen

pytestmark = pytest.mark.anyio
ASK = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("Hello.")


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """The port of a server that greets."""
    with listen(Address("127.0.0.1", 0)) as listening:
        server = http_server.HttpServer(Starlette(routes=[Route("/", _hello)]))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield bound(Address("127.0.0.1", 0), listening).port
        server.should_exit = True
        await task


@pytest.mark.parametrize(
    "said", [b"", b"GET /", b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nabc"]
)
async def test_who_finishes_no_request_loses_the_connection(
    monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Silence, half a head, half a body: each would hold a place for ever."""
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.05)
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(said or b"\r\n")
        with anyio.fail_after(10), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                await client.receive()


async def test_beyond_the_bound_a_connection_is_refused_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refused one is told to come again; its place is free as soon as another one goes."""
    monkeypatch.setattr(http_server, "MOST_CONNECTIONS", 2)
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as first:
        async with await anyio.connect_tcp("127.0.0.1", port) as second:
            assert await status(port) == b"503"
            for each in (first, second):
                await each.send(ASK)
                assert (await each.receive()).startswith(b"HTTP/1.1 200")
        with anyio.fail_after(10):
            while await status(port) != b"200":
                pass


async def status(port: int) -> bytes:
    """What a new connection is answered."""
    async with await anyio.connect_tcp("127.0.0.1", port) as client:
        with suppress(anyio.BrokenResourceError):  # refused already, which the answer says
            await client.send(ASK)
        return (await client.receive()).split()[1]
