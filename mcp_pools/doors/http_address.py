"""Where `serve --http` listens, and the names it answers to.

A browser on this machine reaches every port of it, whatever site it shows. So a request
must name this server in its `Host` header, and a page that sends one must come from an
allowed `Origin`; both lists hold the loopback names, and what the configuration adds.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from mcp_pools.errors import PoolsError

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8680
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_BACKLOG: Final = 512
_FORM: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]/\s]*)(?::(?P<port>\d{1,5}))?")


class Address(NamedTuple):
    """A host, without the brackets of IPv6, and a port; port 0 takes any that is free."""

    host: str
    port: int

    @classmethod
    def read(cls, text: str) -> Address:
        """The address in `HOST:PORT`; either may be left out, and a number alone is a port.

        Raises:
            PoolsError: `invalid_payload`: it is none.
        """
        found = _FORM.fullmatch(f":{text}" if text.isdecimal() else text)
        port = int(found["port"] or DEFAULT_PORT) if found else -1
        if found is None or not 0 <= port <= 65535:
            raise PoolsError(
                "invalid_payload",
                f"{text!r} is no HOST:PORT.",
                f"Write it like {DEFAULT_HOST}:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}.",
            )
        return cls(found["host"].strip("[]") or DEFAULT_HOST, port)

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        """Where clients find MCP."""
        return f"http://{self.authority}/mcp"


def listen(address: Address, *, guarded: bool = False, flag: str = "--http") -> socket.socket:
    """A socket that listens there, and there alone.

    Args:
        guarded: clients need tokens; else the host must be a loopback address.
        flag: what named the address.

    Raises:
        PoolsError: `not_allowed`: others could reach it unasked; `conflict`: the port is taken;
            `invalid_payload`: there is no such host, or it may not be used.
    """
    family, host = _resolved(address, flag)
    if not guarded and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        raise PoolsError(
            "not_allowed",
            f"{flag} {address.authority} can be reached from other machines, and nobody said who may use it.",
            "Set auth.tokens_file or auth.issuer in the configuration file (docs/authorization.md), or "
            f"listen on {DEFAULT_HOST}:{address.port}.",
        )
    try:
        listening = socket.create_server((host, address.port), family=family, backlog=_BACKLOG)
    except OSError as failure:
        raise _not_bound(address, flag, failure) from failure
    # Its connections inherit this. Without it an answer's second packet waits 40 ms for the client's
    # acknowledgement of the first; asyncio sets it for sockets alone that it made itself.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def bound(address: Address, listening: socket.socket) -> Address:
    """The address with the port that `listening` really has."""
    return address._replace(port=int(listening.getsockname()[1]))


def host_names(address: Address, more: Iterable[str]) -> list[str]:
    """The `Host` headers to answer, in the SDK's form: a name with any port, and one without."""
    names = dict.fromkeys([*LOOPBACK_NAMES, _bracketed(address.host)])
    return [form for name in names for form in (name, f"{name}:*")] + list(more)


def names(address: Address, host: str) -> bool:
    """Whether a `Host` header names what listens there, with any port."""
    try:
        asked = Address.read(host)
    except PoolsError:
        return False
    return _bracketed(asked.host) in (*LOOPBACK_NAMES, _bracketed(address.host))


def authority(url: str) -> list[str]:
    """The `Host` headers of requests to a URL; its port may be left out or not."""
    parts = urlsplit(url)
    return [parts.netloc, *([_bracketed(parts.hostname)] if parts.hostname else [])]


def origins(address: Address, more: Iterable[str]) -> list[str]:
    """The `Origin` headers of pages that may send requests."""
    return [f"http://{name}" for name in host_names(address, ())] + list(more)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _resolved(address: Address, flag: str) -> tuple[socket.AddressFamily, str]:
    """The numeric address to bind; where a name has several, the first of IPv4."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PoolsError(
            "invalid_payload",
            f"{flag} names the host {address.host!r}, which has no address here.",
            f"Use {DEFAULT_HOST}, or another address of this machine.",
        ) from None
    family, *_, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, str(place[0])


def _not_bound(address: Address, flag: str, failure: OSError) -> PoolsError:
    if failure.errno == errno.EADDRINUSE:
        return PoolsError(
            "conflict",
            f"{address.authority} is in use by another process.",
            f"Give {flag} another port, or end that process.",
        )
    why = os.strerror(failure.errno) if failure.errno else str(failure)
    return PoolsError(
        "invalid_payload", f"{flag} {address.authority} cannot be used: {why}.", "Give another address."
    )
