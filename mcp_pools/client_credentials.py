"""Tokens by OAuth client credentials (RFC 6749 §4.4): as whom we ask, whom, and when again.

The SDK has a provider for this; it holds a lock for as long as a request has no answer, so calls over
one connection would wait for each other. The steps are those of the MCP specification's authorization
page: the server's metadata (RFC 9728) names its authorization server, whose metadata (RFC 8414) names
where tokens are given; the token is asked for this server (RFC 8707).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx2
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    extract_resource_metadata_from_www_auth,
    issuers_match,
)
from mcp.shared.auth_utils import check_resource_allowed
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mcp_pools.definitions import encrypted
from mcp_pools.delegate import Peer
from mcp_pools.errors import PoolsError

ERRORS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
    }
)
"""What an authorization server may say of a request; anything else it says is not repeated."""

_SECONDS: Final = 10.0
_MARGIN_SECONDS: Final = 30.0
"""How long before its end a token is renewed; a tenth of its life where that is short."""
_AGAIN_SECONDS: Final = 5.0
"""Between two tokens that are asked for because the server refused the one before."""


class Credentials(BaseModel):
    """A pool's option `oauth`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_id: str = Field(min_length=1)
    client_secret: str = Field(min_length=1)
    """The name of a secret under `secrets:`."""
    scope: str | None = Field(None, min_length=1)
    token_url: str | None = None
    """Where tokens are given; none: the server's metadata says."""
    issuer: str | None = None
    """The authorization server that may be shown the secret; none: whichever the server names."""

    @field_validator("token_url", "issuer")
    @classmethod
    def _private(cls, url: str | None) -> str | None:
        return None if url is None else encrypted(url)


def credentials(pool: str, given: Any) -> Credentials:
    """The option of a pool, read; raises `PoolsError` `invalid_payload`, which quotes no value."""
    try:
        return Credentials.model_validate(given)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise PoolsError(
            "invalid_payload",
            f"options.oauth of pool {pool!r}: {where}: {first['msg'].lower()}.",
            "Give client_id, client_secret (the name of a configured secret), and if need be scope, "
            "token_url or issuer.",
        ) from None


class ClientCredentials:
    """Has tokens for the server at `url` (`mcp_pools.bearer.Bearer`).

    `secret` reads the client's secret by its name; it may block, and raises `PoolsError`.
    """

    def __init__(self, url: str, asked: Credentials, secret: Callable[[str], str]) -> None:
        self._url = url
        self._asked = asked
        self._secret = secret
        self._token: str | None = None
        self._until = 0.0
        self._replaced = float("-inf")
        self._asking = asyncio.Lock()

    async def token(self, refused: str | None = None) -> str | None:
        """See `Bearer.token`. It is kept in memory until shortly before its end."""
        async with self._asking:
            now = time.monotonic()
            replaceable = refused == self._token and now - self._replaced > _AGAIN_SECONDS
            if refused is not None and replaceable:
                self._replaced = now
                self._token = None
            if self._token is None or (refused is None and now >= self._until):
                await self._ask()
            return self._token

    async def _ask(self) -> None:
        secret = await asyncio.to_thread(self._secret, self._asked.client_secret)
        timeout = httpx2.Timeout(_SECONDS)
        try:
            async with httpx2.AsyncClient(transport=Peer(), trust_env=False, timeout=timeout) as http:
                where, method = self._asked.token_url, "client_secret_basic"
                if where is None:
                    where, method = await self._found(http)
                said = await self._granted(http, where, method, secret)
        except httpx2.HTTPError as failure:
            raise _none(f"it does not answer ({type(failure).__name__})") from None
        lifetime = said.get("expires_in")
        numeric = isinstance(lifetime, int | float) and not isinstance(lifetime, bool)
        life = float(lifetime) if numeric and lifetime is not None else float("inf")
        self._token = str(said["access_token"])
        self._until = time.monotonic() + life - min(_MARGIN_SECONDS, life / 10)

    async def _granted(
        self, http: httpx2.AsyncClient, where: str, method: str, secret: str
    ) -> Mapping[str, Any]:
        """What the authorization server answers to who we are."""
        form = {"grant_type": "client_credentials", "resource": self._url}
        if self._asked.scope is not None:
            form["scope"] = self._asked.scope
        if method == "client_secret_post":
            form |= {"client_id": self._asked.client_id, "client_secret": secret}
            answer = await http.post(where, data=form)
        else:  # whose parts are written as in a form, RFC 6749 §2.3.1
            pair = (quote(self._asked.client_id, safe=""), quote(secret, safe=""))
            answer = await http.post(where, data=form, auth=pair)
        said = _object(answer)
        if answer.status_code != 200 or not isinstance(said.get("access_token"), str):
            word = f", {said['error']}" if said.get("error") in ERRORS else ""
            raise _none(f"it gives no token (HTTP {answer.status_code}{word})")
        if str(said.get("token_type", "bearer")).lower() != "bearer":
            raise _none("its token is no bearer token")
        return said

    # Where tokens are given.

    async def _found(self, http: httpx2.AsyncClient) -> tuple[str, str]:
        """The token endpoint, and how the client says who it is there."""
        issuer = await self._authorization_server(http)
        for place in build_oauth_authorization_server_metadata_discovery_urls(issuer, self._url):
            said = _object(await http.get(place))
            endpoint = said.get("token_endpoint")
            if issuers_match(str(said.get("issuer")), issuer) and isinstance(endpoint, str):
                methods = said.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
                basic = "client_secret_basic" in methods or "client_secret_post" not in methods
                return _private(endpoint), "client_secret_basic" if basic else "client_secret_post"
        raise _none("its metadata is missing, is another's, or names no token endpoint")

    async def _authorization_server(self, http: httpx2.AsyncClient) -> str:
        """The issuer that the server's metadata names: the configured one, if one is."""
        wanted = self._asked.issuer
        for place in build_protected_resource_metadata_discovery_urls(await self._challenge(http), self._url):
            said = _object(await http.get(place))
            named = [each for each in said.get("authorization_servers") or () if isinstance(each, str)]
            if not named or not check_resource_allowed(self._url, str(said.get("resource"))):
                continue
            found = [each for each in named if wanted is None or issuers_match(each, wanted)]
            if not found:
                raise _none("the server names another than options.oauth.issuer")
            return _private(found[0])
        raise _none("the server's metadata names none for it; give options.oauth.token_url")

    async def _challenge(self, http: httpx2.AsyncClient) -> str | None:
        """Where the server says that its metadata is, when it turns us away."""
        async with http.stream("GET", self._url, headers={"accept": "text/event-stream"}) as answer:
            return extract_resource_metadata_from_www_auth(answer)


def _object(answer: httpx2.Response) -> Mapping[str, Any]:
    """The JSON object of an answer; an empty one for anything else."""
    try:
        said = json.loads(answer.content)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _private(url: str) -> str:
    try:
        return encrypted(url)
    except ValueError:
        raise _none("its address is not encrypted") from None


def _none(why: str) -> PoolsError:
    return PoolsError("insufficient_scope", f"no token from the authorization server: {why}")
