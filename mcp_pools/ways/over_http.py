"""The way to a server at a URL, with a bearer token where it wants one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

import httpx2

from mcp_pools.bearer import Bearer
from mcp_pools.delegate import Peer, connected
from mcp_pools.errors import PoolsError
from mcp_pools.way import CALL, DEPTH_HEADER, MOST_ANSWER_BYTES, Call

if TYPE_CHECKING:
    from mcp import Client

_OPENING_SECONDS: Final = 5.0


class OverHttp:
    """A server's MCP endpoint at `where` (`mcp_pools.way.Way`); `bearer` has the tokens for it."""

    opening_seconds = _OPENING_SECONDS

    def __init__(self, where: str, bearer: Bearer) -> None:
        self.where = where
        self._bearer = bearer

    def opened(self, ended: Callable[[], None]) -> AbstractAsyncContextManager[Client]:
        """See `Way.opened`. Each request has a connection of its own, so nothing ends by itself."""
        return connected(self.where, _Transport(self._bearer), silence=None)


class _Transport(Peer):
    """Sends each request with its own depth, and with a token that is valid now.

    A failure is an answer: the SDK would end all other calls.
    """

    def __init__(self, bearer: Bearer) -> None:
        super().__init__(MOST_ANSWER_BYTES)
        self._bearer = bearer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        call = CALL.get() or Call()
        request.headers[DEPTH_HEADER] = str(call.depth)
        try:
            token = await self._bearer.token()
            response = await self._sent(request, call, token)
            if response.status_code == 401 and (fresh := await self._bearer.token(refused=token)) != token:
                await response.aclose()  # it was turned away unread, so it may be sent again
                response = await self._sent(request, call, fresh)
        except PoolsError as none:
            call.why, call.status, call.sent = none.message, 0, False
            return httpx2.Response(502, request=request)
        return response

    async def _sent(self, request: httpx2.Request, call: Call, token: str | None) -> httpx2.Response:
        if token is not None:
            request.headers["authorization"] = f"Bearer {token}"
        call.sent = True
        try:
            response = await super().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as failure:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(failure)
            call.why = "its certificate is not trusted" if untrusted else "it takes no connection"
            call.sent = False
        except httpx2.TransportError:
            call.why = "the connection broke"
        else:
            call.status = response.status_code
            return response
        return httpx2.Response(502, request=request)
