"""Authorization over HTTP: a real server, a real issuer, and tokens of every wrong kind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import issuers
import pytest
from issuers import CLIENT, SECRET, Issuer
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from memory_servers import SessionBuddy
from served import CONSOLE, HEADERS, LEGACY, Server, modern

from mcp_pools.auth import ADMIN, EXECUTE, READ, SCOPES, covered, scope_of
from mcp_pools.doors.http_address import Address, listen
from mcp_pools.doors.issuer import metadata_places
from mcp_pools.doors.token_file import TokenFile
from mcp_pools.doors.tokens import tokens
from mcp_pools.errors import PoolsError
from mcp_pools.settings import Settings
from mcp_pools.tool import TOOLS

AUDIENCE = "https://pools.example.org/mcp"
FIXED = {
    "reader": "pools:read",
    "ann": "pools:execute",
    "bob": "pools:execute",
    "root": "pools:admin",
    "boss": "pools:admin",
}
ECHO = {"task_type": "echo", "payload": {"x": 1}}


def fixed(name: str) -> str:
    """The fixed token of somebody."""
    return f"fixed-token-of-{name}"


def token_file(directory: Path) -> Path:
    """A file with everybody's token: two as they are, two as digests."""
    lines = []
    for number, (name, scope) in enumerate(FIXED.items()):
        digest = hashlib.sha256(fixed(name).encode()).hexdigest()
        token = f"token: {fixed(name)}" if number % 2 else f"sha256: {digest}"
        lines.append(f"- {{subject: {name}, {token}, scopes: ['{scope}']}}")
    file = directory / "tokens.yaml"
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """The authorization server."""
    with issuers.running() as running:
        yield running


@pytest.fixture(scope="module")
def memory() -> Iterator[SessionBuddy]:
    """What its searches ask, too."""
    with closing(SessionBuddy()) as buddy:
        yield buddy


