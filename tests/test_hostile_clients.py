"""Clients over HTTP that behave badly: the others do not notice."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp_types import PARSE_ERROR
from served import HEADERS, LEGACY, Server, modern
from waiting import until

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
STREAMS = 1000
MEMBERS = [
    ("jsonrpc",),
    ("id",),
    ("method",),
    ("params",),
    ("params", "name"),
    ("params", "arguments"),
    ("params", "_meta"),
    ("params", "_meta", "progressToken"),
    ("params", "_meta", "io.modelcontextprotocol/protocolVersion"),
    ("params", "_meta", "io.modelcontextprotocol/clientCapabilities"),
]


def request(server: Server, method: str, params: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    message, headers = modern(method, params)
    body = json.dumps(message).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in (HEADERS | headers).items()]
    head = [f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{server.port}", *lines, f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def works(server: Server) -> bool:
    """Whether a task is run for somebody else just now."""
    message, headers = modern(
        "tools/call", {"name": "pool_execute", "arguments": {"task_type": "echo", "payload": {}}}
    )
    status, answer = server.post(message, **headers)
    return status == 200 and answer["result"]["structuredContent"]["status"] == "completed"


def works_again(server: Server) -> None:
    """Returns once it does: what was refused or given up may take a moment to be gone."""
    asyncio.run(until(lambda: works(server), "the server works"))


def test_a_thousand_streams_leave_room_for_others(server: Server) -> None:
    """Beyond a bound they are refused at once; the server stays alive, and its room comes back."""
    listen = request(
        server, "subscriptions/listen", {"notifications": {"resourceSubscriptions": ["pools://pools"]}}
    )
    with ExitStack() as stack:
        streams = []
        for _ in range(STREAMS):
            stream = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            stream.sendall(listen)
            streams.append(stream)
        statuses = [stream.recv(12).split()[1] for stream in streams]
        assert set(statuses) == {b"200", b"503"} and statuses.count(b"200") > 100
        assert server.ask("GET", "/healthz")[0] == 200
    works_again(server)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that several tests may ask."""
    home = tmp_path_factory.mktemp("one") / "state"
    server = Server(home, {**os.environ, "MCP_POOLS_HOME": str(home)})
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def test_any_json_is_answered(one_server: Server) -> None:
    """What is no request gets an error of the protocol; the server goes on."""

    @settings(max_examples=300)
    @given(body=JSON, era=st.booleans())
    def answered(body: Any, era: bool) -> None:
        headers = modern("tools/list", {})[1] if era else LEGACY
        status, answer = one_server.post(json.dumps(body), **headers)
        assert 400 <= status < 500 and "error" in answer and "Traceback" not in json.dumps(answer)

    answered()
    works_again(one_server)


def test_any_member_of_a_request_may_be_wrong(one_server: Server) -> None:
    """A request with one member replaced by anything: a result or an error, never a crash."""

    @settings(max_examples=300)
    @given(path=st.sampled_from(MEMBERS), value=JSON)
    def answered(path: tuple[str, ...], value: Any) -> None:
        message, headers = modern("tools/call", {"name": "pool_list", "arguments": {}})
        place: Any = message
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        status, answer = one_server.post(message, **headers)
        assert status < 500 and ("error" in answer or "result" in answer or answer == ""), (status, answer)
        assert "Traceback" not in json.dumps(answer) and "pydantic" not in json.dumps(answer)

    answered()
    works_again(one_server)


@pytest.mark.parametrize("body", [b"\xff\xfe{", b"[" * 100_000, b'{"a":' * 50_000, b"\x00" * 1000])
def test_bytes_that_are_no_json_are_a_parse_error(one_server: Server, body: bytes) -> None:
    """Whatever their depth or encoding."""
    status, answer = one_server.ask("POST", "/mcp", body, **(HEADERS | modern("tools/list", {})[1]))
    assert status == 400 and answer["error"]["code"] == PARSE_ERROR
    works_again(one_server)


def test_a_client_that_never_reads_stops_nobody(one_server: Server) -> None:
    """Its answers wait in its own connection; its work is done all the same."""
    text = "x" * 20_000
    params = {"name": "pool_execute", "arguments": {"task_type": "echo", "payload": {"text": text}}}
    with socket.create_connection(("127.0.0.1", one_server.port), timeout=20) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        for _ in range(20):
            deaf.sendall(request(one_server, "tools/call", params))
        works_again(one_server)
