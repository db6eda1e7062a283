"""Hosts and addresses of URLs: which entry of `allow.hosts` names one, and which are public.

`policy.Judge.host` decides; this file only knows the notations. Workers import it, so
what only a host needs is imported by the functions that need it.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network


def resolve_addresses(host: str, port: int) -> list[str]:
    """All IP addresses of `host`, in the resolver's order. Blocks; raises `OSError`."""
    import socket

    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def host_and_port(url: str) -> tuple[str, int]:
    """The host and port of an http(s) URL, refused when another parser might read it differently."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        ascii_host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError:
        parts, ascii_host, port = None, "", None
    odd = "\\" in url or any(character <= " " or character == "\x7f" for character in url)
    if odd or parts is None or parts.scheme not in ("http", "https") or not ascii_host:
        raise PoolsError(
            "invalid_payload",
            f"{url!r} is not an http or https URL.",
            'Write it like "https://example.com/path".',
        )
    return ascii_host, port or (443 if parts.scheme == "https" else 80)


def is_address(host: str) -> bool:
    """Whether a URL's host is an address already. Resolvers also take `127.1` and `2130706433`."""
    import ipaddress

    try:
        ipaddress.ip_address(host)
    except ValueError:
        return re.fullmatch(r"[\d.]+|0x[\da-f.x]+", host) is not None
    return True


def is_bare(pattern: str) -> bool:
    """Whether a glob names nothing: without port and wildcards, no letter or digit is left."""
    host = pattern.rpartition(":")[0] or pattern
    return not any(character.isalnum() for character in re.sub(r"\[[^]]*\]", "", host))


def is_address_pattern(pattern: str) -> bool:
    """Whether an entry is about addresses: `10.*` must not match the host `10.example.com`."""
    digits = re.fullmatch(r"[\d.*?]*\d[\d.*?]*(:\d+)?", pattern)
    return digits is not None or _network(pattern) is not None


def names_host(pattern: str, host: str, port: int) -> bool:
    """Whether an entry is about hosts and matches `host` or `host:port`."""
    if is_address_pattern(pattern):
        return False
    return any(fnmatchcase(name, pattern.lower()) for name in (host, f"{host}:{port}"))


def names_address(pattern: str, address: Address, port: int) -> bool:
    """Whether an entry is about addresses and holds or matches `address` or `address:port`."""
    network = _network(pattern)
    if network is not None:
        return address in network
    names = (str(address), f"{address}:{port}")
    return is_address_pattern(pattern) and any(fnmatchcase(name, pattern) for name in names)


def _network(pattern: str) -> Network | None:
    import ipaddress

    try:
        return ipaddress.ip_network(pattern.strip("[]"), strict=False)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether `address`, and any IPv4 address it carries inside, is on the public internet."""
    import ipaddress

    if isinstance(address, ipaddress.IPv6Address):
        carried = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in ipaddress.ip_network("64:ff9b::/96"):
            carried = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(carried)
    return address.is_global and not address.is_multicast
