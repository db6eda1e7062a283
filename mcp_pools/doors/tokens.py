"""All that the configuration says about tokens, as one verifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_pools.auth import Verifier
from mcp_pools.doors.http_address import EVERYWHERE, Address
from mcp_pools.doors.issuer import Introspection, SignedTokens, new_client
from mcp_pools.doors.token_file import TokenFile
from mcp_pools.errors import PoolsError
from mcp_pools.secret import read_secret

if TYPE_CHECKING:
    import httpx
    from mcp.server.auth.provider import AccessToken

    from mcp_pools.settings import Settings


class Tokens:
    """Fixed tokens first, for they cost nothing; then the issuer's: JWTs by their form, others by asking.

    Args:
        audience: what the issuer's tokens must be for.

    Raises:
        PoolsError: the tokens file or the introspection's secret cannot be read.
    """

    def __init__(self, settings: Settings, audience: str) -> None:
        auth = settings.auth
        self._file = TokenFile(auth.tokens_file) if auth.tokens_file is not None else None
        self._signed: Verifier | None = None
        self._opaque: Verifier | None = None
        self._client: httpx.AsyncClient | None = None
        if auth.issuer is None:
            return
        self._client = new_client()
        self._signed = SignedTokens(auth.issuer, audience, self._client)
        if (asked := auth.introspection) is not None:
            sources = {name: each.model_dump(exclude_unset=True) for name, each in settings.secrets.items()}
            secret = read_secret(asked.client_secret, sources)
            self._opaque = Introspection(asked, secret, auth.issuer, audience, self._client)

    async def verify(self, token: str) -> AccessToken | None:
        """What a token stands for; raises `Unavailable`."""
        if self._file is not None and (found := await self._file.verify(token)) is not None:
            return found
        judge = self._signed if token.count(".") == 2 else self._opaque
        return await judge.verify(token) if judge is not None else None

    async def aclose(self) -> None:
        """End the connections to the issuer."""
        if self._client is not None:
            await self._client.aclose()


def tokens(settings: Settings, address: Address) -> Tokens | None:
    """Who judges the tokens of a server at `address`; `None` when it asks for none.

    Raises:
        PoolsError: what the configuration names cannot be read, or does not say what tokens are for.
    """
    if not settings.auth.configured:
        return None
    audience = settings.auth.audience or settings.http_public_url
    if audience is None and settings.auth.issuer is not None and address.host in EVERYWHERE:
        raise PoolsError(
            "invalid_payload",
            f"{address.authority} is no name that clients use, so no token can be for it.",
            "Set http_public_url to the URL of /mcp as clients see it.",
        )
    return Tokens(settings, audience or address.url)
