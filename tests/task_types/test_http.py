"""`http` reaches the hosts that are allowed and no others, wherever it is sent."""

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from certificates import certificate
from pydantic import ValidationError

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import http_request
from mcp_pools.task_types.web import HTTP, HttpResult
from mcp_pools.tools import pool_execute


class Server:
    """A real server on the loopback; answers by path, and remembers what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                asked = {"method": self.command, "path": self.path, "body": body}
                server.asked.append({**asked, **{k.lower(): v for k, v in self.headers.items()}})
                status, headers, content = server.answers.get(self.path, (200, {}, b"hello"))
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def redirect(self, path: str, to: str, status: int = 302) -> None:
        """Answer `path` with a redirect."""
        self.answers[path] = (status, {"location": to}, b"")

    def close(self) -> None:
        """No thread is left."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server."""
    with closing(Server()) as opened:
        yield opened


@pytest.fixture
def other() -> Iterator[Server]:
    """Another server."""
    with closing(Server()) as opened:
        yield opened


def ask(context: Any, url: str, *hosts: str, **payload: Any) -> dict[str, Any]:
    """The result of a request, which always fits its model."""
    hosts = hosts or ("127.0.0.1",)
    result = http_request.run({"url": url, "allowed_hosts": list(hosts), **payload}, context)
    HttpResult.model_validate(json.loads(json.dumps(result)))
    return result


def refusal(context: Any, url: str, *hosts: str, code: str = "not_allowed", **payload: Any) -> PoolsError:
    """The error of a request that is refused or fails."""
    with pytest.raises(PoolsError) as error:
        ask(context, url, *hosts, **payload)
    assert error.value.code == code, error.value
    return error.value


# --- requests and responses ----------------------------------------------------------------


def test_what_is_asked_arrives(context: Any, server: Server) -> None:
    """Method, path, headers and JSON; nothing of this machine's beside them."""
    ask(context, f"{server.url}/a%20b?c=d#e", method="POST", headers={"X-One": "1"}, json={"k": [1, None]})
    (asked,) = server.asked
    assert (asked["method"], asked["path"], asked["x-one"]) == ("POST", "/a%20b?c=d", "1")
    assert (asked["content-type"], json.loads(asked["body"])) == ("application/json", {"k": [1, None]})
    assert (asked["host"], asked["user-agent"]) == (f"127.0.0.1:{server.port}", "mcp-pools")
    assert "authorization" not in asked and "cookie" not in asked


@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
def test_any_status_is_a_result(context: Any, server: Server, status: int) -> None:
    """The server answered; what that means is the caller's to say."""
    server.answers["/"] = (status, {"X-A": "b", "Set-Cookie": "session=secret"}, b"")
    result = ask(context, server.url)
    assert (result["status"], result["text"], result["url"]) == (status, "", server.url)
    assert result["headers"]["x-a"] == "b" and "secret" not in json.dumps(result)


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b'{"a": 1}', {"json": {"a": 1}}),
        ("application/problem+json; charset=utf-8", b"null", {"json": None}),
        ("application/json", b"{", {"text": "{"}),
        ("application/json", b"NaN", {"text": "NaN"}),
        ("application/json", b'"\\ud800"', {"text": '"\\ud800"'}),
        ("text/plain; charset=latin-1", b"\xe9", {"text": "é"}),
        ("text/plain; charset=nonsense", "é".encode(), {"text": "é"}),
        ("image/png", b"\x89PNG\xff", {"text": "\ufffdPNG\ufffd"}),
    ],
)
def test_a_body_is_json_or_text(
    context: Any, server: Server, content_type: str, body: bytes, expected: dict[str, Any]
) -> None:
    """What only says that it is JSON is text."""
    server.answers["/"] = (200, {"content-type": content_type}, body)
    result = ask(context, server.url)
    assert {key: result[key] for key in ("json", "text") if key in result} == expected


