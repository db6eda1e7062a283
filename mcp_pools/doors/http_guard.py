"""Before `/mcp`: whose request it is, what it may do, and how it narrows itself.

1. With `auth` configured, a request needs a bearer token; without, it is the local user's.
2. A request that needs more than its token allows is a 403 that names the scope, told from
   its headers, or in the 2025 era from its body. What that does not see, the server refuses.
3. Headers may take tools away, never give any. Where a task calls, one says how deep it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_pools.auth import ADMIN, LONGEST_TOKEN, METHODS, READ, SCOPES, Unavailable, covered, scope_of
from mcp_pools.doors.http_address import Address
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller
from mcp_pools.selection import select_tools
from mcp_pools.server import SESSION_KEY, Session
from mcp_pools.tool import TOOLS

if TYPE_CHECKING:
    from mcp.server.auth.provider import AccessToken
    from starlette.types import Receive, Scope

    from mcp_pools.doors.tokens import Tokens
    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
ENVELOPE_BYTES: Final = 1 << 20
"""What a request may hold beside its payload."""
_INVALID_REQUEST: Final = -32600
_DEEPEST: Final = 1000
_NARROWING: Final = {
    "x-mcp-tools": "tools",
    "x-mcp-toolsets": "toolsets",
    "x-mcp-exclude-tools": "exclude_tools",
    "x-mcp-readonly": "read_only",
    "x-mcp-disable-destructive": "disable_destructive",
}
_YES: Final = {"true": True, "1": True, "false": False, "0": False}


class Refused(Exception):
    """A request that goes no further, and its response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Guard:
    """Judges every request of one server.

    Args:
        tokens: who judges them; `None`: nobody needs one.
        flags: what narrows every client, see `select_tools`.
    """

    def __init__(
        self, address: Address, settings: Settings, flags: Mapping[str, Any], tokens: Tokens | None
    ) -> None:
        self._tokens = tokens
        self._issuer = settings.auth.issuer
        self._offered = select_tools(flags)
        self._patience = settings.mcp_wait_seconds
        self.url = settings.http_public_url or address.url
        self._most_bytes = settings.max_payload_bytes + ENVELOPE_BYTES
        self._resource = settings.auth.audience or self.url

    async def admit(self, scope: Scope, receive: Receive, router: Router) -> Receive:
        """Put the request's session into its scope; what is to be received instead, for it may be read here.

        Raises:
            Refused: with the response for whoever sent it.
        """
        request = Request(scope, receive)
        token = await self._known(request)
        scopes = frozenset(SCOPES) if token is None else covered(token.scopes)
        receive = await self._scoped(request, receive, scopes)
        try:
            scope[SESSION_KEY] = self._session(request, router, token, scopes)
        except PoolsError as wrong:
            error = {"code": _INVALID_REQUEST, "message": str(wrong)}
            raise Refused(JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)) from None
        return receive

    async def reader(self, request: Request) -> None:
        """Raises `Refused` unless whoever asks may read."""
        token = await self._known(request)
        if token is not None and READ not in covered(token.scopes):
            said = f"This needs the scope {READ}."
            raise Refused(self._challenge(403, said, error="insufficient_scope", scope=READ))

    def _session(
        self, request: Request, router: Router, token: AccessToken | None, scopes: frozenset[str]
    ) -> Session:
        caller = Caller(
            name="local" if token is None else str(token.subject),
            kind="mcp",
            cwd="/",
            patience=self._patience,
            depth=_depth(request.headers.get("x-mcp-pools-depth", "0")),
            everything=ADMIN in scopes,
        )
        said = request.headers
        asked = tuple((flag, said[name]) for name, flag in _NARROWING.items() if name in said)
        left = _narrowed(asked)
        offered = {name: tool for name, tool in self._offered.items() if name in left}
        withheld = {name: scope_of(tool) for name, tool in offered.items() if scope_of(tool) not in scopes}
        tools = {name: tool for name, tool in offered.items() if name not in withheld}
        return Session(router.bound(caller), tools, withheld)

    # Tokens.

    async def _known(self, request: Request) -> AccessToken | None:
        """What the request's token stands for; raises `Refused`."""
        if self._tokens is None:
            return None
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            raise Refused(self._challenge(401, "A bearer token is needed.", scope=READ))
        try:
            found = await self._tokens.verify(token) if len(token) <= LONGEST_TOKEN else None
        except Unavailable as why:
            body = {"error": "temporarily_unavailable", "error_description": str(why)}
            raise Refused(JSONResponse(body, 503, {"Retry-After": "2", "Connection": "close"})) from None
        if found is None:
            said = "The token is unknown, expired, or not for this server."
            raise Refused(self._challenge(401, said, error="invalid_token", scope=READ))
        request.scope["user"] = AuthenticatedUser(found)  # whose session it is, for the SDK
        return found

    def _challenge(self, status: int, said: str, **more: str) -> Response:
        named = {**more, "error_description": said} if "error" in more else dict(more)
        if self._issuer is not None:
            named["resource_metadata"] = self.metadata_url
        challenge = ", ".join(f'{name}="{value}"' for name, value in named.items())
        body = {"error": more.get("error", "unauthorized"), "error_description": said}
        return JSONResponse(body, status, {"WWW-Authenticate": f"Bearer {challenge}".rstrip()})

    @property
    def metadata_url(self) -> str:
        """Where the metadata of this resource is (RFC 9728, section 3.1)."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, METADATA_PATH + parts.path.rstrip("/"), "", ""))

    async def metadata(self, request: Request) -> Response:
        """The protected resource metadata (RFC 9728); 404 without an authorization server."""
        if self._issuer is None:
            return Response(status_code=404)
        about = {
            "resource": self._resource,
            "authorization_servers": [self._issuer],
            "scopes_supported": list(SCOPES),
            "bearer_methods_supported": ["header"],
            "resource_name": "mcp-pools",
        }
        return JSONResponse(about, headers={"Cache-Control": "max-age=3600"})

    # Scopes.

    async def _scoped(self, request: Request, receive: Receive, scopes: frozenset[str]) -> Receive:
        """Raises `Refused` when the token's scopes do not cover the request."""
        if ADMIN in scopes:
            return receive
        method, name = request.headers.get("mcp-method"), request.headers.get("mcp-name", "")
        if method is None and request.method == "POST" and READ in scopes:
            body = await self._body(request)
            method, name = _asked_for(body)
            receive = _again(body, receive)
        needed = METHODS.get(method or "", READ)
        if method == "tools/call" and name in TOOLS:
            needed = scope_of(TOOLS[name])
        if needed in scopes:
            return receive
        said = f"{name or method or 'This server'} needs the scope {needed}."
        raise Refused(self._challenge(403, said, error="insufficient_scope", scope=needed))

    async def _body(self, request: Request) -> bytes:
        """The body, which must be as short here as behind; raises `Refused`."""
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self._most_bytes:
                raise Refused(Response("Payload too large", 413, {"Connection": "close"}))
        return bytes(body)


