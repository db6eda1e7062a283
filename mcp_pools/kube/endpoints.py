"""The pods behind a Service, as its EndpointSlices tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mcp_pools.kube.manifest import Object


class Endpoint(NamedTuple):
    """A pod that a Service leads to."""

    pod: str
    uid: str
    address: str
    port: int
    ready: bool
    """Whether it takes new work."""
    terminating: bool

    @property
    def key(self) -> tuple[str, str]:
        """What makes it another one: a pod's container may start anew, its place stays the same."""
        return self.uid, self.address

    @property
    def url(self) -> str:
        """Where it serves MCP."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/mcp"


def endpoints(slices: Iterable[Object], port_name: str) -> dict[tuple[str, str], Endpoint]:
    """All pods of a Service's slices, by their keys.

    A pod may stand in two slices for a moment, and has one for each family of addresses: the first
    by the slice's kind (IPv4 before IPv6) and name counts.
    """
    found: dict[tuple[str, str], Endpoint] = {}
    seen: set[str] = set()
    for each in sorted(slices, key=lambda each: (each.get("addressType", ""), each["metadata"]["name"])):
        ports = [port["port"] for port in each.get("ports") or () if port.get("name") == port_name]
        if each.get("addressType") not in ("IPv4", "IPv6") or not ports:
            continue
        for entry in each.get("endpoints") or ():
            endpoint = _endpoint(entry, ports[0])
            if endpoint is not None and endpoint.uid not in seen:
                seen.add(endpoint.uid)
                found[endpoint.key] = endpoint
    return found


def _endpoint(entry: Object, port: int) -> Endpoint | None:
    """One entry; `None` for what is no pod with an address."""
    pod, addresses = entry.get("targetRef") or {}, entry.get("addresses") or ()
    if pod.get("kind") != "Pod" or not addresses:
        return None
    said = entry.get("conditions") or {}
    terminating = bool(said.get("terminating"))
    ready = said.get("ready") is not False and not terminating  # nothing said counts as ready
    return Endpoint(pod["name"], pod["uid"], addresses[0], port, ready, terminating)
