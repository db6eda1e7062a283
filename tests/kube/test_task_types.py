"""What runs in a Job: on a stock Python image, and on the image of this package."""

import sys

import jmespath
import pytest
from kubernetes_api import cluster

from mcp_pools import Router, Settings
from mcp_pools.errors import PoolsError
from mcp_pools.tools import pool_execute, pool_get, pool_register

pytestmark = pytest.mark.anyio

STOCK = {
    "echo": ({"x": 1}, "x", 1),
    "sleep": ({"seconds": 0}, "slept", 0.0),
    "compute": ({"expression": "x ** 2", "variables": {"x": 3}}, "value", 9),
    "transform": ({"data": {"a": [1, 2]}, "expression": "a[1]"}, "value", 2),
    "command": ({"argv": ["printf", "%s", "$(id) \U0001f600"]}, "stdout", "$(id) \U0001f600"),
    "process": (
        {"items": ["a b", "$(c)"], "argv": ["printf", "%s", "{item}"]},
        "items[].result.stdout",
        ["a b", "$(c)"],
    ),
    "python": ({"function": "string:capwords", "kwargs": {"s": "a b"}}, "@", "A B"),
}
"""Each type's payload, and what is where in its result."""
OTHERS = {
    "analyze": lambda place: {"path": str(place)},
    "http": lambda place: {"url": (place / "url").read_text()},
    "query": lambda place: {"sql": "SELECT count(*) AS n FROM numbers", "files": [f"{place}/numbers.csv"]},
}
AGENT = {"argv": [sys.executable, "-c", "print('heard')"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster that has the stock image, and one of this package."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.images = {"mcp-pools:worker": "worker"}
        yield made


@pytest.fixture
async def router(tmp_path, world):
    """With a pool of stock images, and one of workers."""
    settings = Settings(
        home=tmp_path / "home",
        allow={
            "commands": ["printf"],
            "python": ["string"],
            "prompts": ["*"],
            "roots": [str(tmp_path)],
            "hosts": ["127.0.0.1/32"],
        },
        agents={"parrot": AGENT},
    )
    async with Router.open(settings) as opened:
        await pool_register(opened, name="cloud", type="kubernetes", endpoint=world.url)
        own = {"container_image": "mcp-pools:worker", "options": {"task_types": ["*"]}}
        await pool_register(opened, name="own", type="kubernetes", endpoint=world.url, **own)
        yield opened


@pytest.mark.parametrize("name", sorted(STOCK))
async def test_a_stock_image_runs_it(router, name) -> None:
    """With no library but what the Job brings."""
    payload, where, expected = STOCK[name]
    task = await pool_execute(router, task_type=name, payload=payload, pool="cloud")
    assert task.status == "completed", task.error
    assert jmespath.search(where, task.result) == expected


@pytest.mark.parametrize("name", sorted(OTHERS))
async def test_our_image_runs_what_needs_more(router, world, tmp_path, name) -> None:
    """Of a stock image it is known before anything is asked of the cluster."""
    (tmp_path / "numbers.csv").write_text("a\n1\n2\n")
    (tmp_path / "url").write_text(f"{world.url}/api/v1/namespaces/mcp-pools/events")
    payload = OTHERS[name](tmp_path)
    with pytest.raises(PoolsError) as refused:
        await pool_execute(router, task_type=name, payload=payload, pool="cloud")
    assert refused.value.code == "unsupported"
    task = await pool_execute(router, task_type=name, payload=payload, pool="own")
    assert task.status == "completed", task.error


async def test_agents_run_in_jobs(router, world) -> None:
    """A pool of agents takes prompts alone."""
    await pool_register(router, name="agents", type="kubernetes", endpoint=world.url, worker_type="parrot")
    assert (await pool_get(router, "agents")).task_types == ["prompt"]
    task = await pool_execute(router, task_type="prompt", payload={"prompt": "hello"}, pool="agents")
    assert task.status == "completed" and "heard" in str(task.result)