@pytest.fixture(scope="module")
def server(
    issuer: Issuer, memory: SessionBuddy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that takes fixed tokens, signed ones and opaque ones."""
    directory = tmp_path_factory.mktemp("auth")
    introspection = {"url": f"{issuer.url}/introspect", "client_id": CLIENT, "client_secret": "introspection"}
    auth = {
        "tokens_file": str(token_file(directory)),
        "issuer": issuer.url,
        "introspection": introspection,
    }
    environment = {
        **os.environ,
        "MCP_POOLS_HOME": str(directory / "state"),
        "MCP_POOLS_AUTH": json.dumps(auth),
        "MCP_POOLS_HTTP_PUBLIC_URL": AUDIENCE,
        "MCP_POOLS_SECRETS": '{"introspection": {"env": "CLIENT_SECRET"}}',
        "CLIENT_SECRET": SECRET,
        "MCP_POOLS_SESSION_BUDDY_POOL_URL": memory.url,
        "MCP_POOLS_MEMORY_SYNC_INTERVAL": "3600",
        "MCP_POOLS_MEMORY_SEARCH": "true",
    }
    started = Server(directory / "state", environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def headed(server: Server, token: str | None, message: Any, headers: dict[str, str]) -> httpx2.Response:
    """One request with a token; the response as it is."""
    bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
    all_of_them = {name.replace("_", "-"): value for name, value in (HEADERS | headers | bearer).items()}
    return httpx2.post(server.url, json=message, headers=all_of_them, timeout=20)


def called(server: Server, token: str | None, tool: str, **arguments: Any) -> Any:
    """A tool's structured content, of an error, too."""
    message, headers = modern("tools/call", {"name": tool, "arguments": arguments})
    answer = headed(server, token, message, headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]["structuredContent"]


def status(server: Server, token: str | None) -> int:
    """What a harmless request is answered."""
    return headed(server, token, *modern("tools/list", {})).status_code


# Tokens.


def test_without_a_token_nothing_is_answered_but_how_to_get_one(server: Server, issuer: Issuer) -> None:
    """In both eras; whether it lives can be asked by anybody."""
    for message, headers in (modern("tools/list", {}), (modern("tools/list", {})[0], LEGACY)):
        answer = headed(server, None, message, headers)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        place = "https://pools.example.org/.well-known/oauth-protected-resource/mcp"
        assert challenge == f'Bearer scope="pools:read", resource_metadata="{place}"'
    assert server.ask("GET", "/healthz")[0] == 200
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        assert server.ask("GET", path) == (
            200,
            {
                "resource": AUDIENCE,
                "authorization_servers": [issuer.url],
                "scopes_supported": list(SCOPES),
                "bearer_methods_supported": ["header"],
                "resource_name": "mcp-pools",
            },
        )


def test_a_signed_token_is_taken(server: Server, issuer: Issuer) -> None:
    """RSA and elliptic curves; the audience one of several, with or without its closing slash."""
    for token in (
        issuer.token(aud=AUDIENCE),
        issuer.token(aud=["https://other.example.org", f"{AUDIENCE}/"], algorithm="RS512"),
        issuer.token(aud=AUDIENCE, key=issuer.ec, algorithm="ES256", kid="ec"),
        issuer.token(aud=AUDIENCE, scope=None, scp=["pools:read"]),
    ):
        assert status(server, token) == 200


NOW = int(time.time())
WRONG: dict[str, Callable[[Issuer], str]] = {
    "forged": lambda issuer: issuer.token(aud=AUDIENCE, key=issuer.stranger),
    "expired": lambda issuer: issuer.token(aud=AUDIENCE, exp=NOW - 60),
    "without an end": lambda issuer: issuer.token(aud=AUDIENCE, exp=None),
    "not valid yet": lambda issuer: issuer.token(aud=AUDIENCE, nbf=NOW + 3600),
    "for somebody else": lambda issuer: issuer.token(aud="https://other.example.org/mcp"),
    "for anybody": lambda issuer: issuer.token(),
    "of another issuer": lambda issuer: issuer.token(aud=AUDIENCE, iss="https://other.example.org"),
    "of no issuer": lambda issuer: issuer.token(aud=AUDIENCE, iss=None),
    "of nobody": lambda issuer: issuer.token(aud=AUDIENCE, sub=None),
    "of the local user": lambda issuer: issuer.token(aud=AUDIENCE, sub="local"),
    "with a key nobody knows": lambda issuer: issuer.token(aud=AUDIENCE, kid="another"),
    "with a key for another algorithm": lambda issuer: issuer.token(
        aud=AUDIENCE, key=issuer.ec, algorithm="ES256", kid="rsa"
    ),
    "unsigned": lambda issuer: unsigned(issuer.claims(aud=AUDIENCE)),
    "signed with the public key as a secret": lambda issuer: confused(issuer, issuer.claims(aud=AUDIENCE)),
    "changed": lambda issuer: issuer.token(aud=AUDIENCE)[:-6] + "AAAAAA",
    "no token": lambda issuer: "a.b.c",
    "opaque and unknown": lambda issuer: "nobody-knows-this-one",
    "endless": lambda issuer: "x" * 9000,
}


def unsigned(claims: dict[str, Any]) -> str:
    """A token of the algorithm `none`."""
    return f"{encoded({'alg': 'none', 'kid': 'rsa'})}.{encoded(claims)}."


def confused(issuer: Issuer, claims: dict[str, Any]) -> str:
    """A token with HMAC, keyed with what everybody knows."""
    import hmac

    said = f"{encoded({'alg': 'HS256', 'kid': 'rsa'})}.{encoded(claims)}"
    key = json.dumps(issuer.public_keys()[0]).encode()
    mac = hmac.new(key, said.encode(), hashlib.sha256).digest()
    return f"{said}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def encoded(part: Any) -> str:
    """A part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_token_is_refused(server: Server, issuer: Issuer, kind: str) -> None:
    """Each as invalid, in the same words: who tries learns nothing."""
    answer = headed(server, WRONG[kind](issuer), *modern("tools/list", {}))
    assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert answer.json()["error_description"] == "The token is unknown, expired, or not for this server."


def test_made_up_keys_do_not_make_the_server_hammer_the_issuer(server: Server, issuer: Issuer) -> None:
    """Looking for keys has a pause."""
    assert status(server, issuer.token(aud=AUDIENCE)) == 200
    before = issuer.asked["keys"]
    for number in range(20):
        assert status(server, issuer.token(aud=AUDIENCE, kid=f"made-up-{number}")) == 401
    assert issuer.asked["keys"] <= before + 1


def test_an_opaque_token_is_asked_about_once(server: Server, issuer: Issuer) -> None:
    """And judged by what the issuer says."""
    issuer.opaque |= {
        "opaque-good": {"active": True, **issuer.claims(aud=AUDIENCE, sub="ola")},
        "opaque-revoked": {"active": False},
        "opaque-elsewhere": {"active": True, **issuer.claims(aud="https://other.example.org")},
        "opaque-for-anybody": {"active": True, **issuer.claims()},
        "opaque-expired": {"active": True, **issuer.claims(aud=AUDIENCE, exp=NOW - 1)},
        "opaque-stranger": {"active": True, **issuer.claims(aud=AUDIENCE, iss="https://other.example.org")},
    }
    before = issuer.asked["introspection"]
    assert [status(server, "opaque-good") for _ in range(3)] == [200] * 3
    assert issuer.asked["introspection"] == before + 1
    for wrong in issuer.opaque.keys() - {"opaque-good"}:
        assert status(server, wrong) == 401, wrong
    assert called(server, "opaque-good", "pool_execute", **ECHO)["caller"] == "ola"


def test_a_dead_issuer_is_no_reason_to_let_anybody_in(server: Server, issuer: Issuer) -> None:
    """Who cannot be judged comes again later; fixed tokens and known keys go on."""
    known = issuer.token(aud=AUDIENCE)
    assert status(server, known) == 200
    issuer.down = True
    try:
        answer = headed(server, "opaque-asked-while-it-is-down", *modern("tools/list", {}))
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert status(server, known) == 200 and status(server, fixed("ann")) == 200
    finally:
        issuer.down = False


# Scopes.


def test_each_scope_covers_those_before_it() -> None:
    """Execute reads, admin does everything; strangers' scopes count for nothing."""
    assert covered([READ]) == {READ} and covered([EXECUTE, "openid"]) == {READ, EXECUTE}
    assert covered([ADMIN]) == set(SCOPES) and covered(["pools:everything"]) == set()


def test_every_tool_has_its_scope() -> None:
    """What reads, what submits and cancels, and all else."""
    by_scope = {scope: {name for name, tool in TOOLS.items() if scope_of(tool) == scope} for scope in SCOPES}
    assert by_scope[READ] == {name for name, tool in TOOLS.items() if tool.effect == "read"}
    assert by_scope[EXECUTE] == {"pool_execute", "pool_distribute", "pool_cancel"}
    assert by_scope[ADMIN] == {"pool_register", "pool_scale", "pool_close", "pool_rebalance", "pool_discover"}


@pytest.mark.parametrize("name", FIXED)
def test_the_listing_has_what_the_token_allows(server: Server, name: str) -> None:
    """And nothing that would be refused."""
    answer = headed(server, fixed(name), *modern("tools/list", {})).json()["result"]["tools"]
    allowed = covered([FIXED[name]])
    assert [each["name"] for each in answer] == [n for n, tool in TOOLS.items() if scope_of(tool) in allowed]


@pytest.mark.parametrize(
    ("name", "tool", "scope"),
    [("reader", "pool_execute", EXECUTE), ("reader", "pool_close", ADMIN), ("ann", "pool_scale", ADMIN)],
)
@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_what_needs_more_is_a_403_that_names_the_scope(
    server: Server, name: str, tool: str, scope: str, era: str
) -> None:
    """So that a client can ask its user for it."""
    message, headers = modern("tools/call", {"name": tool, "arguments": {}})
    answer = headed(server, fixed(name), message, headers if era == "2026-07-28" else LEGACY)
    assert answer.status_code == 403 and answer.json()["error"] == "insufficient_scope"
    assert f'scope="{scope}"' in answer.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_a_header_that_hides_the_tool_gains_nothing(server: Server) -> None:
    """The server looks at what is really called."""
    message, headers = modern(
        "tools/call", {"name": "pool_scale", "arguments": {"name": "local", "workers": 0}}
    )
    answer = headed(server, fixed("ann"), message, headers | {"Mcp_Name": "pool_list"})
    assert answer.status_code == 400
    assert called(server, fixed("root"), "pool_get", name="local")["max_workers"] > 0


def test_a_token_without_any_of_our_scopes_may_do_nothing(server: Server, issuer: Issuer) -> None:
    """Whatever else it is good for."""
    answer = headed(server, issuer.token(aud=AUDIENCE, scope="openid email"), *modern("tools/list", {}))
    assert answer.status_code == 403 and f'scope="{READ}"' in answer.headers["www-authenticate"]


# Callers.


def test_the_tokens_subject_is_the_caller(server: Server, issuer: Issuer) -> None:
    """On the task, whoever issued the token."""
    assert called(server, fixed("ann"), "pool_execute", **ECHO)["caller"] == "ann"
    signed = issuer.token(aud=AUDIENCE, sub="user|42")
    assert called(server, signed, "pool_execute", **ECHO)["caller"] == "user|42"


def test_one_caller_cannot_see_anothers_tasks(server: Server) -> None:
    """Neither look, cancel, find, follow nor read: its id answers as one that is made up."""
    mine = called(server, fixed("ann"), "pool_execute", **ECHO, wait=False)["task_id"]
    whole = called(
        server, fixed("ann"), "pool_distribute", task_type="echo", payload={"x": "{item}", "items": [1, 2]}
    )
    part = whole["results"][0]["task_id"]
    for id in (mine, whole["distribution_id"], part):
        for tool in ("pool_task", "pool_cancel"):
            unknown = called(server, fixed("bob"), tool, task_id="t_made_up")["error"]
            told = called(server, fixed("bob"), tool, task_id=id)["error"]
            assert told == {**unknown, "message": unknown["message"].replace("t_made_up", id)}
        assert resource(server, "bob", f"pools://tasks/{id}")["error"]["code"] == -32602
        assert "result" in resource(server, "ann", f"pools://tasks/{id}")
        assert extension(server, "bob", "tasks/get", id)["error"]["code"] == -32602
        assert extension(server, "bob", "tasks/cancel", id)["error"]["code"] == -32602
        assert extension(server, "ann", "tasks/get", id)["result"]["taskId"] == id
        assert called(server, fixed("root"), "pool_task", task_id=id)["status"] in (
            "queued",
            "running",
            "completed",
        )
    found = [task["task_id"] for task in called(server, fixed("bob"), "pool_search", limit=100)["tasks"]]
    assert not {mine, part} & set(found)
    assert {mine, part} <= {
        t["task_id"] for t in called(server, fixed("ann"), "pool_search", limit=100)["tasks"]
    }
    assert not told_of(server, "bob") & {mine, whole["distribution_id"]}
    assert told_of(server, "ann") >= {mine, whole["distribution_id"]}


def test_memories_are_asked_for_those_alone_who_see_everything(server: Server, memory: SessionBuddy) -> None:
    """They hold everybody's tasks."""
    memory.kept.append(("Task t_0: quince of ann", []))
    for name in ("reader", "ann", "bob"):
        assert set(called(server, fixed(name), "pool_search", query="quince")) == {"tasks", "next_cursor"}
    assert memory.requests == 0
    [hit] = called(server, fixed("root"), "pool_search", query="quince")["memories"]
    assert hit["source"] == "session-buddy" and "quince of ann" in hit["text"]


def found(server: Server, name: str) -> set[str]:
    """The tasks that somebody's search finds."""
    return {task["task_id"] for task in called(server, fixed(name), "pool_search", limit=100)["tasks"]}


def resource(server: Server, name: str, uri: str) -> Any:
    """What reading a resource answers."""
    message, headers = modern("resources/read", {"uri": uri})
    return headed(server, fixed(name), message, headers | {"Mcp_Name": uri}).json()


def extension(server: Server, name: str, method: str, task_id: str) -> Any:
    """What a request of the tasks extension answers."""
    message, headers = modern(method, {"taskId": task_id})
    declared = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = declared
    return headed(server, fixed(name), message, headers | {"Mcp_Name": task_id}).json()


def told_of(server: Server, name: str) -> set[str]:
    """The tasks and distributions of which somebody's events tell."""
    events = called(server, fixed(name), "pool_watch")["events"]
    return {event["task_id"] or event["data"].get("distribution_id") for event in events}


def test_two_callers_may_use_the_same_idempotency_key(server: Server) -> None:
    """A key is its caller's: it neither finds nor refuses the other's task."""
    ids = [
        called(server, fixed(name), "pool_execute", **ECHO, idempotency_key="same")["task_id"]
        for name in ("ann", "bob", "ann")
    ]
    assert ids[0] == ids[2] != ids[1]


def test_a_session_is_that_of_the_token_that_opened_it(server: Server) -> None:
    """Another token finds no such session."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    session = headed(server, fixed("ann"), opening, {}).headers["mcp-session-id"]
    asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    headers = LEGACY | {"Mcp_Session_Id": session}
    assert headed(server, fixed("bob"), asked, headers).status_code == 404
    assert headed(server, fixed("ann"), asked, headers).status_code == 200


def test_what_one_was_asked_another_cannot_answer(server: Server) -> None:
    """The state between two rounds is its caller's."""
    called(server, fixed("root"), "pool_register", name="asked", type="local")
    message, headers = modern("tools/call", {"name": "pool_close", "arguments": {"name": "asked"}})
    message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {}}
    asked = headed(server, fixed("root"), message, headers).json()["result"]
    assert asked["resultType"] == "input_required"
    yes = {"confirm": {"action": "accept", "content": {"confirm": True}}}
    message["params"] |= {"inputResponses": yes, "requestState": asked["requestState"]}
    assert headed(server, fixed("boss"), message, headers).json()["error"]["code"] == -32602
    assert called(server, fixed("root"), "pool_get", name="asked")["status"] == "running"
    done = headed(server, fixed("root"), message, headers).json()["result"]["structuredContent"]
    assert done["status"] == "closed"


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])
async def test_the_sdks_client_works_with_a_token(server: Server, mode: Any) -> None:
    """As any other server's would."""
    bearer = httpx2.AsyncClient(headers={"Authorization": f"Bearer {fixed('ann')}"})
    async with bearer, Client(streamable_http_client(server.url, http_client=bearer), mode=mode) as client:
        assert "pool_execute" in [tool.name for tool in (await client.list_tools()).tools]
        answer = await client.call_tool("pool_execute", ECHO)
        assert answer.structured_content["caller"] == "ann"