def _asked_for(body: bytes) -> tuple[str | None, str]:
    """Method and name in a message of the 2025 era; nothing in what is none."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None, ""
    if not isinstance(message, dict):
        return None, ""
    method, params = message.get("method"), message.get("params")
    name = params.get("name") if isinstance(params, dict) else None
    return method if isinstance(method, str) else None, name if isinstance(name, str) else ""


def _again(body: bytes, receive: Receive) -> Receive:
    """Receives the body that was read, then what follows it."""
    whole = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Any:
        return whole.pop() if whole else await receive()

    return replayed


@lru_cache(256)
def _narrowed(asked: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """The names of the tools that headers leave; raises `PoolsError` for one that says nothing known."""
    flags: dict[str, Any] = {}
    for flag, text in asked:
        if flag in ("read_only", "disable_destructive"):
            if text.strip().lower() not in _YES:
                message = f"The header for {flag} is {text[:40]!r}."
                raise PoolsError("invalid_payload", message, "Give true or false.")
            flags[flag] = _YES[text.strip().lower()]
        else:
            flags[flag] = [name.strip() for name in text.split(",") if name.strip()]
    return frozenset(select_tools(flags))


def _depth(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) > _DEEPEST:
        message = f"X-MCP-Pools-Depth is {text[:40]!r}."
        raise PoolsError("invalid_payload", message, f"Give 0 to {_DEEPEST}, or leave it out.")
    return int(text)
