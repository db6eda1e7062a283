"""Tasks on a Dask cluster: the suite of all pool types, and what befalls clusters, workers and owners."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from engine_suite import EngineConformance, links, parent, waiting
from machine import machine_of
from parts import require_module
from stage import HERE, carrying, end, lines, until

from mcp_pools import plugins
from mcp_pools.adapter import Returned, Surroundings
from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec

pytestmark = pytest.mark.anyio


@contextmanager
def cluster(workers, python_path=HERE):
    """A cluster whose workers have the handlers of these tests; its address, and its process."""
    require_module("distributed", "pip install 'mcp-pools[dask]'")
    script = [sys.executable, str(HERE / "dask_cluster.py"), str(workers)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(python_path)}
    with subprocess.Popen(
        script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def address():
    """The scheduler of a cluster with two workers of one thread each."""
    with cluster(2) as (made, _):
        yield made


def on(endpoint, spec, surroundings):
    """A pool on this cluster."""
    from mcp_pools.adapters.dask import DaskPool

    return DaskPool(replace(spec, endpoint=endpoint), surroundings)


class TestDask(EngineConformance):
    """Tasks of a cluster, as any other launches."""

    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, address):
        self.address = address

    def make(self, spec, surroundings):
        """A pool on the cluster."""
        return on(self.address, spec, surroundings)

    async def test_a_worker_that_dies_is_an_error_and_its_launch_does_not_run_again(
        self, stage, tmp_path
    ) -> None:
        """Dask would run it again, on the other worker; and the pool goes on."""
        async with stage(size=(1, 2)).open() as pool:
            attempt = await waiting(pool, tmp_path)
            above = {parent(pid) for pid in carrying(attempt)}
            worker = next(iter(above - set(carrying(attempt))))
            end(worker)
            lost = await pool.end(attempt)
            assert (lost.code, lost.retryable) == ("worker_lost", True)
            assert not carrying(attempt)
            assert (await pool.run("echo")).code is None
            assert lines(tmp_path / "marks") == ["ran"]

    async def test_a_link_that_dies_is_followed_by_another_that_goes_on(self, stage, tmp_path) -> None:
        """With what runs, with what is to be cancelled, and with what comes."""
        async with stage(size=(1, 2)).open() as pool:
            attempt = await waiting(pool, tmp_path)
            cancelled = await pool.start("spin")
            await until(lambda: pool.of(cancelled))
            end(links()[0])
            await until(lambda: pool.pool._trouble is not None)
            await pool.pool.cancel(cancelled)
            assert (await pool.pool.health())[0] == "unhealthy" and not pool.pool.reserve(1)
            assert (await pool.end(cancelled)).code == "cancelled"
            (tmp_path / "go").touch()
            assert json.loads((await pool.end(attempt)).result) == "waited"
            assert (await pool.run("echo")).code is None
            assert lines(tmp_path / "marks") == ["ran"]

    async def test_a_launch_that_an_owner_never_asked_for_goes_back(self, stage) -> None:
        """It died between its word and the deed."""
        first = stage()
        async with first.open() as pool:
            slot = pool.pool.reserve(1)[0]
            slot.give_back()
        first.pool.launch = lambda launches: None
        first.launch(slot, "echo")
        orphans, first.launched = first.launched, []
        second = stage()
        async with second.open(orphans=orphans) as pool:
            assert isinstance(await pool.end(orphans[0].attempt_id), Returned)
        second.launched = orphans

    async def test_large_payloads_and_results_come_through(self, stage) -> None:
        """Both ways."""
        async with stage().open() as pool:
            ended = await pool.run("size", {"text": "y" * (1 << 20), "give": 3 << 20})
            assert json.loads(ended.result) == {"got": 1 << 20, "text": "x" * (3 << 20)}

    async def test_a_worker_may_use_so_much_memory(self, stage) -> None:
        """As those of a local pool."""
        async with stage(memory=256 << 20).open() as pool:
            assert (await pool.run("eat_memory")).code == "out_of_memory"

    async def test_a_scheduler_that_dies_makes_the_pool_unhealthy(self, tmp_path, stage) -> None:
        """What ran there is lost, and says so."""
        with cluster(1) as (self.address, process):
            async with stage().open() as pool:
                attempt = await waiting(pool, tmp_path)
                process.kill()
                lost = await pool.end(attempt)
                assert (lost.code, lost.retryable) == ("worker_lost", True)
                await until(lambda: pool.pool._trouble is not None)
                assert (await pool.pool.health())[0] == "unhealthy" and not pool.pool.reserve(1)

    async def test_without_an_endpoint_the_pool_has_a_cluster_that_ends_with_it(
        self, stage, tmp_path
    ) -> None:
        """Two at a time, each on a worker process of its own; after its link's death it has another one."""
        self.address = None
        subject = stage(size=(1, 2))
        async with subject.open() as pool:
            first = await waiting(pool, tmp_path)
            assert (await pool.run("echo")).code is None
            end(links()[0])
            assert (await pool.end(first)).code == "interrupted"
            assert not carrying(first)
            second = await waiting(pool, tmp_path)
        assert [each.code for each in subject.ends(second)] == ["interrupted"]
        assert not links()

    def test_what_is_discovered_takes_a_distribution(self, address, home, tmp_path, monkeypatch) -> None:
        """`mcp-pools discover` opens the pool that the environment names; work is sent there by its type."""
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        with machine_of(home, tmp_path) as machine:
            found = machine.answer("discover", "--auto-register")["found"]
            assert [(each["name"], each["registered"]) for each in found] == [("dask", True)]
            work = json.dumps({"expression": "x**2", "items": [1, 2, 3, 4, 5]})
            words = ("-t", "compute", "-s", "map_reduce", "--payload", work, "--pool-filter", "dask")
            whole = machine.answer("distribute", *words)
            assert whole["reduced"] == [1, 4, 9, 16, 25] and whole["pools"] == {"dask": 5}


async def opened(endpoint, tmp_path):
    """Open a pool, and close it; the error."""
    spec = PoolSpec(name="grid", type="dask")
    with pytest.raises(PoolsError) as refused:
        async with on(endpoint, spec, Surroundings(tmp_path / "grid", {})).run(lambda _: None, []):
            pass
    return refused.value


async def test_a_cluster_that_is_not_there_is_unreachable(tmp_path) -> None:
    """At once."""
    require_module("distributed", "pip install 'mcp-pools[dask]'")
    assert (await opened("tcp://127.0.0.1:1", tmp_path)).code == "pool_unreachable"


async def test_a_cluster_whose_workers_lack_mcp_pools_is_refused(tmp_path) -> None:
    """With the command to run there."""
    (tmp_path / "mcp_pools").mkdir()
    (tmp_path / "mcp_pools" / "__init__.py").write_text("__version__ = '0.0.1'")
    with cluster(1, tmp_path) as (address, _):
        refused = await opened(address, tmp_path)
    assert refused.code == "invalid_payload" and "pip install mcp-pools==" in refused.next


def test_without_the_extra_the_refusal_names_the_command(monkeypatch) -> None:
    """No library, no pool."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "mcp_pools.adapters.dask", raising=False)
    with pytest.raises(PoolsError) as refused:
        plugins.adapter("dask")
    assert "pip install 'mcp-pools[dask]'" in refused.value.next


def test_an_option_that_there_is_not_is_refused(tmp_path) -> None:
    """By name."""
    require_module("distributed", "pip install 'mcp-pools[dask]'")
    with pytest.raises(PoolsError, match="no option 'colour'"):
        on(None, PoolSpec(name="grid", type="dask", options={"colour": "red"}), Surroundings(tmp_path, {}))