def test_the_console_sends_its_token(server: Server) -> None:
    """From `MCP_POOLS_TOKEN`; without one it says so, and with too narrow a one it names the scope."""

    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **environment}
        line = [CONSOLE, *words, "--server", server.url]
        return subprocess.run(line, env=environ, capture_output=True, text=True, timeout=60)

    done = command("execute", "-t", "echo", "--payload", "x=1", MCP_POOLS_TOKEN=fixed("bob"))
    assert done.returncode == 0 and json.loads(done.stdout)["caller"] == "bob"
    refused = command("list")
    assert refused.returncode == 2 and "MCP_POOLS_TOKEN" in refused.stderr
    beyond = command("execute", "-t", "echo", "--payload", "x=1", MCP_POOLS_TOKEN=fixed("reader"))
    assert beyond.returncode == 2 and EXECUTE in beyond.stderr


# Narrowing.


@pytest.mark.parametrize(
    ("headers", "tools"),
    [
        ({"X_MCP_Readonly": "true"}, [name for name, tool in TOOLS.items() if tool.effect == "read"]),
        ({"X_MCP_Tools": "pool_list, pool_task"}, ["pool_task", "pool_list"]),
        ({"X_MCP_Toolsets": "pools"}, [name for name, tool in TOOLS.items() if tool.toolset == "pools"]),
        ({"X_MCP_Exclude_Tools": "pool_close"}, [name for name in TOOLS if name != "pool_close"]),
        ({"X_MCP_Readonly": "false"}, list(TOOLS)),
    ],
)
def test_headers_narrow_a_request(server: Server, headers: dict[str, str], tools: list[str]) -> None:
    """And nothing behind it."""
    message, own = modern("tools/list", {})
    answer = headed(server, fixed("root"), message, own | headers).json()["result"]["tools"]
    assert sorted(each["name"] for each in answer) == sorted(tools)
    gone = next((name for name in TOOLS if name not in tools), None)
    if gone is not None:
        message, own = modern("tools/call", {"name": gone, "arguments": {}})
        refused = headed(server, fixed("root"), message, own | headers).json()
        assert f"{gone} is switched off" in refused["error"]["message"]


