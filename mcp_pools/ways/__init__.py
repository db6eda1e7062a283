"""The ways to an MCP server (`mcp_pools.way`), and which of them a pool's definition means.

An `endpoint` is an address, with `token_secret` (the name of a configured secret: the bearer token) or
`oauth` (client credentials) where its server asks for them. The option `command` is a program, with more
variables in `env`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from mcp_pools.adapter import Surroundings
from mcp_pools.bearer import Bearer, NoBearer, SecretBearer
from mcp_pools.client_credentials import ClientCredentials, credentials
from mcp_pools.errors import PoolsError, nearest
from mcp_pools.models import PoolSpec
from mcp_pools.secret import fill_secrets, looks_secret
from mcp_pools.way import Way
from mcp_pools.ways.over_http import OverHttp
from mcp_pools.ways.over_stdio import OverStdio

TRUSTED: Final = frozenset({"command", "env"})
"""Options that start a program: only the configuration may have them."""
OPTIONS: Final = TRUSTED | {"token_secret", "oauth"}
"""The names of the options that say how a server is reached."""


def way_to(spec: PoolSpec, surroundings: Surroundings, options: frozenset[str]) -> Way:
    """The way to a pool's server.

    Args:
        options: the names of the other options that the pool has.

    Raises:
        PoolsError: `invalid_payload` for a definition that no server can be reached by.
    """
    for name in spec.options:
        if name not in OPTIONS | options:
            known = sorted(OPTIONS | options)
            hint = nearest(name, known) or f"Its options: {', '.join(known)}."
            raise _invalid(f"A pool of type {spec.type} has no option {name!r}.", hint)
    if "command" in spec.options:
        return _program(spec, surroundings)
    if "env" in spec.options:
        raise _invalid(f"Pool {spec.name!r} has an env without a command.", "Take it out.")
    url = address(spec)
    return OverHttp(url, _bearer(url, spec, surroundings))


def _program(spec: PoolSpec, surroundings: Surroundings) -> OverStdio:
    argv, env = spec.options["command"], spec.options.get("env", {})
    if spec.endpoint or {"token_secret", "oauth"} & set(spec.options):
        raise _invalid(
            f"Pool {spec.name!r} has a command, and an endpoint or a token.",
            "Give one of command and endpoint; a program gets its secrets by env.",
        )
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and word for word in argv):
        raise _invalid(
            f"The command of pool {spec.name!r} is no list of words.", 'Write it like ["uvx", "x"].'
        )
    if not isinstance(env, dict) or not all(map(_is_value, env.values())):
        raise _invalid(
            f"The env of pool {spec.name!r} is no mapping of names to text.",
            'Write it like {HOME: /srv, TOKEN: {"$secret": "NAME"}}.',
        )
    for name, value in env.items():
        if isinstance(value, str) and looks_secret(name):
            raise _invalid(
                f"The env of pool {spec.name!r} has a plain value for {name!r}, which looks like a secret.",
                'Write {"$secret": "NAME"} in its place, and add NAME to secrets.',
            )
    return OverStdio(argv, partial(_variables, surroundings, env), surroundings.directory)


def _is_value(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and list(value) == ["$secret"])


def _variables(surroundings: Surroundings, env: Mapping[str, Any]) -> dict[str, str]:
    """What the program gets; what it starts by itself counts as one task deep."""
    filled = fill_secrets(env, surroundings.secret)
    return {**surroundings.environment, "MCP_POOLS_DEPTH": "1", **filled}


def address(spec: PoolSpec) -> str:
    """The URL of the peer's MCP endpoint, `/mcp` where the definition names no path.

    Raises:
        PoolsError: `invalid_payload` for a definition that no peer can be reached by.
    """
    url = spec.endpoint or ""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise _invalid(
            f"The endpoint of pool {spec.name!r} is no http or https URL.",
            'Write it like "https://pools.example.org/mcp", and name its token under options.token_secret.',
        )
    loopback = host in ("localhost", "127.0.0.1", "::1")
    if "token_secret" in spec.options and "oauth" in spec.options:
        raise _invalid(f"Pool {spec.name!r} has both token_secret and oauth.", "Give one of them.")
    if {"token_secret", "oauth"} & set(spec.options) and parts.scheme != "https" and not loopback:
        raise _invalid(
            f"The token of pool {spec.name!r} would travel unencrypted to {host}.",
            "Use an https:// endpoint.",
        )
    return (parts if parts.path.strip("/") else parts._replace(path="/mcp")).geturl()


def _bearer(url: str, spec: PoolSpec, surroundings: Surroundings) -> Bearer:
    """Where the peer's token comes from."""
    if (given := spec.options.get("oauth")) is not None:
        return ClientCredentials(url, credentials(spec.name, given), surroundings.secret)
    name = spec.options.get("token_secret")
    return NoBearer() if name is None else SecretBearer(partial(surroundings.secret, str(name)))


def _invalid(message: str, next: str) -> PoolsError:
    return PoolsError("invalid_payload", message, next)
