"""Tokens of an OAuth 2.1 authorization server: signed ones are judged here, opaque ones asked about.

Keys come from the issuer's metadata (RFC 8414, OpenID Connect Discovery) and are kept for a
while; a key that is not known is looked for again, but not more often than now and then, so
that made-up key ids cannot make this server hammer the issuer. Only asymmetric algorithms
count: with a symmetric one, whoever knows the public key could sign.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpx
import jwt
from mcp.server.auth.provider import AccessToken

from mcp_pools.auth import RESERVED, Unavailable
from mcp_pools.definitions import IntrospectionDefinition, encrypted

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
LEEWAY_SECONDS: Final = 30
"""What the clocks of the issuer and of this machine may differ."""
KEYS_SECONDS: Final = 600.0
"""For which keys are taken as they are."""
OLDEST_SECONDS: Final = 3600.0
"""After which they are not taken any more, when the issuer does not answer."""
AGAIN_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
"""Between two looks for keys: while there are some, and while there are none."""
ANSWER_SECONDS: Final = 30.0
"""For which an answer about an opaque token holds: a revoked one works as long as that."""
_MOST_ANSWERS: Final = 4096
_LARGEST: Final = 1 << 20
_TIMEOUT: Final = 10.0


class Keys:
    """The keys an issuer signs with."""

    def __init__(self, issuer: str, client: httpx.AsyncClient) -> None:
        self._issuer = issuer
        self._client = client
        self._found: dict[str | None, Mapping[str, Any]] = {}
        self._why = ""
        self._looked = float("-inf")
        self._known_at = float("-inf")
        self._looking = anyio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id, for this algorithm; raises `Unavailable`."""
        now = time.monotonic()
        age = now - self._known_at
        if age > OLDEST_SECONDS:
            self._found = {}
        pause = AGAIN_SECONDS if self._found else RETRY_SECONDS
        if (age > KEYS_SECONDS or kid not in self._found) and now - self._looked > pause:
            await self._look(now)
        if not self._found:
            raise Unavailable(self._why)
        key = self._found.get(kid) or (self._only() if kid is None else None)
        if key is None or key.get("alg", algorithm) != algorithm:
            return None
        try:
            return jwt.PyJWK(dict(key), algorithm)
        except jwt.PyJWTError:
            return None

    def _only(self) -> Mapping[str, Any] | None:
        return next(iter(self._found.values())) if len(self._found) == 1 else None

    async def _look(self, since: float) -> None:
        async with self._looking:
            if self._looked >= since:
                return  # somebody else has looked meanwhile
            try:
                keys = (await fetched(self._client, await self._address())).get("keys")
            except Unavailable as failure:
                self._why = str(failure)
            else:
                self._take(keys if isinstance(keys, list) else [])
            self._looked = time.monotonic()

    def _take(self, keys: list[Any]) -> None:
        """Only these count from now on: what the issuer withdrew is gone."""
        self._found = {
            each.get("kid"): each
            for each in keys
            if isinstance(each, dict) and each.get("use", "sig") == "sig" and each.get("kty") != "oct"
        }
        self._known_at = time.monotonic()
        self._why = "The authorization server publishes no key to verify signatures with."

    async def _address(self) -> str:
        failure = Unavailable("The authorization server has no metadata.")
        for place in metadata_places(self._issuer):
            try:
                said = await fetched(self._client, place)
            except Unavailable as why:
                failure = why
                continue
            address = said.get("jwks_uri")
            if said.get("issuer") == self._issuer and isinstance(address, str):
                try:
                    return encrypted(address)
                except ValueError as unsafe:
                    raise Unavailable(f"The jwks_uri of the authorization server {unsafe}.") from None
            failure = Unavailable(
                f"The metadata at {place} is not that of {self._issuer}, or has no jwks_uri."
            )
        raise failure