def test_a_long_body_is_cut_also_when_it_came_packed(
    context: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kilobytes can unpack to any length."""
    monkeypatch.setattr(http_request, "MAX_BODY_BYTES", 1000)
    server.answers["/plain"] = (200, {"content-type": "application/json"}, b"[" + b"1," * 5000 + b"1]")
    server.answers["/packed"] = (200, {"content-encoding": "gzip"}, gzip.compress(b"x" * 10**7))
    server.answers["/fits"] = (200, {}, b"x" * 1000)
    for path, truncated in [("/plain", True), ("/packed", True), ("/fits", False)]:
        result = ask(context, server.url + path)
        assert (len(result["text"]), result["truncated"]) == (1000, truncated)


# --- where it may go -----------------------------------------------------------------------


def test_redirects_are_followed(context: Any, server: Server) -> None:
    """The result says where it came from."""
    server.redirect("/a", "/b?x=1")
    server.redirect("/b?x=1", f"{server.url}/c#part")
    result = ask(context, f"{server.url}/a")
    assert (result["url"], result["text"]) == (f"{server.url}/c", "hello")


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "PUT", "PUT"),
        (303, "PUT", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
def test_methods_change_as_in_browsers(
    context: Any, server: Server, status: int, method: str, then: str
) -> None:
    """And what is sent with them."""
    server.redirect("/a", "/b", status)
    ask(context, f"{server.url}/a", method=method, json={"k": 1})
    assert [asked["method"] for asked in server.asked] == [method, then]
    assert server.asked[1]["body"] == (b"" if then == "GET" else b'{"k": 1}')


@pytest.mark.parametrize("hosts", [(), ("*",), ("*.example.com",)])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_redirect_to_a_private_address_is_refused(
    context: Any, server: Server, other: Server, hosts: tuple[str, ...], name: str
) -> None:
    """A wildcard does not name it, by whatever name it goes; nothing is sent there."""
    server.redirect("/", f"http://{name}:{other.port}/")
    error = refusal(context, server.url, f"127.0.0.1:{server.port}", *hosts)
    assert "127.0.0.1" in error.message or "localhost" in error.message
    assert "allow.hosts" in error.next and not other.asked


def test_another_server_gets_no_header_it_could_misuse(context: Any, server: Server, other: Server) -> None:
    """Also when both are allowed; the same server gets them again."""
    server.redirect("/", "/again")
    server.redirect("/again", other.url)
    ask(context, server.url, headers={"Authorization": "x", "X-Key": "y", "Accept": "a/b"})
    assert [asked.get("authorization") for asked in server.asked] == ["x", "x"]
    assert not {"authorization", "x-key"} & set(other.asked[0]) and other.asked[0]["accept"] == "a/b"


def test_redirects_end(context: Any, server: Server) -> None:
    """After five, and at what is no URL of the web."""
    server.redirect("/", "/")
    assert "more than 5 times" in refusal(context, server.url, code="task_error").message
    assert len(server.asked) == 6
    for target in ("file:///etc/passwd", "http://[", "http://a b/"):
        server.redirect("/", target)
        assert "not an http or https URL" in refusal(context, server.url, code="task_error").message


def test_the_judged_address_is_connected_to(
    context: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second answer of the name's server would not be asked for: it might lead elsewhere."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(str(host))
        return real("127.0.0.1" if host == "named.test" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    result = ask(context, f"http://named.test:{server.port}/", "named.test")
    assert result["url"] == f"http://named.test:{server.port}/"
    assert server.asked[0]["host"] == f"named.test:{server.port}"
    assert asked.count("named.test") == 1


def test_the_next_address_is_tried(context: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody listens at the first."""
    monkeypatch.setattr("mcp_pools.policy.resolve_addresses", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    assert ask(context, f"http://named.test:{server.port}/", "named.test")["status"] == 200


def test_a_server_that_is_not_there_may_be_later(context: Any) -> None:
    """A failed connection is worth another attempt, if the caller allows one."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    error = refusal(context, f"http://127.0.0.1:{port}/", code="task_error")
    assert error.retryable and str(port) in error.message


@pytest.mark.parametrize("value", ["line\r\nx-evil: 1", "läng"])
def test_a_secret_that_no_header_can_hold_is_not_shown(context: Any, server: Server, value: str) -> None:
    """The message says what to look for."""
    error = refusal(context, server.url, code="task_error", headers={"authorization": value})
    assert value not in str(error) and "line" not in error.message and not server.asked


# --- TLS -----------------------------------------------------------------------------------


def test_the_certificate_is_that_of_the_name_not_of_the_address(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one of another name, or of nobody's, is no connection; trying again would not help."""
    serving, trusting = certificate(tmp_path, "named.test")
    monkeypatch.setattr("mcp_pools.policy.resolve_addresses", lambda host, port: ["127.0.0.1"])
    with closing(Server(serving)) as server:
        url = f"https://named.test:{server.port}/"
        assert not refusal(context, url, "*.test", code="task_error").retryable
        monkeypatch.setattr(http_request, "_tls", lambda: trusting)
        assert ask(context, url, "*.test")["text"] == "hello"
        error = refusal(context, url.replace("named", "other"), "*.test", code="task_error")
        assert "certificate" in error.next


# --- what is judged first, and the whole way -----------------------------------------------


def check(payload: dict[str, Any], *hosts: str) -> dict[str, Any]:
    """What is stored of a payload; nobody's name is looked up."""

    def resolve(host: str, port: int) -> list[str]:
        return [str(ip_address(host))]

    assert HTTP.check is not None
    judge = Judge(Allow(hosts=hosts), (), "/", resolve_host=resolve)
    return HTTP.check(HTTP.payload.model_validate(payload).model_dump(by_alias=True), judge)


def test_what_needs_no_lookup_is_refused_before_it_is_queued() -> None:
    """What does is left to the worker, with the entries to judge by."""
    assert check({"url": "https://example.com"}, "*.com", "10.*")["allowed_hosts"] == ["*.com", "10.*"]
    for url, hosts in [
        ("https://example.com", ()),
        ("https://example.com", ("*.org",)),
        ("http://127.0.0.1/", ("*",)),
        ("http://[::1]/", ("*",)),
        ("http://169.254.169.254/latest", ("*",)),
        ("http://10.0.0.1/", ("10.0.1.0/24",)),
    ]:
        with pytest.raises(PoolsError, match=r"allow\.hosts "):
            check({"url": url}, *hosts)


@pytest.mark.parametrize(
    "payload",
    [
        {"url": "ftp://example.com/"},
        {"url": "http://["},
        {"url": "https://user:pass@example.com/"},
        {"url": "https://example.com/", "headers": {"Host": "internal"}},
        {"url": "https://example.com/", "headers": {"Content-Length": "1"}},
    ],
)
def test_what_would_mislead_is_invalid(payload: dict[str, Any]) -> None:
    """A password in a URL would be stored; a Host header would lead past the judge."""
    with pytest.raises(PoolsError) as error:
        check(payload, "*")
    assert error.value.code == "invalid_payload" and "pass@" not in str(error.value)


@pytest.mark.parametrize(
    "payload", [{}, {"url": "http://a", "allowed_hosts": ["*"]}, {"url": "http://a", "method": "BREW"}]
)
def test_no_payload_says_itself_what_is_allowed(payload: dict[str, Any]) -> None:
    """The key under which it is stored belongs to the judge."""
    with pytest.raises(ValidationError):
        HTTP.payload.model_validate(payload)


@pytest.mark.anyio
async def test_a_worker_sends_secrets_that_nobody_keeps(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the tool to the server and back; the store and the log never saw it."""
    monkeypatch.setenv("KEY_OF_TEST", "Bearer s3cr3t-of-test")
    server.answers["/"] = (200, {"content-type": "application/json"}, b'{"ok": true}')
    settings = Settings(home=home, allow=Allow(hosts=("127.0.0.1",)), secrets={"KEY": {"env": "KEY_OF_TEST"}})
    async with Router.open(settings) as router:
        payload = {"url": server.url, "headers": {"Authorization": {"$secret": "KEY"}}, "json": [1]}
        task = await pool_execute(router, task_type="http", payload={**payload, "method": "POST"})
        assert task.result is not None and task.result["json"] == {"ok": True}
        assert server.asked[0]["authorization"] == "Bearer s3cr3t-of-test"
        with pytest.raises(PoolsError, match="looks like a secret"):
            await pool_execute(
                router, task_type="http", payload={"url": server.url, "headers": {"authorization": "x"}}
            )
    for file in home.rglob("*"):
        assert not file.is_file() or b"s3cr3t-of-test" not in file.read_bytes(), file
