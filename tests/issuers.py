"""A real authorization server on loopback, as small as one can be: metadata, keys, introspection,
tokens for clients.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_pools.doors.http_address import Address, bound, listen

CLIENT, SECRET = "pools", "s3cret of the client"


class Issuer:
    """What it signs with, and what it knows of opaque tokens; `url` once it runs."""

    def __init__(self) -> None:
        self.url = ""
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.opaque: dict[str, dict[str, Any]] = {}
        self.asked = {"keys": 0, "introspection": 0, "tokens": 0}
        self.lifetime = 600
        """Seconds for which tokens are said to be valid."""
        self.method = "client_secret_basic"
        """How clients say who they are."""
        self.stale = 0
        """So many tokens are given that are over."""
        self.down = False

    def public_keys(self) -> list[dict[str, Any]]:
        """As a JSON Web Key Set has them."""
        return [
            {**json.loads(RSAAlgorithm.to_jwk(self.rsa.public_key())), "kid": "rsa", "use": "sig"},
            {
                **json.loads(ECAlgorithm.to_jwk(self.ec.public_key())),
                "kid": "ec",
                "use": "sig",
                "alg": "ES256",
            },
        ]

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Claims of a token that is valid at `audience`, with some changed; `None` leaves one out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "ana",
            "iat": now,
            "exp": now + 600,
            "scope": "pools:execute",
        } | changed
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, *, key: Any = None, algorithm: str = "RS256", kid: str | None = "rsa", **claims: Any
    ) -> str:
        """A signed token."""
        headers = {"typ": "at+jwt"} | ({} if kid is None else {"kid": kid})
        return jwt.encode(self.claims(**claims), key or self.rsa, algorithm=algorithm, headers=headers)

    # What it serves.

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._metadata),
                Route("/keys", self._keys),
                Route("/introspect", self._introspect, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        told: dict[str, Any] = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint": f"{self.url}/token",
        }
        told["token_endpoint_auth_methods_supported"] = [self.method]
        return self._unless_down(told)

    async def _keys(self, request: Request) -> Response:
        self.asked["keys"] += 1
        return self._unless_down({"keys": self.public_keys()})

    async def _introspect(self, request: Request) -> Response:
        self.asked["introspection"] += 1
        form = dict(part.split("=") for part in (await request.body()).decode().split("&"))
        basic = request.headers["authorization"]
        if basic != "Basic cG9vbHM6czNjcmV0IG9mIHRoZSBjbGllbnQ=":
            return Response(status_code=401)
        return self._unless_down(self.opaque.get(form["token"], {"active": False}))

    async def _token(self, request: Request) -> Response:
        """Client credentials; the token is for the resource that was asked for."""
        self.asked["tokens"] += 1
        form = dict(parse_qsl((await request.body()).decode()))
        known = base64.b64encode(f"{CLIENT}:{quote(SECRET)}".encode()).decode()
        by_basic = request.headers.get("authorization") == f"Basic {known}"
        by_form = (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        if not (by_basic if self.method == "client_secret_basic" else by_form):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("grant_type") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        over, self.stale = self.stale > 0, max(0, self.stale - 1)
        exp = int(time.time()) + (-600 if over else 600)
        token = self.token(
            sub=CLIENT, aud=form.get("resource"), exp=exp, scope=form.get("scope", "pools:read")
        )
        told = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}
        return self._unless_down(told)

    def _unless_down(self, body: Any) -> Response:
        return Response(status_code=500) if self.down else JSONResponse(body)


@contextmanager
def running() -> Iterator[Issuer]:
    """An issuer on a free port of loopback, in a thread of its own."""
    issuer = Issuer()
    with listen(Address("127.0.0.1", 0)) as listening:
        issuer.url = f"http://{bound(Address('127.0.0.1', 0), listening).authority}"
        config = uvicorn.Config(issuer.application(), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield issuer
        finally:
            server.should_exit = True
            thread.join()
