"""Jobs on a cluster: the suite of all pool types, what a cluster says and does, and its faults."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from conformance import Conformance
from kubernetes_api import Trouble, cluster
from stage import HERE, Stage, lines, until

from mcp_pools.adapter import Returned, Started, Waits
from mcp_pools.adapters.kubernetes import KubernetesPool
from mcp_pools.errors import PoolsError
from mcp_pools.models import PoolSpec

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
ALONE = "a Job has a pod of its own: no launch lies behind another"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A cluster whose images have the handlers of these tests."""
    with cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.python_path = str(HERE)
        yield made


@pytest.fixture
def calm(world):
    """The cluster, without any trouble before and after."""
    world.trouble = Trouble()
    world.images = {}
    yield world
    world.trouble = Trouble()


def on(world, spec, surroundings):
    """A pool on this cluster."""
    given = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    return KubernetesPool(PoolSpec(**{**given, "endpoint": world.url}), surroundings)


@pytest.fixture
def stage(calm, tmp_path):
    """Makes pools on the cluster; at the end, every launch has had one outcome."""
    made = []

    def build(**options):
        make = lambda spec, surroundings: on(calm, spec, surroundings)  # noqa: E731
        made.append(Stage(make, tmp_path / "pool", **options))
        return made[-1]

    yield build
    for each in made:
        each.assert_one_outcome_each()


class TestKubernetes(Conformance):
    """Jobs, as any other launches."""

    ahead = 1
    burst = 8
    short = 4
    warm = 1

    @pytest.fixture(autouse=True)
    def _on_the_cluster(self, calm):
        self.world = calm

    def make(self, spec, surroundings):
        """A pool on the cluster."""
        return on(self.world, spec, surroundings)

    async def test_a_launch_that_has_not_started_can_be_cancelled(self, stage, tmp_path) -> None:
        """Its image is not there, so it never runs."""
        self.world.images = {"python:3.13-slim": "missing"}
        async with stage(size=(1, 1)).open() as pool:
            attempt = await pool.start("echo", {"to": str(tmp_path / "marks"), "word": "ran"})
            await until(lambda: pool.of(attempt, Waits))
            await pool.pool.cancel(attempt)
            assert (await pool.end(attempt)).code == "cancelled"
            assert not lines(tmp_path / "marks")

    async def test_cancelling_the_running_one_spares_those_behind_it(self) -> None:
        """Nothing lies behind."""
        pytest.skip(ALONE)

    async def test_stopping_ends_everything(self, stage, tmp_path) -> None:
        """Of what runs here; a Job goes on, and the next owner has its result."""
        first = stage(size=(1, 1))
        async with first.open() as pool:
            payload = {"to": str(tmp_path / "marks"), "word": "ran", "until": str(tmp_path / "go")}
            attempt = await pool.start("wait", payload)
            await until(lambda: lines(tmp_path / "marks"))
        orphans, first.launched = first.launched, []
        second = stage(size=(1, 1))
        second.pool = self.make(first.pool.spec, first.pool._surroundings)
        async with second.open(orphans=orphans) as pool:
            (tmp_path / "go").touch()
            assert json.loads((await pool.end(attempt)).result) == "waited"
        second.launched = orphans
        assert lines(tmp_path / "marks") == ["ran"]

    async def test_a_fresh_pool_is_healthy(self, stage) -> None:
        """Before, while and after it works."""
        async with stage().open() as pool:
            await until(lambda: not any(each.failure for each in pool.pool._informers))
            assert await pool.pool.health() == ("healthy", None)
            await pool.run("echo")
            assert await pool.pool.health() == ("healthy", None)


# Why it waits, and why it did not come through.


def pod_of(world, pool):
    """The name of the pod of a pool's only launch that runs."""
    running = [
        pod["metadata"]["name"]
        for pod in world.all("pods")
        if pod["metadata"]["labels"]["mcp-pools/pool"] == pool.mark
        and pod.get("status", {}).get("phase") == "Running"
    ]
    return running[0] if running else None


