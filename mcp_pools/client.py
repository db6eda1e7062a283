"""A tool call from outside the owner's process: over its socket, or to a server's URL.

Standard library only, because a whole console command has less time than importing an
SDK takes. Both transports carry the same JSON-RPC; `Client` reads the answer once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from mcp_pools import __version__
from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    import http.client
    import socket
    from urllib.parse import SplitResult

Message = dict[str, Any]
OnProgress = Callable[[float, float | None, str | None], None]

PROTOCOL_VERSION: Final = "2026-07-28"
_META: Final = "io.modelcontextprotocol/"
_SECONDS_TO_CONNECT: Final = 10.0
_SECONDS_OF_SILENCE: Final = 60.0
"""A server says something at least every 15 s while it works; one that does not is gone."""


class Unreachable(Exception):
    """Nothing answered, or the other side went away. The text says what to do."""


class Transport(Protocol):
    """One way to reach a server."""

    def exchange(self, request: Message) -> Iterator[Message]:
        """Send a request and yield what comes back, the answer among it.

        Raises:
            Unreachable: nobody answers.
            PoolsError: the server does not let this caller in.
        """

    def abandon(self, request: Message) -> None:
        """Tell the other side that nobody waits for the request any more."""

    def close(self) -> None:
        """Let the connection go."""


class Client:
    """Calls tools, one at a time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._sent = 0

    def call(
        self, tool_name: str, arguments: dict[str, Any], on_progress: OnProgress | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Call a tool and wait for its answer: the structured content, and whether it is a refusal.

        A refusal is `{"error": {"code", "message", "next", "details"}}`. An interrupt (Ctrl-C)
        cancels the request at the other side before it goes on.

        Raises:
            Unreachable: nobody answers.
            PoolsError: the server wants a token, or another one.
        """
        request = self._request(tool_name, arguments)
        try:
            answer = self._answer(request, on_progress)
            if asked := _asked(answer):  # the command was the human's word already
                request = self._request(tool_name, arguments, asked)
                answer = self._answer(request, on_progress)
            return _read(answer)
        except KeyboardInterrupt:
            self._transport.abandon(request)
            raise

    def close(self) -> None:
        """Let the connection go."""
        self._transport.close()

    def _request(self, tool_name: str, arguments: dict[str, Any], agreed: Message | None = None) -> Message:
        self._sent += 1
        meta = {
            "progressToken": self._sent,
            f"{_META}protocolVersion": PROTOCOL_VERSION,
            f"{_META}clientInfo": {"name": "mcp-pools", "version": __version__},
            f"{_META}clientCapabilities": {"elicitation": {"form": {}}},
        }
        if (trace := os.environ.get("TRACEPARENT")) is not None:
            meta["traceparent"] = trace
        params = {"name": tool_name, "arguments": arguments, **(agreed or {}), "_meta": meta}
        return {"jsonrpc": "2.0", "id": self._sent, "method": "tools/call", "params": params}

    def _answer(self, request: Message, on_progress: OnProgress | None) -> Message:
        for message in self._transport.exchange(request):
            if message.get("method") == "notifications/progress" and on_progress:
                params = message.get("params", {})
                on_progress(params.get("progress", 0), params.get("total"), params.get("message"))
            elif message.get("id") == request["id"] and "method" not in message:
                return message
        raise Unreachable(
            "the connection ended before the answer came; the work may have been accepted. "
            "Look at it with 'mcp-pools list' before you repeat the call."
        )


def _asked(answer: Message) -> Message | None:
    """What to send with the call once more when its human is asked to confirm it: yes."""
    result = answer.get("result")
    if not isinstance(result, dict) or result.get("resultType") != "input_required":
        return None
    yes = {"action": "accept", "content": {"confirm": True}}
    return {
        "inputResponses": dict.fromkeys(result.get("inputRequests") or {}, yes),
        "requestState": result.get("requestState"),
    }


def _read(answer: Message) -> tuple[dict[str, Any], bool]:
    """The structured content of an answer, whatever form it came in."""
    if "error" in answer:
        return refusal("invalid_payload", str(answer["error"].get("message", "refused"))), True
    result = answer.get("result", {})
    is_error = bool(result.get("isError"))
    structured = result.get("structuredContent")
    if not isinstance(structured, dict):
        text = "\n".join(str(part.get("text", "")) for part in result.get("content", ()))
        structured = refusal("invalid_payload", text) if is_error else {"text": text}
    return structured, is_error


def refusal(code: str, message: str, next: str = "") -> dict[str, Any]:
    """A refused call as a server would have said it."""
    return {"error": {"code": code, "message": message, "next": next, "details": {}}}


class SocketTransport:
    """The owner's socket: one JSON message a line. The hello has been exchanged already."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")

    def exchange(self, request: Message) -> Iterator[Message]:
        """Send a request and yield what comes back."""
        try:
            self._send(request)
            for line in self._lines:
                yield json.loads(line)
        except (OSError, ValueError):
            return  # The caller says what a missing answer means.

    def abandon(self, request: Message) -> None:
        """Cancel the request; the owner then cancels the task it stands for."""
        params = {"requestId": request["id"], "reason": "interrupted"}
        try:
            self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        except OSError:
            return  # An owner that is gone waits for nothing.

    def close(self) -> None:
        """Let the connection go."""
        self._lines.close()
        self._socket.close()

    def _send(self, message: Message) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")


class HttpTransport:
    """A server's URL: each call is one POST, answered with JSON or a stream of events."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token
        self._open: list[http.client.HTTPConnection | http.client.HTTPResponse] = []

    def exchange(self, request: Message) -> Iterator[Message]:
        """Post a request and yield what comes back."""
        import http.client

        try:
            response = self._post(request)
        except (OSError, ValueError, http.client.HTTPException) as failure:
            raise self._silence() from failure
        if response.status in (401, 403):
            raise self._not_known(response)
        if said := self._turned_away(response.status):
            raise Unreachable(said)
        kind = response.headers.get_content_type()
        if kind not in ("application/json", "text/event-stream"):
            raise self._silence()
        try:
            yield from _events(response) if kind == "text/event-stream" else _document(response)
        except (OSError, ValueError, http.client.HTTPException):
            return  # The caller says what a missing answer means.

    def abandon(self, request: Message) -> None:
        """Close the connection: the server takes it as the end of the request."""
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        for each in self._open:
            each.close()
        self._open.clear()

    def _post(self, request: Message) -> http.client.HTTPResponse:
        import http.client

        parts = self._parts()
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.close()
        connection = make(parts.hostname or "", parts.port, timeout=_SECONDS_TO_CONNECT)
        self._open.append(connection)
        connection.connect()
        connection.sock.settimeout(_SECONDS_OF_SILENCE)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, json.dumps(request).encode(), self._headers(request))
        response = connection.getresponse()
        self._open.append(response)
        return response

    def _parts(self) -> SplitResult:
        """The URL, with what people leave out: the scheme and the path."""
        from urllib.parse import urlsplit

        parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        if parts.scheme not in ("http", "https"):
            raise ValueError(self.url)
        return parts if parts.path.strip("/") else parts._replace(path="/mcp")

    def _headers(self, request: Message) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": PROTOCOL_VERSION,
            "Mcp-Method": request["method"],
            "Mcp-Name": request["params"]["name"],
        }
        if depth := os.environ.get("MCP_POOLS_DEPTH"):  # a task calls: the server counts how deep
            headers["X-MCP-Pools-Depth"] = depth
        return {**headers, "Authorization": f"Bearer {self._token}"} if self._token else headers

    def _silence(self) -> Unreachable:
        return Unreachable(
            f"nothing answers at {self.url}. Start a server there with "
            "'mcp-pools serve --http HOST:PORT', or leave out --server."
        )

    def _not_known(self, response: http.client.HTTPResponse) -> PoolsError:
        """The refusal of a server that wants another token."""
        scope = re.search(r'scope="([\w:. -]{1,100})"', response.headers.get("WWW-Authenticate", ""))
        if response.status == 403 and scope:
            message = f"The token for {self.url} lacks the scope {scope[1]}."
            return PoolsError("insufficient_scope", message, "Set MCP_POOLS_TOKEN to one that has it.")
        message = f"The server at {self.url} does not know this caller ({response.status})."
        return PoolsError("not_allowed", message, "Set MCP_POOLS_TOKEN to a token of that server.")

    def _turned_away(self, status: int) -> str | None:
        """What a status means with which a server answers before it looks at the call."""
        said = {
            413: "takes no request of this size (413). Send less, or raise its max_payload_bytes.",
            421: "does not answer to that name (421). Add the name to its http_allowed_hosts.",
            503: "is opening, leaving or full (503). Try again in a moment.",
        }
        return f"the server at {self.url} {said[status]}" if status in said else None


def _document(response: IO[bytes]) -> Iterator[Message]:
    message = json.loads(response.read())
    if isinstance(message, dict):
        yield message


def _events(response: IO[bytes]) -> Iterator[Message]:
    """The messages of a server-sent event stream."""
    data: list[bytes] = []
    for line in response:
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            data.append(text[5:].removeprefix(b" "))
        elif not text and data:
            yield json.loads(b"\n".join(data))
            data.clear()
