"""Tasks on a Ray cluster: the suite of all pool types, and what befalls workers and links."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from engine_suite import EngineConformance, links, parent, waiting
from parts import require_module
from stage import HERE, carrying, end, lines, until

from mcp_pools import plugins
from mcp_pools.adapter import Surroundings
from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec

pytestmark = pytest.mark.anyio

ACCESS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
"""Who has this token may use the cluster."""


@contextmanager
def cluster(cpus):
    """A cluster whose workers have the handlers of these tests; its address."""
    require_module("ray", "pip install 'mcp-pools[ray]'")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE), **ACCESS}
    with subprocess.Popen(
        [sys.executable, str(HERE / "ray_cluster.py"), str(cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def address():
    """A cluster with two CPUs."""
    with cluster(2) as made:
        yield made


@pytest.fixture(autouse=True)
def access(monkeypatch):
    """This owner has the token."""
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)


def on(endpoint, spec, surroundings):
    """A pool on this cluster."""
    from mcp_pools.adapters.ray import RayPool

    return RayPool(replace(spec, endpoint=endpoint), surroundings)


class TestRay(EngineConformance):
    """Tasks of a cluster, as any other launches."""

    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, address):
        self.address = address

    def make(self, spec, surroundings):
        """A pool on the cluster."""
        return on(self.address, spec, surroundings)

    async def test_what_dies_is_an_error_or_goes_on_and_nothing_runs_twice(self, stage, tmp_path) -> None:
        """A worker takes its launch with it; a link is followed by another that goes on with its own."""
        async with stage(size=(1, 2)).open() as pool:
            attempt = await waiting(pool, tmp_path)
            end(next(iter({parent(pid) for pid in carrying(attempt)} - set(carrying(attempt)))))
            lost = await pool.end(attempt)
            assert (lost.code, lost.retryable) == ("worker_lost", True)
            assert not carrying(attempt) and lines(tmp_path / "marks") == ["ran"]
            (tmp_path / "marks").unlink()
            attempt = await waiting(pool, tmp_path)
            end(links()[0])
            await until(lambda: pool.pool._trouble is not None)
            assert (await pool.pool.health())[0] == "unhealthy" and not pool.pool.reserve(1)
            (tmp_path / "go").touch()
            assert json.loads((await pool.end(attempt)).result) == "waited"
            assert lines(tmp_path / "marks") == ["ran"]

    async def test_without_an_endpoint_the_pool_has_a_cluster_that_ends_with_it(
        self, stage, tmp_path
    ) -> None:
        """Two at a time, whatever CPUs there are."""
        self.address = None
        subject = stage(size=(1, 2))
        async with subject.open() as pool:
            running = await waiting(pool, tmp_path)
            assert (await pool.run("echo")).code is None
        assert [each.code for each in subject.ends(running)] == ["interrupted"]
        assert not links()


async def test_a_cluster_that_is_not_there_is_unreachable(tmp_path) -> None:
    """At once."""
    require_module("ray", "pip install 'mcp-pools[ray]'")
    spec = PoolSpec(name="grid", type="ray")
    with pytest.raises(PoolsError) as refused:
        async with on("ray://127.0.0.1:1", spec, Surroundings(tmp_path / "grid", {})).run(lambda _: None, []):
            pass
    assert refused.value.code == "pool_unreachable"


def test_without_the_extra_the_refusal_names_the_command(monkeypatch) -> None:
    """No library, no pool."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "mcp_pools.adapters.ray", raising=False)
    with pytest.raises(PoolsError) as refused:
        plugins.adapter("ray")
    assert "pip install 'mcp-pools[ray]'" in refused.value.next