class SignedTokens:
    """Judges JWTs (RFC 7519, RFC 9068)."""

    def __init__(self, issuer: str, audience: str, client: httpx.AsyncClient) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = Keys(issuer, client)

    async def verify(self, token: str) -> AccessToken | None:
        """What a token stands for; raises `Unavailable`."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or not isinstance(kid, str | None):
            return None
        key = await self._keys.find(kid, algorithm)
        if key is None:
            return None
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=[self._audience, *_with_and_without_slash(self._audience)],
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError:
            return None
        return granted(claims)


class Introspection:
    """Asks the issuer about tokens (RFC 7662)."""

    def __init__(
        self,
        asked: IntrospectionDefinition,
        secret: str,
        issuer: str,
        audience: str,
        client: httpx.AsyncClient,
    ) -> None:
        self._url = asked.url
        self._credentials = httpx.BasicAuth(asked.client_id, secret)
        self._issuer = issuer
        self._audiences = {audience, *_with_and_without_slash(audience)}
        self._client = client
        self._answers: dict[str, tuple[float, AccessToken | None]] = {}

    async def verify(self, token: str) -> AccessToken | None:
        """What a token stands for; raises `Unavailable`."""
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        until, known = self._answers.get(digest, (0.0, None))
        if until > time.time():
            return known
        claims = await fetched(
            self._client,
            self._url,
            auth=self._credentials,
            data={"token": token, "token_type_hint": "access_token"},
        )
        found = self._judged(claims)
        expires = found.expires_at if found is not None and found.expires_at is not None else float("inf")
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        self._answers[digest] = (min(time.time() + ANSWER_SECONDS, expires), found)
        return found

    def _judged(self, claims: Mapping[str, Any]) -> AccessToken | None:
        aud, exp, now = claims.get("aud"), claims.get("exp"), time.time()
        audiences = {each for each in (aud if isinstance(aud, list) else [aud]) if isinstance(each, str)}
        if claims.get("active") is not True or not audiences & self._audiences:
            return None
        if claims.get("iss", self._issuer) != self._issuer or (isinstance(exp, int | float) and exp <= now):
            return None
        if isinstance(begins := claims.get("nbf"), int | float) and begins > now + LEEWAY_SECONDS:
            return None
        return granted({"iss": self._issuer, **claims})


def granted(claims: Mapping[str, Any]) -> AccessToken | None:
    """What verified claims say; `None` when they name nobody."""
    client = claims.get("client_id") or claims.get("azp")
    subject = claims.get("sub") or client
    if not isinstance(subject, str) or not subject or subject == RESERVED:
        return None
    scope = claims.get("scope", claims.get("scp"))
    scopes = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
    return AccessToken(
        token="",  # nobody behind this needs it, so nobody can leak it
        client_id=client if isinstance(client, str) else subject,
        subject=subject,
        scopes=[each for each in scopes if isinstance(each, str)],
        expires_at=int(exp) if isinstance(exp := claims.get("exp"), int | float) else None,
        claims={"iss": claims.get("iss")},
    )


def metadata_places(issuer: str) -> list[str]:
    """Where an issuer's metadata may be, in the order of the MCP specification's authorization page."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    inserted = [
        f"/.well-known/{name}{path}" for name in ("oauth-authorization-server", "openid-configuration")
    ]
    appended = [f"{path}/.well-known/openid-configuration"] if path else []
    return [urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in (*inserted, *appended)]


async def fetched(
    client: httpx.AsyncClient, url: str, *, data: Any = None, auth: Any = None
) -> dict[str, Any]:
    """A JSON object from the issuer; raises `Unavailable`, in words that quote nothing of it."""
    try:
        request = client.build_request("GET" if data is None else "POST", url, data=data)
        answer = await client.send(request, auth=auth, stream=True)
        try:
            text = b""
            async for piece in answer.aiter_bytes():
                text += piece
                if len(text) > _LARGEST:
                    raise Unavailable(f"{url} answers with more than {_LARGEST} bytes.")
        finally:
            await answer.aclose()
        said = httpx.Response(200, content=text).json() if answer.is_success else None
    except (httpx.HTTPError, ValueError) as failure:
        raise Unavailable(f"{url} does not answer: {type(failure).__name__}.") from None
    if not isinstance(said, dict):
        raise Unavailable(f"{url} answers with status {answer.status_code} and no JSON object.")
    return said


def new_client() -> httpx.AsyncClient:
    """A client for issuers: no redirects, and nothing of the environment but its certificates."""
    return httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False)


def _with_and_without_slash(audience: str) -> Iterable[str]:
    return (audience.rstrip("/"), f"{audience.rstrip('/')}/")