def test_headers_widen_nothing(server: Server) -> None:
    """A tool that the token does not allow stays away when it is asked for by name."""
    message, own = modern("tools/list", {})
    answer = headed(server, fixed("reader"), message, own | {"X_MCP_Tools": "pool_close,pool_list"}).json()
    assert [each["name"] for each in answer["result"]["tools"]] == ["pool_list"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X_MCP_Tools": "pool_lst"}, "Did you mean 'pool_list'"),
        ({"X_MCP_Readonly": "maybe"}, "true or false"),
        ({"X_MCP_Pools_Depth": "-1"}, "X-MCP-Pools-Depth"),
        ({"X_MCP_Pools_Depth": "9" * 40}, "X-MCP-Pools-Depth"),
    ],
)
def test_a_header_that_says_nothing_known_is_refused(
    server: Server, headers: dict[str, str], said: str
) -> None:
    """A mistyped restriction must not be ignored."""
    message, own = modern("tools/list", {})
    answer = headed(server, fixed("root"), message, own | headers)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_task_that_calls_is_counted_as_deep(server: Server) -> None:
    """The header carries the depth, and the limit holds."""
    message, own = modern("tools/call", {"name": "pool_execute", "arguments": ECHO})
    answer = headed(server, fixed("ann"), message, own | {"X_MCP_Pools_Depth": "9"}).json()
    assert answer["result"]["structuredContent"]["error"]["code"] == "nesting_too_deep"


