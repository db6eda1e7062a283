"""The objects of a pool of kept pods."""

import base64
import hashlib
import json

import pytest

from mcp_pools.adapter import Surroundings
from mcp_pools.agents import Agent
from mcp_pools.errors import PoolsError
from mcp_pools.kube import deployment, manifest
from mcp_pools.models import PoolSpec

TOKEN = "a-token-of-these-tests"


def made(tmp_path, *, agent=None, own="", sizes=(1, 4), **options):
    """All objects of a pool with these options, by kind."""
    spec = PoolSpec(
        name="Cloud_1",
        type="kubernetes",
        container_image="worker",
        min_workers=sizes[0],
        max_workers=sizes[1],
        worker_type="python" if agent is None else "terminal-x",
        options={"mode": "workers", **options},
    )
    checked = deployment.checked(spec)
    around = Surroundings(tmp_path, {}, agent=agent)
    found = dict(deployment.objects(spec, checked, around, "home", TOKEN, own))
    return {**found, "autoscaler": deployment.autoscaler(spec, checked, "home")}


def pod(tmp_path, **options):
    """The pod's spec, its container and that one's variables."""
    spec = made(tmp_path, **options)["deployments"]["spec"]["template"]["spec"]
    container = next(each for each in spec["containers"] if each["name"] == deployment.CONTAINER)
    return spec, container, {each["name"]: each.get("value") for each in container["env"]}


def test_all_objects_have_one_name_and_the_labels_of_the_pool(tmp_path) -> None:
    """A Service's name: lower-case, at most 63 characters, another one for each pool and home."""
    found = made(tmp_path)
    names = {each["metadata"]["name"] for each in found.values()}
    assert names == {deployment.name("Cloud_1", "home")}
    others = {deployment.name(*each) for each in (("cloud-1", "home"), ("Cloud_1", "other"), ("x" * 90, "h"))}
    assert len(names | others) == 4 and all(len(each) <= 63 and each == each.lower() for each in others)
    selector = found["services"]["spec"]["selector"]
    template = found["deployments"]["spec"]["template"]["metadata"]["labels"]
    assert selector == found["deployments"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= template.items()
    assert not selector.items() <= manifest.labels("Cloud_1", "home").items()  # a Job's pod is none of them


def test_the_cluster_has_the_hash_of_the_token_alone(tmp_path) -> None:
    """And no pod has it in a variable."""
    found = made(tmp_path)
    (entry,) = json.loads(base64.b64decode(found["secrets"]["data"]["tokens.yaml"]))
    assert entry["sha256"] == hashlib.sha256(TOKEN.encode()).hexdigest()
    assert entry["scopes"] == ["pools:execute"]
    assert TOKEN not in json.dumps(found)


def test_pods_are_restricted_probed_and_given_time_to_end(tmp_path) -> None:
    """As Pod Security wants it; what runs may go on for `grace_seconds`."""
    spec, container, _ = pod(tmp_path, grace_seconds=100)
    assert spec["terminationGracePeriodSeconds"] > 100
    assert spec["automountServiceAccountToken"] is False and spec["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "mcp_pools.kube.drain"


def test_nobody_says_how_many_pods_there_are_but_the_autoscaler(tmp_path) -> None:
    """Between the pool's bounds; several workers a pod are fewer pods; there is always one."""
    found = made(tmp_path, sizes=(3, 8), tasks_per_pod=4)
    assert "replicas" not in found["deployments"]["spec"]
    bounds = found["autoscaler"]["spec"]
    assert (bounds["minReplicas"], bounds["maxReplicas"]) == (1, 2)
    assert bounds["metrics"][0]["resource"]["target"]["averageUtilization"] == 80
    assert made(tmp_path, sizes=(0, 2))["autoscaler"]["spec"]["minReplicas"] == 1
    given = [{"type": "External", "external": {"metric": {"name": "queue"}}}]
    assert made(tmp_path, metrics=given)["autoscaler"]["spec"]["metrics"] == given


@pytest.mark.parametrize(
    ("own", "options", "peers"),
    [
        ("", {}, None),
        ("team", {}, [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "team"}}}]),
        ("team", {"network_from": [{"podSelector": {}}]}, [{"podSelector": {}}]),
    ],
)
def test_only_the_port_is_open_and_only_to_who_uses_it(tmp_path, own, options, peers) -> None:
    """Our own namespace when we run in the cluster, whoever the option names, else no more is known."""
    spec = made(tmp_path, own=own, **options)["networkpolicies"]["spec"]
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"port": 8680, "protocol": "TCP"}] and rule.get("from") == peers
    assert spec["policyTypes"] == ["Ingress"]


def test_pods_have_the_configuration_that_the_pool_gives_them(tmp_path) -> None:
    """Over our defaults; who may ask and which pool there is, is not to choose."""
    _, _, variables = pod(
        tmp_path, config={"allow": {"commands": ["git"]}, "retention_days": 2, "log_level": "debug"}
    )
    assert json.loads(variables["MCP_POOLS_ALLOW"]) == {"commands": ["git"]}
    assert (variables["MCP_POOLS_RETENTION_DAYS"], variables["MCP_POOLS_LOG_LEVEL"]) == ("2", "debug")
    assert json.loads(variables["MCP_POOLS_POOLS"])["local"]["max_workers"] == 1
    assert "tokens_file" in json.loads(variables["MCP_POOLS_AUTH"])


def test_pods_of_agents_run_that_agent(tmp_path) -> None:
    """It is defined and allowed there; nothing else is."""
    agent = Agent(argv=("x", "-p"))
    _, _, variables = pod(tmp_path, agent=agent)
    assert json.loads(variables["MCP_POOLS_AGENTS"])["terminal-x"]["argv"] == ["x", "-p"]
    assert json.loads(variables["MCP_POOLS_ALLOW"]) == {"prompts": ["terminal-x"]}
    assert deployment.runs(Surroundings(tmp_path, {}, agent=agent)) == {"prompt"}


def test_a_pod_template_is_laid_over_ours(tmp_path) -> None:
    """Variables by name, more containers; the labels that pods are known by stay."""
    worker = {
        "name": "worker",
        "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    }
    template = {
        "metadata": {"labels": {manifest.POOL: "x"}},
        "spec": {"containers": [worker, {"name": "proxy"}]},
    }
    _, container, variables = pod(tmp_path, pod_template=template)
    assert "KEY" in variables and container["image"] == "worker"
    labels = made(tmp_path, pod_template=template)["deployments"]["spec"]["template"]["metadata"]["labels"]
    assert labels[manifest.POOL] != "x"


def test_a_wrong_option_names_those_of_the_mode(tmp_path) -> None:
    """A Job's is none of a kept pod."""
    with pytest.raises(PoolsError, match=r"mode workers has no option 'ttl_seconds'"):
        made(tmp_path, ttl_seconds=1)
