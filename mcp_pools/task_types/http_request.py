"""`http`: one request, its redirects followed by hand.

Every URL, the first one and each redirect's, is judged here by the entries of
`allow.hosts` that were stored with the task, after its name was resolved; the connection
then goes to the judged address, under the name that was asked for. Proxies, credentials
and cookies of the surroundings play no part.
"""

# Not called http.py: run as a script, it would stand in the way of Python's own.

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from mcp_pools.addresses import host_and_port
from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

MAX_BODY_BYTES = 4 * 1024 * 1024
"""How much of a response's body, unpacked, is kept."""
MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 60.0
"""How long a connection may take, and how long the server may say nothing; the task's own
timeout ends everything."""
HARMLESS_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent"})
"""What is also sent to another server than the caller chose."""


@dataclass(frozen=True)
class Hop:
    """One request of the chain."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Send the request and follow at most 5 redirects.

    Returns:
        `{"status", "headers", "json" or "text", "truncated", "url"}`. Any status is a
        result, also one that is not 2xx. `json` when the body is whole and JSON. Of the
        headers, `set-cookie` is left out: results are kept.

    Raises:
        PoolsError: `not_allowed` when a URL is not allowed; `task_error` when no connection
            comes about or it breaks (retryable), or after too many redirects.
    """
    judge = Judge(Allow(hosts=tuple(payload["allowed_hosts"])), (), context.cwd)
    hop = _first(payload)
    for _ in range(MAX_REDIRECTS + 1):
        result, location = _sent(hop, judge.host(hop.url))
        if location is None:
            return result
        hop = _redirected(hop, result["status"], location)
    raise PoolsError(
        "task_error",
        f"{payload['url']!r} redirected more than {MAX_REDIRECTS} times, last to {hop.url!r}.",
        "Ask for the last URL.",
    )


def _first(payload: dict[str, Any]) -> Hop:
    headers = {name.lower(): value for name, value in (payload.get("headers") or {}).items()}
    body = None
    if payload.get("json") is not None:
        body = json.dumps(payload["json"]).encode()
        headers.setdefault("content-type", "application/json")
    return Hop(payload.get("method") or "GET", payload["url"], {"user-agent": "mcp-pools", **headers}, body)


def _redirected(hop: Hop, status: int, location: str) -> Hop:
    """The next request, as browsers make it. Another server gets no header it could misuse."""
    try:
        url = urljoin(hop.url, location).partition("#")[0]
        same = _origin(url) == _origin(hop.url)
    except (ValueError, PoolsError):
        message = f"{hop.url!r} redirects to {location!r}, which is not an http or https URL."
        raise PoolsError("task_error", message, "Ask for another URL.") from None
    headers = {name: value for name, value in hop.headers.items() if same or name in HARMLESS_HEADERS}
    if (status == 303 and hop.method != "HEAD") or (status in (301, 302) and hop.method == "POST"):
        headers.pop("content-type", None)
        return Hop("GET", url, headers, None)
    return replace(hop, url=url, headers=headers)


def _origin(url: str) -> tuple[str, str, int]:
    return (urlsplit(url).scheme, *host_and_port(url))


def _sent(hop: Hop, addresses: tuple[str, ...]) -> tuple[dict[str, Any], str | None]:
    """The response, and where it redirects to. The next address is tried when one cannot be reached."""
    import httpx

    for address in addresses:
        try:
            return _exchanged(hop, address)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if not unsent or address == addresses[-1]:
                raise _failure(hop, error) from None
    raise AssertionError("a judged host has an address")


def _exchanged(hop: Hop, address: str) -> tuple[dict[str, Any], str | None]:
    import httpx

    parts = urlsplit(hop.url)
    host, port = host_and_port(hop.url)
    secure = parts.scheme == "https"
    query = f"?{parts.query}" if parts.query else ""
    url = f"{parts.scheme}://{_bracketed(address)}:{port}{parts.path or '/'}{query}"
    name = _bracketed(host) + ("" if port == (443 if secure else 80) else f":{port}")
    with httpx.Client(
        trust_env=False,
        verify=_tls(),
        timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
    ) as client:
        try:
            request = client.build_request(
                hop.method,
                url,
                headers={**hop.headers, "host": name},
                content=hop.body,
                extensions={"sni_hostname": host},
            )
        except (ValueError, TypeError):
            raise _malformed(hop) from None
        response = client.send(request, stream=True)
        try:
            location = response.headers.get("location") if response.status_code in REDIRECTS else None
            return _result(hop.url, response), location
        finally:
            response.close()


@functools.cache
def _tls() -> Any:
    """Reading the certificates takes longer than many a request."""
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _result(url: str, response: Any) -> dict[str, Any]:
    body, truncated = _body(response)
    headers = {
        name.lower(): value for name, value in response.headers.items() if name.lower() != "set-cookie"
    }
    result = {"status": response.status_code, "headers": headers, "url": url.partition("#")[0]}
    text = _text(body, response.encoding)
    if not truncated and "json" in headers.get("content-type", "").partition(";")[0]:
        try:
            return {**result, "json": _parsed(text), "truncated": False}
        except (ValueError, RecursionError):
            pass  # it only says that it is JSON
    return {**result, "text": text, "truncated": truncated}


def _body(response: Any) -> tuple[bytes, bool]:
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > MAX_BODY_BYTES:
            return bytes(body[:MAX_BODY_BYTES]), True
    return bytes(body), False


def _text(body: bytes, encoding: str | None) -> str:
    try:
        return body.decode(encoding or "utf-8", errors="replace")
    except LookupError:
        return body.decode(errors="replace")


def _parsed(text: str) -> Any:
    """JSON that can be written again: Python reads more than that."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _failure(hop: Hop, error: Exception) -> PoolsError:
    """What went wrong; never what was sent, which may hold secrets."""
    import httpx

    host, port = host_and_port(hop.url)
    if isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL):
        return _malformed(hop)
    untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
    reason = str(error) or type(error).__name__
    return PoolsError(
        "task_error",
        f"{hop.method} to {host!r}, port {port}, failed: {reason}.",
        "Check the server's certificate." if untrusted else "Check the server, or try again later.",
        retryable=not untrusted,
    )


def _malformed(hop: Hop) -> PoolsError:
    host, _ = host_and_port(hop.url)
    return PoolsError(
        "task_error",
        f"The request to {host!r} cannot be sent: its URL or a header holds what HTTP cannot carry.",
        "Look for line ends and for characters that are not ASCII, also in secrets.",
    )
