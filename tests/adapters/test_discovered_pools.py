"""What is found becomes pools that work: servers of every known kind, and contexts of a kubeconfig."""

import json
import socket
from contextlib import contextmanager
from dataclasses import replace

import pytest
import yaml
from far_server import running
from kubernetes_api import cluster
from served import Server

from mcp_pools import discovery
from mcp_pools.tools import pool_discover, pool_execute, pool_list

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """The machine may be busy."""
    monkeypatch.setattr(discovery, "PROBE_SECONDS", 20.0)


@contextmanager
def another_pools(directory, environment):
    """A second mcp-pools."""
    server = Server(directory, environment | {"MCP_POOLS_HOME": str(directory)})
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


async def found(router, **arguments):
    """What is discovered, by name."""
    return {each.name: each for each in (await pool_discover(router, **arguments)).found}


async def test_servers_of_every_known_kind_become_pools(open_router, user, home, environment) -> None:
    """Each says what it is; one of no known kind stays, for only a mapping could use it."""
    with (
        another_pools(home / "other", environment) as pools,
        running("buddy.py") as buddy,
        running("workers_server.py") as workers,
        running("any_server.py") as other,
    ):
        servers = {"far": pools, "buddy": buddy, "workers": workers, "other": other}
        named = {name: {"url": server.url} for name, server in servers.items()}
        (user / ".cursor").mkdir()
        (user / ".cursor/mcp.json").write_text(json.dumps({"mcpServers": named}))
        async with open_router(session_buddy_pool_url=buddy.url, allow={"prompts": ["*"]}) as router:
            before = await found(router)
            assert not any(each.registered for each in before.values())
            after = await found(router, auto_register=True)
            listed = {pool.name: pool for pool in (await pool_list(router)).pools}
            prompts = {name: listed[name].task_types for name in ("session-buddy", "workers")}
            done = await pool_execute(router, task_type="echo", payload={"x": 1}, pool="far")
    kinds = {"far": "another mcp-pools", "buddy": "Session-Buddy", "workers": "a server of workers"}
    assert all(kind in before[name].note for name, kind in kinds.items())
    assert "options.tools" in before["other"].note and not after["other"].registered
    assert {name for name, each in after.items() if each.registered} == {*kinds, "session-buddy"}
    assert {"far", "session-buddy", "workers"} <= set(listed) and "buddy" not in listed  # one for one address
    assert prompts == {"session-buddy": ["prompt"], "workers": ["prompt"]}
    assert done.result == {"x": 1}


def kubeconfig(file, **servers):
    """A kubeconfig whose contexts have these servers, and a user each."""
    names = list(servers)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": names[0],
        "clusters": [{"name": name, "cluster": {"server": servers[name]}} for name in names],
        "users": [{"name": name, "user": {"token": f"token of {name}"}} for name in names],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in names],
    }
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(config))


@pytest.fixture
def closed():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return f"http://127.0.0.1:{door.getsockname()[1]}"


async def test_contexts_of_a_kubeconfig_become_pools(open_router, user, home, closed) -> None:
    """Each as whom it is for, also two at one server; one that nobody answers for is told as such."""
    with cluster(home / "cluster") as made:
        kubeconfig(user / ".kube" / "config", mine=made.url, shared=made.url, gone=closed)
        async with open_router() as router:
            all = await found(router, auto_register=True)
            specs = {name: pool.row.spec for name, pool in router.registry.pools.items()}
            again = await found(router, auto_register=True)
    assert {name: (each.reachable, each.registered) for name, each in all.items()} == {
        "mine": (True, True),
        "shared": (True, True),
        "gone": (False, False),
    }
    assert "takes no connection" in all["gone"].note
    assert {name: each.registered for name, each in again.items()} == {
        "mine": True,
        "shared": True,
        "gone": False,
    }
    for name in ("mine", "shared"):
        assert (specs[name].type, specs[name].options) == ("kubernetes", {"context": name})


async def test_a_context_that_is_not_let_in_is_told_as_such(open_router, user, home) -> None:
    """It is there, and no pool comes of it."""
    with cluster(home / "cluster") as made:
        made.trouble.token = "token of the-other"
        kubeconfig(user / ".kube" / "config", mine=made.url)
        async with open_router() as router:
            it = (await found(router, auto_register=True))["mine"]
    assert (it.reachable, it.registered) == (True, False) and "not registered" in it.note


@pytest.mark.parametrize(
    ("allowed", "registered"),
    [
        ({"endpoints": ["*"]}, False),
        ({"images": ["*"]}, False),
        ({"endpoints": ["*"], "images": ["*"]}, True),
    ],
)
async def test_over_mcp_a_cluster_needs_its_address_and_its_image_allowed(
    open_router, user, home, allowed, registered
) -> None:
    """Nobody was asked."""
    with cluster(home / "cluster") as made:
        kubeconfig(user / ".kube" / "config", mine=made.url)
        async with open_router(allow=allowed) as router:
            model = router.bound(replace(router.caller, kind="mcp"))
            it = (await found(model, auto_register=True))["mine"]
    assert (it.reachable, it.registered) == (True, registered)
    assert ("allow." in it.note) is not registered