# Configuration.


@pytest.mark.anyio
async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A token that was taken out is worth nothing; while the file is wrong, none is."""
    file = token_file(tmp_path)
    judge = TokenFile(file)
    found = await judge.verify(fixed("ann"))
    assert found is not None and (found.subject, found.scopes) == ("ann", ["pools:execute"])
    file.write_text(f"- {{subject: ann, token: another-{fixed('ann')}, scopes: ['pools:read']}}")
    assert await judge.verify(fixed("ann")) is None
    file.write_text("- {subject: ann, scopes: ['pools:read']}")
    with pytest.raises(Exception, match="exactly one of token, sha256"):
        await judge.verify(fixed("ann"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to root")
def test_a_token_file_of_roots_may_be_read_by_its_group(tmp_path: Path) -> None:
    """So are Secrets mounted for who is not root; a user's own file is for the user alone."""
    file = token_file(tmp_path)
    file.chmod(0o440)
    TokenFile(file)
    os.chown(file, 65532, 65532)
    with pytest.raises(PoolsError, match="chmod 600"):
        TokenFile(file)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("[]", 0o644, "chmod 600"),
        ("- {subject: a, token: short, scopes: ['pools:read']}", 0o600, "entry.0.token: "),
        (
            "- {subject: a, token: 0123456789abcdef, scopes: ['pools:red']}",
            0o600,
            "Did you mean 'pools:read'",
        ),
        ("- {subject: local, token: 0123456789abcdef, scopes: ['pools:read']}", 0o600, "'local'"),
        ("{", 0o600, "no YAML"),
        ("- [" * 10, 0o600, "no YAML"),
    ],
)
def test_a_wrong_token_file_is_told_without_its_tokens(
    tmp_path: Path, text: str, mode: int, said: str
) -> None:
    """What is wrong with it, and what to do."""
    file = tmp_path / "tokens.yaml"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(PoolsError) as wrong:
        TokenFile(file)
    assert said in str(wrong.value) and "0123456789abcdef" not in str(wrong.value)
    assert "short" not in str(wrong.value).replace("shorter", "")


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({"issuer": "http://login.example.org"}, "https"),
        ({"audience": "x"}, "issuer"),
        ({"isuer": "https://login.example.org"}, "Did you mean 'issuer'"),
        (
            {
                "issuer": "https://a.example.org",
                "introspection": {"url": "https://a.example.org", "client_id": "a"},
            },
            "client_secret",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(auth: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Before anything is served."""
    with pytest.raises(PoolsError, match=said):
        Settings(home=tmp_path, auth=auth)


def test_what_is_served_everywhere_must_say_its_name(tmp_path: Path) -> None:
    """Else no token could be for it; and without any tokens it is not served at all."""
    settings = Settings(home=tmp_path, auth={"issuer": "https://login.example.org"})
    with pytest.raises(PoolsError, match="http_public_url"):
        tokens(settings, Address("0.0.0.0", 8680))
    with pytest.raises(PoolsError, match=r"auth\.tokens_file or auth\.issuer"):
        listen(Address("0.0.0.0", 0))
    listen(Address("0.0.0.0", 0), guarded=True).close()


def test_metadata_is_looked_for_where_it_may_be() -> None:
    """In the order of the MCP specification."""
    assert metadata_places("https://a.example.org/tenant") == [
        "https://a.example.org/.well-known/oauth-authorization-server/tenant",
        "https://a.example.org/.well-known/openid-configuration/tenant",
        "https://a.example.org/tenant/.well-known/openid-configuration",
    ]
    assert len(metadata_places("https://a.example.org/")) == 2
