"""Kept pods on a cluster: the suite of all pool types, and pods that crash, go, drain, come."""

import asyncio
import json
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from by_name import Federated, by_name, surroundings_of
from kubernetes_api import cluster
from kubernetes_workers import WorkersCluster
from served import Server, modern
from stage import HERE, lines, until

from mcp_pools import Router, Settings
from mcp_pools.adapter import Returned, Surroundings
from mcp_pools.adapters.kubernetes import kubernetes_pool
from mcp_pools.errors import PoolsError
from mcp_pools.kube.worker_pods import WorkerPods
from mcp_pools.models import PoolSpec
from mcp_pools.tools import pool_close, pool_health, pool_register, pool_task

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
ALONE = "a place of a pod holds one launch: nothing lies behind another"
IMAGE = "mcp-pools-worker"
KEPT = {"mode": "workers", "config": {"task_modules": ["peer_types"]}}
"""Pods with the handlers of these tests."""


@pytest.fixture(scope="module")
def ground():
    """A directory with a short path: sockets lie in it."""
    directory = Path(tempfile.mkdtemp(prefix="kw-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def world(ground):
    """A cluster."""
    with cluster(ground / "cluster", WorkersCluster) as made:
        made.python_path = str(HERE)
        yield made


class ByName(WorkerPods):
    """A pool of pods whose launches go to their task type `hostile`."""

    def run(self, sink, orphans):
        return super().run(sink, [by_name(launch) for launch in orphans])

    def launch(self, launches):
        super().launch([by_name(launch) for launch in launches])


def on(world, ground, spec, surroundings, workers=2):
    """The pool that all tests share: two pods, which stay from one test to the next."""
    spec = replace(
        spec,
        name="shared",
        type="kubernetes",
        endpoint=world.url,
        container_image=IMAGE,
        min_workers=workers,
        max_workers=workers,
        options={**KEPT, **spec.options},
    )
    return ByName(spec, replace(surroundings, directory=ground / "shared"))


def waiting(tmp_path):
    """The payload of a launch that runs until the file `go` is there."""
    return {"to": str(tmp_path / "marks"), "word": "ran", "until": str(tmp_path / "go")}


async def running(pool, tmp_path):
    """Such a launch, and the pod that it runs in."""
    attempt = await pool.start("wait", waiting(tmp_path))
    await until(lambda: lines(tmp_path / "marks"))
    return attempt, pool.launched[-1].worker.rpartition("-")[0]


def ready(pool):
    """The pods that take launches."""
    return {row.worker_id.rpartition("-")[0] for row in pool.pool.workers if row.status != "starting"}


class TestWorkerPods(Federated):
    """Pods, as any other workers."""

    burst = 50
    short = 40

    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, world, ground):
        self.world, self.ground = world, ground

    def make(self, spec, surroundings):
        """A pool on the cluster."""
        return on(self.world, self.ground, spec, surroundings)

    async def test_a_launch_that_has_not_started_can_be_cancelled(self) -> None:
        """None is taken that does not start."""
        pytest.skip(ALONE)

    async def test_cancelling_the_running_one_spares_those_behind_it(self) -> None:
        """Nothing lies behind."""
        pytest.skip(ALONE)

    async def test_stopping_ends_everything(self, stage, tmp_path) -> None:
        """Of what runs here; in the pods all goes on, and the next owner takes it up."""
        before, after = stage(), stage()
        async with before.open() as pool:
            attempt = await pool.start("wait", waiting(tmp_path))
            await until(lambda: lines(tmp_path / "marks"))
        orphans, before.launched = before.launched, []
        async with after.open(orphans=orphans) as pool:
            (tmp_path / "go").touch()
            assert json.loads((await pool.end(attempt)).result) == "waited"
        after.launched = orphans
        assert lines(tmp_path / "marks") == ["ran"]

    async def test_what_ran_in_a_pod_that_is_gone_is_lost(self, world, stage, tmp_path) -> None:
        """It may be tried again; another pod comes."""
        async with stage().open() as pool:
            attempt, pod = await running(pool, tmp_path)
            await asyncio.to_thread(world.vanish, pod)
            ended = await pool.end(attempt)
            assert (ended.code, ended.retryable) == ("worker_lost", True)
            await until(lambda: len(ready(pool) - {pod}) == 2)
            assert (await pool.run("echo")).code is None

    async def test_a_launch_for_a_pod_that_has_gone_goes_back(self, stage) -> None:
        """Its place was reserved before, and it was never sent."""
        async with stage().open() as pool:
            slot = (await until(lambda: pool.pool.reserve(1)))[0]
            slot.give_back()
            attempt = pool.launch(replace(slot, worker="mcp-pools-shared-gone-1"), "echo")
            assert isinstance(await pool.end(attempt), Returned)

    async def test_a_container_that_crashes_starts_anew_in_its_place(self, world, stage, tmp_path) -> None:
        """What it ran may have run; the pod itself says so."""
        async with stage().open() as pool:
            attempt, pod = await running(pool, tmp_path)
            await asyncio.to_thread(world.crash, pod)
            ended = await pool.end(attempt)
            assert (ended.code, ended.retryable) == ("interrupted", True)
            await until(lambda: len(ready(pool)) == 2 and pod in ready(pool))
            assert (await pool.run("echo")).code is None

    async def test_a_pod_that_is_to_go_ends_what_it_has(self, world, stage, tmp_path) -> None:
        """It gets nothing more, and is there until then."""
        async with stage().open() as pool:
            attempt, pod = await running(pool, tmp_path)
            deleting = asyncio.create_task(asyncio.to_thread(world.call, world._delete_pod(pod)))
            await until(lambda: len(ready(pool) - {pod}) == 2)
            slots = pool.pool.reserve(10)
            assert slots and not [slot for slot in slots if slot.worker.startswith(pod)]
            for slot in slots:
                slot.give_back()
            assert pod in {each["metadata"]["name"] for each in world.pods()}
            (tmp_path / "go").touch()
            assert json.loads((await pool.end(attempt)).result) == "waited"
            await deleting
            assert pod not in {each["metadata"]["name"] for each in world.pods()}

    async def test_another_size_is_another_number_of_pods(self, world, stage) -> None:
        """At once, in the bounds that the autoscaler has then, too."""
        async with stage().open() as pool:
            await until(lambda: len(ready(pool)) == 2)
            for workers in (3, 2):
                pool.pool.spec = replace(pool.pool.spec, min_workers=workers, max_workers=workers)
                await until(lambda workers=workers: len(ready(pool)) == workers)
                slots = pool.pool.reserve(10)
                assert len(slots) == workers
                for slot in slots:
                    slot.give_back()
            (autoscaler,) = world.all("horizontalpodautoscalers")
            assert (autoscaler["spec"]["minReplicas"], autoscaler["spec"]["maxReplicas"]) == (2, 2)

    async def test_an_owner_killed_while_a_pod_works_is_followed_by_another(
        self, world, ground, stage, tmp_path
    ) -> None:
        """The result comes back once."""
        async with stage().open():
            pass  # the pods are there
        home = ground / "mine"
        shutil.copytree(ground / "shared", home / "run" / "shared")
        home.chmod(0o700)
        spec = {"type": "kubernetes", "endpoint": world.url, "container_image": IMAGE, "options": KEPT}
        pools = {"shared": {**spec, "min_workers": 2, "max_workers": 2}}
        payload = {"handler": "hostile:wait", "payload": waiting(tmp_path)}
        arguments = {"task_type": "hostile", "payload": payload, "wait": False}
        owner = await asyncio.to_thread(Server, home, surroundings_of(home, pools=json.dumps(pools)))
        message, headers = modern("tools/call", {"name": "pool_execute", "arguments": arguments})
        _, answer = await asyncio.to_thread(owner.post, message, **headers)
        await until(lambda: lines(tmp_path / "marks"))
        await asyncio.to_thread(owner.end, signal.SIGKILL)
        owner.process.communicate()
        async with Router.open(Settings(home=home, task_modules=["peer_types"], pools=pools)) as router:
            (tmp_path / "go").touch()
            id = answer["result"]["structuredContent"]["task_id"]
            task = await pool_task(router, id, wait_seconds=20)
        assert (task.status, task.result, task.attempt) == ("completed", "waited", 1)
        assert lines(tmp_path / "marks") == ["ran"]

    async def test_the_roles_of_the_example_allow_what_is_asked_and_no_more(self, world, stage) -> None:
        """Each request of a pool's life has its verb there."""
        world.requests.clear()
        async with stage().open() as pool:
            await until(lambda: len(ready(pool)) == 2)
            assert (await pool.run("echo")).code is None
            await pool.pool._why_none()
            pool.pool.spec = replace(pool.pool.spec, min_workers=1, max_workers=1)
            await until(lambda: any(path.endswith("/scale") for _, path in world.requests))
            await pool.pool.discard()
        documents = yaml.safe_load_all((ROOT / "examples" / "kubernetes" / "rbac.yaml").read_text())
        roles = {each["metadata"]["name"]: each["rules"] for each in documents if each["kind"] == "Role"}
        both = [rule for rules in roles.values() for rule in rules]
        allowed = {(what, verb) for rule in both for what in rule["resources"] for verb in rule["verbs"]}
        own = roles["mcp-pools-workers"]
        asked = {_asked(*request) for request in world.requests}
        created = {(kind, "create") for kind, verb in asked if verb == "patch" and "/" not in kind}
        assert asked | created <= allowed  # applying what is not there is creating it
        unused = {(what, verb) for rule in own for what in rule["resources"] for verb in rule["verbs"]}
        assert unused - asked - created == {("endpointslices", "watch")}


async def test_a_pool_says_why_it_has_no_pods_and_leaves_nothing_behind(world, home) -> None:
    """The image is not there; what somebody deletes is made again; closing takes all away."""
    before = {kind: len(world.all(kind)) for kind in ("deployments", "services", "secrets")}
    world.images["nowhere"] = "missing"
    async with Router.open(Settings(home=home)) as router:
        asked = {"type": "kubernetes", "endpoint": world.url, "container_image": "nowhere"}
        await pool_register(router, name="none", **asked, options={"mode": "workers"})
        await until_unhealthy(router, "ErrImagePull")
        (made,) = [each for each in world.all("deployments") if "none" in each["metadata"]["name"]]
        await asyncio.to_thread(world.call, world._put("deployments", "DELETED", made))
        for pod in world.pods(made["metadata"]["name"]):
            await asyncio.to_thread(world.call, world._gone(pod["metadata"]["name"]))
        await until_unhealthy(router, "deleted its Deployment")
        await until_unhealthy(router, "ErrImagePull")
        await pool_close(router, "none")
    assert {kind: len(world.all(kind)) for kind in before} == before
    kinds = ("horizontalpodautoscalers", "networkpolicies")
    assert not [each for kind in kinds for each in world.all(kind) if "none" in each["metadata"]["name"]]


async def until_unhealthy(router, why):
    """Wait until a pool is not well, and says why."""
    while True:
        report = (await pool_health(router, "none")).pools[0]
        if report.status == "unhealthy" and why in report.reason:
            return
        await asyncio.sleep(0.01)


def _asked(method, path):
    kind, *name = path.partition("/namespaces/mcp-pools/")[2].split("/")
    verb = {"PATCH": "patch", "DELETE": "delete"}.get(method) or ("get" if name else "list")
    return ("/".join([kind, *name[1:]]), verb)


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (IMAGE, {"mode": "worker"}, "mode"),
        (IMAGE, {"mode": "workers", "queue": "team"}, "queue"),
        (IMAGE, {"mode": "workers", "tasks_per_pod": 0}, "tasks_per_pod"),
        (IMAGE, {"mode": "workers", "config": {"pools": {}}}, "pools"),
        ("python:3.13-slim", {"mode": "workers"}, "image"),
    ],
)
def test_definitions_that_make_no_sense_are_refused(tmp_path, image, options, said) -> None:
    """By name and value."""
    spec = PoolSpec(name="x", type="kubernetes", endpoint="http://x", container_image=image, options=options)
    with pytest.raises(PoolsError, match=said):
        kubernetes_pool(spec, Surroundings(tmp_path, {}))