async def running(world, pool, tmp_path):
    """A launch that runs until the file `go` is there, and its pod."""
    payload = {"to": str(tmp_path / "marks"), "word": "ran", "until": str(tmp_path / "go")}
    attempt = await pool.start("wait", payload)
    await until(lambda: lines(tmp_path / "marks") and pool.of(attempt, Started))
    return attempt, await until(lambda: pod_of(world, pool))


@pytest.mark.parametrize(
    ("befalls", "code"),
    [
        (lambda world, pod: world.kill(pod, "OOMKilled"), "out_of_memory"),
        (lambda world, pod: world.kill(pod, "Error"), "worker_lost"),
        (lambda world, pod: world.evict(pod), "evicted"),
        (lambda world, pod: world.evict_for_disk(pod), "evicted"),
        (lambda world, pod: world.delete_pod(pod), "worker_lost"),
    ],
    ids=["out of memory", "killed", "drained", "disk full", "deleted by somebody"],
)
async def test_a_pod_that_dies_is_an_error_that_says_why(stage, calm, tmp_path, befalls, code) -> None:
    """And the pool goes on."""
    async with stage(size=(1, 1)).open() as pool:
        attempt, pod = await running(calm, pool, tmp_path)
        await asyncio.to_thread(befalls, calm, pod)
        ended = await pool.end(attempt)
        assert (ended.code, ended.retryable) == (code, True)
        assert (await pool.run("echo")).code is None


async def test_a_pod_lost_before_it_started_costs_no_attempt(stage, calm) -> None:
    """The launch goes back."""
    calm.images = {"python:3.13-slim": "missing"}
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("echo")
        await until(lambda: pool.of(attempt, Waits))
        pods = [pod for pod in calm.all("pods") if pod["metadata"]["labels"]["mcp-pools/pool"] == pool.mark]
        await asyncio.to_thread(calm.evict, pods[0]["metadata"]["name"])
        assert isinstance(await pool.end(attempt), Returned)


@pytest.mark.parametrize(
    ("trouble", "images", "resources", "code"),
    [
        (Trouble(quota_jobs=True), {}, {}, "quota"),
        (Trouble(quota_pods=True), {}, {}, "quota"),
        (Trouble(down=True), {}, {}, "pool_unhealthy"),
        (Trouble(), {"python:3.13-slim": "missing"}, {}, "image_pull"),
        (Trouble(), {}, {"requests": {"cpu": "64"}}, "unschedulable"),
    ],
    ids=["quota of Jobs", "quota of pods", "server down", "no such image", "no such node"],
)
async def test_what_cannot_run_says_why_and_is_given_up(
    stage, calm, trouble, images, resources, code
) -> None:
    """It waits with a reason, and after `pending_seconds` that is its error."""
    async with stage(size=(1, 1), pending_seconds=0.5, resources=resources).open() as pool:
        calm.trouble, calm.images = trouble, images
        attempt = await pool.start("echo")
        waits = (await until(lambda: pool.of(attempt, Waits)))[0]
        assert waits.code == code and waits.message
        calm.trouble.down = False
        calm.trouble.quota_jobs |= code == "pool_unhealthy"
        ended = await pool.end(attempt)
        assert ended.code == ("quota" if code == "pool_unhealthy" else code), ended


@pytest.mark.parametrize(
    ("trouble", "images", "code"),
    [
        (Trouble(pod_security=True), {}, "not_allowed"),
        (Trouble(), {"python:3.13-slim": "never"}, "image_pull"),
    ],
    ids=["Pod Security", "image never pulled"],
)
async def test_what_can_never_run_ends_at_once(stage, calm, trouble, images, code) -> None:
    """Waiting would be in vain."""
    async with stage(size=(1, 1)).open() as pool:
        calm.trouble, calm.images = trouble, images
        assert (await pool.run("echo")).code == code


async def test_quota_that_is_freed_lets_it_run(stage, calm) -> None:
    """Nobody has to ask again."""
    async with stage(size=(1, 1)).open() as pool:
        calm.trouble.quota_jobs = True
        attempt = await pool.start("echo", {"x": 1})
        await until(lambda: pool.of(attempt, Waits))
        calm.trouble.quota_jobs = False
        assert json.loads((await pool.end(attempt)).result) == {"x": 1}


