"""One distribution over a local pool, a cluster and another server, while one of them dies."""

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from kubernetes_api import Trouble, cluster
from served import Server
from waiting import until

from mcp_pools import Router, Settings
from mcp_pools.profiles import federation
from mcp_pools.tools import pool_distribute, pool_register

pytestmark = pytest.mark.anyio

ITEMS = 40
PAYLOAD = {"seconds": "{item}", "items": [0.2 + number / 1000 for number in range(ITEMS)]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def peer(environment, tmp_path):
    """Another server."""
    server = Server(tmp_path / "far", {**environment, "MCP_POOLS_HOME": str(tmp_path / "far")})
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.communicate()


def kill_the_peer(peer, _world) -> None:
    """Its process, with all that it runs, for good."""
    peer.process.kill()


def kill_the_cluster(_peer, world) -> None:
    """Every pod is deleted, and nothing new is let in."""
    world.trouble = Trouble(quota_jobs=True)
    for pod in world.all("pods"):
        world.delete_pod(pod["metadata"]["name"])


@pytest.mark.parametrize(
    ("kill", "dying", "attempts"), [(kill_the_peer, "far", 3), (kill_the_cluster, "cloud", 1)]
)
async def test_every_item_has_an_outcome(world, peer, tmp_path, monkeypatch, kill, dying, attempts) -> None:
    """What ran where it died failed for that, or was run again; everything else is done, once."""
    monkeypatch.setattr(federation, "_GRACE_SECONDS", 0.5)
    world.trouble = Trouble()
    async with Router.open(Settings(home=tmp_path / "home")) as router:
        await pool_register(router, name="near", type="local", max_workers=2)
        await pool_register(router, name="far", type="mcp", endpoint=peer.url, max_workers=4)
        options = {"pending_seconds": 0.5}
        await pool_register(
            router, name="cloud", type="kubernetes", endpoint=world.url, max_workers=4, options=options
        )
        working = asyncio.create_task(
            pool_distribute(
                router,
                task_type="sleep",
                payload=PAYLOAD,
                strategy="least_loaded",
                timeout=1.0,
                max_attempts=attempts,
            )
        )
        await until(lambda: _at_work(router) == {"near", "far", "cloud"})
        await asyncio.to_thread(kill, peer, world)
        whole = await working
    assert [each.index for each in whole.results] == list(range(ITEMS))
    statuses = Counter(each.status for each in whole.results)
    assert set(statuses) <= {"completed", "failed", "timed_out"}
    lost = [each for each in whole.results if each.status != "completed"]
    assert {each.pool for each in lost} <= {dying}, [(each.pool, each.error) for each in lost]
    assert attempts == 1 or not lost
    assert (whole.total, whole.succeeded, whole.failed) == (ITEMS, ITEMS - len(lost), len(lost))


def _at_work(router):
    """The pools that run something."""
    rows = [live.row for live in router.dispatcher.tasks.values()]
    return {row.pool for row in rows if row.status == "running"}
