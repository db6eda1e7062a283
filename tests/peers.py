"""Real peers for the console's tests: an owner on a Unix socket, a server on a port."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mcp_pools import __version__
from mcp_pools.doors.hello import Reply
from mcp_pools.home import Home

Say = Callable[[dict[str, Any]], None]
Answer = Callable[[str, dict[str, Any], Say], "dict[str, Any] | None"]
"""From a tool's name and arguments to its result; `None` leaves the call unanswered."""


def ok(data: dict[str, Any]) -> dict[str, Any]:
    return {"structuredContent": data, "isError": False, "content": []}


def refused(code: str, message: str, next: str = "") -> dict[str, Any]:
    error = {"code": code, "message": message, "next": next, "details": {}}
    return {"structuredContent": {"error": error}, "isError": True, "content": []}


class OwnerPeer:
    """Speaks the owner's protocol: a hello and its reply, then JSON-RPC lines."""

    def __init__(self, home: Path, answer: Answer) -> None:
        self.home = Home(home)
        self.home.create()
        self.home.prepare_socket_directory()
        self.answer = answer
        self.hellos: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.home.socket))
        self._listener.listen()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join()
        self.home.forget_owner()

    def hang_up(self) -> None:
        """End the present connection, as an owner that dies does; the next one is answered."""
        if self._connection:
            with suppress(OSError):  # It may have ended by itself.
                self._connection.shutdown(socket.SHUT_RDWR)

    def called(self) -> list[tuple[str, dict[str, Any]]]:
        calls = [each["params"] for each in self.received if each["method"] == "tools/call"]
        return [(call["name"], call["arguments"]) for call in calls]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connection = connection
            with connection, connection.makefile("rb") as lines:
                self._session(connection, lines)
            self._connection = None
            self.ended.set()

    def _session(self, connection: socket.socket, lines: Any) -> None:
        self.hellos.append(json.loads(lines.readline()))
        connection.sendall(Reply(ok=True, version=__version__, pid=1).line())
        for line in lines:
            request = json.loads(line)
            self.received.append(request)
            if "id" not in request:
                continue
            params = request["params"]
            result = self.answer(params["name"], params["arguments"], lambda m: _send(connection, m))
            if result is not None:
                _send(connection, {"jsonrpc": "2.0", "id": request["id"], "result": result})


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


@contextmanager
def owner_peer(home: Path, answer: Answer) -> Iterator[OwnerPeer]:
    peer = OwnerPeer(home, answer)
    try:
        yield peer
    finally:
        peer.close()


class HttpPeer(ThreadingHTTPServer):
    """Answers every POST with what `reply` gives: a status, a content type and a body."""

    def __init__(self, reply: Callable[[dict[str, Any]], tuple[int, str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HttpPeer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, body))
        status, kind, answer = self.server.reply(body)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def http_peer(reply: Callable[[dict[str, Any]], tuple[int, str, bytes]]) -> Iterator[HttpPeer]:
    with HttpPeer(reply) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def rpc(body: dict[str, Any], result: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}).encode()