@pytest.mark.parametrize(("options", "code"), [({"result_volume": "results"}, None), ({}, "worker_lost")])
async def test_a_kept_result_survives_the_loss_of_its_pod_and_log(
    stage, calm, tmp_path, options, code
) -> None:
    """Another Job reads it from the volume; without a volume the task is lost."""
    async with stage(size=(1, 1), **options).open() as pool:
        attempt, pod = await running(calm, pool, tmp_path)
        calm.trouble.lost_logs.add(pod)
        (tmp_path / "go").touch()
        await until(lambda: _ended_well(calm, pod))
        await asyncio.to_thread(calm.delete_pod, pod)
        ended = await pool.end(attempt)
        assert (ended.code, ended.result) == (code, None if code else b'"waited"')
        assert lines(tmp_path / "marks") == ["ran"]


async def test_nothing_kept_leaves_the_loss_as_it_was(stage, calm, tmp_path) -> None:
    """The pod died before its task had an outcome."""
    async with stage(size=(1, 1), result_volume="results").open() as pool:
        attempt, pod = await running(calm, pool, tmp_path)
        await asyncio.to_thread(calm.evict, pod)
        assert (await pool.end(attempt)).code == "evicted"
        assert [worker.status for worker in pool.pool.workers] == []


async def test_a_job_that_vanished_with_its_owner_has_its_kept_result(stage, calm, tmp_path) -> None:
    """The next owner finds neither Job nor log, but the volume."""
    first = stage(size=(1, 1), result_volume="results")
    async with first.open() as pool:
        attempt, pod = await running(calm, pool, tmp_path)
    (tmp_path / "go").touch()
    await until(lambda: _ended_well(calm, pod))
    job = pod.rpartition("-")[0]
    await asyncio.to_thread(calm.call, calm._delete_job(job))
    await until(lambda: job not in {each["metadata"]["name"] for each in calm.all("jobs")})
    orphans, first.launched = first.launched, []
    second = stage(size=(1, 1))
    second.pool = on(calm, first.pool.spec, first.pool._surroundings)
    async with second.open(orphans=orphans) as pool:
        assert json.loads((await pool.end(attempt)).result) == "waited"
    second.launched = orphans


def _ended_well(world, name):
    return any(
        pod["metadata"]["name"] == name and pod["status"]["phase"] == "Succeeded" for pod in world.all("pods")
    )


async def test_a_queue_decides_when_a_job_runs(stage, calm) -> None:
    """However long it takes: the task says that it waits for its queue."""
    async with stage(size=(1, 1), queue="team", pending_seconds=0.1).open() as pool:
        attempt = await pool.start("echo", {"x": 1})
        waits = (await until(lambda: pool.of(attempt, Waits)))[0]
        assert waits.code == "quota" and "queue" in waits.message
        job = next(
            each for each in calm.all("jobs") if each["metadata"]["labels"]["mcp-pools/attempt"] == attempt
        )
        await asyncio.to_thread(calm.admit, job["metadata"]["name"])
        assert json.loads((await pool.end(attempt)).result) == {"x": 1}


# Faults of the way.


async def test_an_answer_that_is_lost_makes_no_second_job(stage, calm) -> None:
    """The name says that it is there."""
    async with stage(size=(1, 1)).open() as pool:
        calm.trouble.lost_answers = 1
        attempt = await pool.start("echo", {"x": 1})
        assert (await pool.end(attempt)).code is None
        assert len([pod for pod in calm.created_jobs if pod.startswith(attempt[:-2].replace("_", "-"))]) == 1


@pytest.mark.parametrize("fault", ["drop_watches", "expire"])
async def test_a_watch_that_breaks_misses_nothing(stage, calm, tmp_path, fault) -> None:
    """It goes on from where it was, or lists again."""
    async with stage(size=(1, 1)).open() as pool:
        attempt, pod = await running(calm, pool, tmp_path)
        await asyncio.to_thread(getattr(calm, fault))
        await asyncio.to_thread(calm.evict, pod)
        assert (await pool.end(attempt)).code in ("evicted", "worker_lost")
        assert (await pool.run("echo")).code is None


