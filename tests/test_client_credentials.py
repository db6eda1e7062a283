"""Tokens by client credentials: from a real authorization server, for a real federation."""

import asyncio
import json
import os

import issuers
import pytest
from issuers import CLIENT, SECRET
from served import Server

from mcp_pools import Router, Settings
from mcp_pools.adapter import Surroundings
from mcp_pools.adapters.mcp import McpPool
from mcp_pools.client_credentials import ClientCredentials, Credentials, credentials
from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec
from mcp_pools.tools import pool_execute, pool_health

pytestmark = pytest.mark.anyio

OAUTH = {"client_id": CLIENT, "client_secret": "client", "scope": "pools:execute"}


@pytest.fixture
def issuer():
    """The authorization server."""
    with issuers.running() as running:
        yield running


@pytest.fixture(scope="module")
def module_issuer():
    """One for the peer, which keeps its keys."""
    with issuers.running() as running:
        yield running


@pytest.fixture(scope="module")
def peer(module_issuer, tmp_path_factory):
    """A server that wants tokens of it."""
    home = tmp_path_factory.mktemp("peer")
    auth = json.dumps({"issuer": module_issuer.url})
    environment = {**os.environ, "MCP_POOLS_HOME": str(home), "MCP_POOLS_AUTH": auth}
    server = Server(home, environment)
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    """What the client knows."""
    monkeypatch.setenv("CLIENT_SECRET", SECRET)


def delegating(home, peer, **oauth):
    """A router whose one pool is there, for a client."""
    options = {"oauth": {**OAUTH, **oauth}}
    far = {"type": "mcp", "endpoint": peer.url, "options": options}
    return Router.open(Settings(home=home, pools={"far": far}, secrets={"client": {"env": "CLIENT_SECRET"}}))


async def echoed(router, number):
    """Whether a task runs there."""
    task = await pool_execute(router, task_type="echo", payload={"x": number})
    return (task.status, task.result) == ("completed", {"x": number})


async def test_a_federation_by_client_credentials(home, peer, module_issuer) -> None:
    """The server's metadata leads to the issuer; one token serves all calls while it is valid."""
    async with delegating(home, peer, issuer=module_issuer.url) as router:
        before = module_issuer.asked["tokens"]
        assert [await echoed(router, number) for number in range(3)] == [True] * 3
        assert module_issuer.asked["tokens"] == before
    assert await peer_callers(peer, module_issuer) == {CLIENT}


async def peer_callers(peer, issuer):
    """As whom the peer has run tasks."""
    token = issuer.token(aud=peer.url, scope="pools:admin", sub="root")
    arguments = {"name": "pool_search", "arguments": {}}
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**arguments, "_meta": meta}}
    headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "pool_search"}
    _, said = await asyncio.to_thread(peer.post, message, Authorization=f"Bearer {token}", **headers)
    return {task["caller"] for task in said["result"]["structuredContent"]["tasks"]}


async def test_an_issuer_may_want_the_secret_in_the_form(home, peer, module_issuer, monkeypatch) -> None:
    """Its metadata says so."""
    monkeypatch.setattr(module_issuer, "method", "client_secret_post")
    async with delegating(home, peer) as router:
        assert await echoed(router, 1)


async def test_a_token_is_renewed_when_its_time_is_over(home, peer, module_issuer, monkeypatch) -> None:
    """Without losing the connection."""
    monkeypatch.setattr(module_issuer, "lifetime", 0)
    async with delegating(home, peer, token_url=f"{module_issuer.url}/token") as router:
        before = module_issuer.asked["tokens"]
        assert await echoed(router, 1)
        assert module_issuer.asked["tokens"] > before


async def test_a_token_that_the_server_refuses_is_replaced(home, peer, module_issuer, monkeypatch) -> None:
    """At once: the refused request is sent again with the next one."""
    monkeypatch.setattr(module_issuer, "stale", 1)
    async with delegating(home, peer) as router:
        assert module_issuer.stale == 0
        assert (await pool_health(router)).status == "healthy"
        assert await echoed(router, 1)


async def test_a_client_that_the_issuer_does_not_know_waits_with_its_reason(
    home, peer, module_issuer, monkeypatch
) -> None:
    """Until the secret is right: nothing is lost meanwhile."""
    monkeypatch.setenv("CLIENT_SECRET", "wrong")
    async with delegating(home, peer) as router:
        report = (await pool_health(router)).pools[0]
        assert report.status == "unhealthy" and "HTTP 401, invalid_client" in report.reason
        assert "wrong" not in report.reason
        task = await pool_execute(router, task_type="echo", payload={"x": 1}, wait=False)
        assert (task.status, task.waiting.code) == ("queued", "pool_unhealthy")
        monkeypatch.setenv("CLIENT_SECRET", SECRET)
        assert await echoed(router, 2)


async def test_the_secret_is_shown_to_no_other_issuer(home, peer, issuer, module_issuer) -> None:
    """The server's metadata names one, the configuration another."""
    async with delegating(home, peer, issuer=issuer.url) as router:
        report = (await pool_health(router)).pools[0]
    assert "another than options.oauth.issuer" in report.reason
    assert issuer.asked["tokens"] == 0


async def test_a_server_that_refuses_every_token_does_not_make_us_hammer_the_issuer(issuer) -> None:
    """One more is asked for, not one for each request."""
    asked = Credentials(**{**OAUTH, "token_url": f"{issuer.url}/token"})
    bearer = ClientCredentials("http://127.0.0.1:1/mcp", asked, lambda name: SECRET)
    first = await bearer.token()
    second = await bearer.token(refused=first)
    assert await bearer.token(refused=second) == second
    assert await bearer.token() == second and issuer.asked["tokens"] == 2


async def test_many_calls_at_once_ask_for_one_token(issuer) -> None:
    """Also when the one they had was refused to all of them."""
    asked = Credentials(**{**OAUTH, "token_url": f"{issuer.url}/token"})
    bearer = ClientCredentials("http://127.0.0.1:1/mcp", asked, lambda name: SECRET)
    assert len({*await asyncio.gather(*(bearer.token() for _ in range(20)))}) == 1
    assert issuer.asked["tokens"] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text", "should be"),
        ({"client_id": "us"}, "client_secret: field required"),
        ({**OAUTH, "token_url": "http://far.example/token"}, "https"),
        ({**OAUTH, "issuer": "ftp://far.example"}, "https"),
        ({**OAUTH, "token": "abc"}, "token: extra"),
    ],
)
def test_another_shape_is_refused(given, said) -> None:
    """Without a value in the message."""
    with pytest.raises(PoolsError, match=said) as refused:
        credentials("far", given)
    assert "abc" not in str(refused.value)


@pytest.mark.parametrize(
    ("endpoint", "options", "said"),
    [
        ("http://far.example", {"oauth": OAUTH}, "unencrypted"),
        ("https://far.example", {"oauth": OAUTH, "token_secret": "far"}, "both"),
    ],
)
def test_a_definition_that_would_leak_a_token_is_refused(tmp_path, endpoint, options, said) -> None:
    """Before anything is asked."""
    spec = PoolSpec(name="far", type="mcp", endpoint=endpoint, options=options)
    with pytest.raises(PoolsError, match=said):
        McpPool(spec, Surroundings(tmp_path, {}))
