"""The client over both transports, against peers that follow the protocol."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from peers import HttpPeer, OwnerPeer, http_peer, ok, owner_peer, refused, rpc

from mcp_pools.client import Client, HttpTransport, SocketTransport, Unreachable
from mcp_pools.errors import PoolsError
from mcp_pools.home import Hello, connect


def _client(peer: OwnerPeer) -> Client:
    return Client(SocketTransport(connect(peer.home, Hello.here("console"))))


def test_a_call_returns_the_structured_content(tmp_path: Path) -> None:
    with owner_peer(tmp_path, lambda name, arguments, say: ok({"name": name, **arguments})) as peer:
        client = _client(peer)
        assert client.call("pool_get", {"name": "local"}) == ({"name": "local"}, False)
        assert client.call("pool_list", {}) == ({"name": "pool_list"}, False)
        client.close()
    assert peer.hellos[0]["kind"] == "console"
    assert [each["id"] for each in peer.received] == [1, 2]
    assert peer.received[0]["params"]["_meta"]["progressToken"] == 1


def test_a_refusal_says_so(tmp_path: Path) -> None:
    with owner_peer(tmp_path, lambda *_: refused("unknown_pool", "No pool 'x'.")) as peer:
        client = _client(peer)
        data, is_error = client.call("pool_get", {"name": "x"})
        client.close()
    assert is_error
    assert data["error"]["code"] == "unknown_pool"


def test_progress_arrives_before_the_answer(tmp_path: Path) -> None:
    def answer(name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any]:
        said = {"progressToken": 1, "progress": 2, "total": 4, "message": "half"}
        say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
        return ok({})

    seen: list[Any] = []
    with owner_peer(tmp_path, answer) as peer:
        client = _client(peer)
        client.call("pool_execute", {}, lambda *words: seen.append(words))
        client.close()
    assert seen == [(2, 4, "half")]


def test_an_owner_that_leaves_before_the_answer_is_no_silent_success() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    client = Client(SocketTransport(ours))
    with pytest.raises(Unreachable, match="ended before the answer"):
        client.call("pool_execute", {})
    client.close()


def test_an_interrupt_cancels_the_request(tmp_path: Path) -> None:
    def interrupt(name: str, arguments: dict[str, Any], say: Any) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with owner_peer(tmp_path, interrupt) as peer:
        client = _client(peer)
        with pytest.raises(KeyboardInterrupt):
            client.call("pool_execute", {})
        client.close()
        assert peer.ended.wait(10)
    last = peer.received[-1]
    assert (last["method"], last["params"]["requestId"]) == ("notifications/cancelled", 1)


def _over_http(server: HttpPeer, token: str | None = None) -> Any:
    client = Client(HttpTransport(server.url, token))
    try:
        return client.call("pool_list", {"active_only": True})
    finally:
        client.close()


def test_http_posts_one_modern_call() -> None:
    with http_peer(lambda body: (200, "application/json", rpc(body, ok({"total": 0})))) as server:
        assert _over_http(server, "secret") == ({"total": 0}, False)
    path, headers, body = server.requests[0]
    assert path == "/mcp"
    assert headers["mcp-protocol-version"] == "2026-07-28"
    assert (headers["mcp-method"], headers["mcp-name"]) == ("tools/call", "pool_list")
    assert headers["authorization"] == "Bearer secret"
    assert body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


def test_http_reads_a_stream_of_events() -> None:
    def stream(body: dict[str, Any]) -> tuple[int, str, bytes]:
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
        events = f"event: message\r\ndata: {json.dumps(progress)}\r\n\r\n: ping\r\n\r\n".encode()
        return 200, "text/event-stream", events + b"data: " + rpc(body, ok({"total": 1})) + b"\r\n\r\n"

    seen: list[Any] = []
    with http_peer(stream) as server:
        client = Client(HttpTransport(server.url))
        assert client.call("pool_list", {}, lambda *words: seen.append(words)) == ({"total": 1}, False)
        client.close()
    assert seen == [(1, None, None)]


def test_a_server_that_is_not_mcp_is_no_server() -> None:
    no_answer = pytest.raises(Unreachable, match="nothing answers at http")
    with http_peer(lambda body: (404, "text/html", b"<h1>no</h1>")) as server, no_answer:
        _over_http(server)


def test_a_server_that_wants_a_token_says_which_variable_to_set() -> None:
    refused = pytest.raises(PoolsError, match="MCP_POOLS_TOKEN")
    with http_peer(lambda body: (401, "application/json", b"{}")) as server, refused:
        _over_http(server)


def test_a_protocol_error_is_a_refusal() -> None:
    def unknown(body: dict[str, Any]) -> tuple[int, str, bytes]:
        error = {"code": -32602, "message": "Unknown tool: pool_x"}
        return 400, "application/json", json.dumps({"id": body["id"], "error": error}).encode()

    with http_peer(unknown) as server:
        data, is_error = _over_http(server)
    assert is_error
    assert data["error"]["message"] == "Unknown tool: pool_x"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://nowhere.invalid", "ftp://x", "http://a:b", "http://[x"]
)
def test_nothing_there(url: str) -> None:
    client = Client(HttpTransport(url))
    with pytest.raises(Unreachable, match="Start a server there with 'mcp-pools serve --http HOST:PORT'"):
        client.call("pool_list", {})
    client.close()


def test_the_sdk_server_understands_the_call(unused_port: int) -> None:
    """The same call against the official SDK's own server."""
    uvicorn = pytest.importorskip("uvicorn")
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("peer", log_level="ERROR")

    @server.tool()
    def pool_list(active_only: bool = False) -> dict[str, Any]:
        return {"total": int(active_only)}

    config = uvicorn.Config(server.streamable_http_app(), port=unused_port, log_level="error")
    running = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", unused_port))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        client = Client(HttpTransport(f"http://127.0.0.1:{unused_port}"))
        assert client.call("pool_list", {"active_only": True}) == ({"total": 1}, False)
        client.close()
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("status", "words"), [(413, "max_payload_bytes"), (421, "http_allowed_hosts"), (503, "Try again")]
)
def test_a_server_that_turns_a_request_away_says_what_to_do(status: int, words: str) -> None:
    turned_away = pytest.raises(Unreachable, match=rf"\({status}\).*{words}")
    with http_peer(lambda body: (status, "text/plain", b"no")) as server, turned_away:
        _over_http(server)