async def test_a_server_that_is_busy_is_given_time(stage, calm) -> None:
    """For as long as it asks for."""
    async with stage(size=(1, 1)).open() as pool:
        calm.trouble.busy = 3
        assert (await pool.run("echo")).code is None


async def test_a_cluster_that_does_not_answer_does_not_open(stage, calm) -> None:
    """It is said, and nothing hangs."""
    calm.trouble.down = True
    with pytest.raises(PoolsError) as refused:
        async with stage().open():
            pass
    assert refused.value.code == "pool_unreachable"


async def test_an_account_without_rights_is_told_which_it_needs(stage, calm) -> None:
    """With the file that has them."""
    calm.trouble.token = "another"
    with pytest.raises(PoolsError, match=r"rbac\.yaml"):
        async with stage().open():
            pass


# Payloads.


@pytest.mark.parametrize(
    "text",
    ["'\"\n$(id)`id`\\", "\u0000\U0001f600 é", "x" * 900_000],
    ids=["shell", "NUL and emoji", "900 KB"],
)
async def test_payloads_arrive_as_they_are(stage, text) -> None:
    """Byte for byte, there and back."""
    async with stage(size=(1, 1)).open() as pool:
        ended = await pool.run("echo", {"text": text})
        assert json.loads(ended.result) == {"text": text}


async def test_a_payload_too_large_for_a_job_is_refused(stage) -> None:
    """With its size."""
    async with stage(size=(1, 1)).open() as pool:
        ended = await pool.run("echo", {"text": "x" * 9_000_000})
        assert (ended.code, "9000" in ended.message) == ("invalid_payload", True)


# Definitions.


@pytest.mark.parametrize("given", [{"quee": "x"}, {"pending_seconds": "1"}, {"tolerations": {}}])
def test_options_that_make_no_sense_are_refused(calm, tmp_path, given) -> None:
    """By name and value."""
    with pytest.raises(PoolsError) as refused:
        Stage(lambda spec, around: on(calm, spec, around), tmp_path, **given)
    assert refused.value.code == "invalid_payload" and next(iter(given)) in str(refused.value)


async def test_pods_are_restricted_and_own_their_input(stage, calm) -> None:
    """What Pod Security's restricted profile asks for, and Secrets that go with the Job."""
    async with stage(size=(1, 1)).open() as pool:
        attempt = await pool.start("echo")
        await pool.end(attempt)
    job = next(job for job in calm.all("jobs") if job["metadata"]["labels"]["mcp-pools/attempt"] == attempt)
    pod, container = job["spec"]["template"]["spec"], job["spec"]["template"]["spec"]["containers"][0]
    assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secrets = [
        each for each in calm.all("secrets") if each["metadata"]["labels"]["mcp-pools/attempt"] == attempt
    ]
    owners = [owner["uid"] for each in secrets for owner in each["metadata"]["ownerReferences"]]
    assert owners == [job["metadata"]["uid"]]


VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


async def test_the_role_of_the_example_allows_what_is_asked_and_no_more(stage, calm) -> None:
    """Each request of a pool's life has its verb there; a task cancelled, one carried out."""
    calm.requests.clear()
    async with stage(size=(1, 1)).open() as pool:
        assert (await pool.run("echo")).code is None
        assert await pool.pool.health() == ("healthy", None)
        attempt = await pool.start("spin")
        await until(lambda: pool.of(attempt, Started))
        await pool.pool.cancel(attempt)
        await pool.end(attempt)
    documents = yaml.safe_load_all((ROOT / "examples" / "kubernetes" / "rbac.yaml").read_text())
    role = next(each for each in documents if each["kind"] == "Role")
    allowed = {(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    asked = set()
    for method, path in calm.requests:
        kind, *name = path.partition("/namespaces/mcp-pools/")[2].split("/")
        verb = VERBS.get(method) or ("get" if name else "list")
        asked.add(("pods/log" if name[-1:] == ["log"] else kind, verb))
    assert asked <= allowed
    unused = allowed - asked - {(kind, "watch") for kind in ("jobs", "pods", "events")}
    assert unused == {("jobs/finalizers", "update"), ("secrets", "delete")}  # admission; input without a Job
