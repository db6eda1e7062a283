"""The objects that a pool of kept pods is made of. Pure.

A Deployment of `mcp-pools serve --http`, a headless Service whose EndpointSlices say which of its
pods are ready, the Secret with the hash of the token that they ask for, a NetworkPolicy that lets
nothing but their port through, and a HorizontalPodAutoscaler. All are named after the pool and its home.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from mcp_pools.adapter import Surroundings
from mcp_pools.agents import PROMPT
from mcp_pools.errors import PoolsError
from mcp_pools.kube import manifest
from mcp_pools.kube.manifest import Object
from mcp_pools.models import PoolSpec

COMPONENT: Final = "mcp-pools/component"
PORT: Final = 8680
PORT_NAME: Final = "mcp"
CONTAINER: Final = "worker"

OPTIONS: Final[dict[str, Any]] = {
    "annotations": {},
    "config": {},
    "context": "",
    "cpu_percent": 80.0,
    "grace_seconds": 3600.0,
    "image_pull_policy": "",
    "image_pull_secrets": [],
    "metrics": [],
    "mode": "workers",
    "network_from": [],
    "node_selector": {},
    "pod_template": {},
    "priority_class": "",
    "python": "python3",
    "resources": {"requests": {"cpu": "250m"}},
    "runtime_class": "",
    "service_account": "",
    "tasks_per_pod": 1.0,
    "tolerations": [],
}
"""The options of a pool of kept pods, each with what it is when nothing is said.

`config`: keys of the configuration that the pods have. `grace_seconds`: how long a pod that is to go may
take to end what it runs. `metrics`: what the autoscaler goes by, as autoscaling/v2 has it, instead of
`cpu_percent` of the CPU that is requested. `network_from`: who may reach the pods, as a NetworkPolicy has it.
"""

_STOCK: Final = PoolSpec(name="-", type="-").container_image
_OURS: Final = frozenset({"auth", "home", "http_public_url", "pools", "store"})
"""Keys of the pods' configuration that the pool sets, or that make no sense for a pod."""
_HOME: Final = "/tmp/mcp-pools"  # noqa: S108 - in a directory of the pod's own
_TOKENS: Final = "/mcp-pools/tokens"
_FILE: Final = "tokens.yaml"
_MARGIN_SECONDS: Final = 30.0
"""What a pod has, beyond the time for its tasks, to end."""


def checked(spec: PoolSpec) -> dict[str, Any]:
    """A definition's options over the defaults; raises `PoolsError` `invalid_payload`."""
    options = manifest.checked_options(spec, OPTIONS)
    if spec.container_image == _STOCK:
        message = f"The image {_STOCK} has no mcp-pools, which the pods of mode workers run."
        next = "Name an image that has it, as examples/kubernetes/Dockerfile makes one."
        raise PoolsError("invalid_payload", message, next)
    each = options["tasks_per_pod"]
    if each != int(each) or not each:
        message = f"Option tasks_per_pod is {each!r}."
        raise PoolsError("invalid_payload", message, "Give a whole number, 1 or more.")
    if ours := sorted(_OURS & options["config"].keys()):
        message = f"Option config has {ours[0]!r}, which is the pool's own to set."
        raise PoolsError("invalid_payload", message, "Take it out.")
    return options


def name(pool: str, home: str) -> str:
    """What all objects of a pool are called: a name that a Service may have, too."""
    readable = re.sub(r"[^a-z0-9]+", "-", pool.lower()).strip("-")[:36]
    return f"mcp-pools-{readable}-{hashlib.sha256(f'{home}/{pool}'.encode()).hexdigest()[:8]}"


def labels(pool: str, home: str) -> dict[str, str]:
    """What all objects of a pool carry, and what its pods are known by."""
    return {**manifest.labels(pool, home), COMPONENT: "workers"}


def size(spec: PoolSpec, options: Mapping[str, Any]) -> tuple[int, int]:
    """How many pods there are at least and at most. An autoscaler has at least one; none at all is (0, 0)."""
    least, most = (
        math.ceil(number / options["tasks_per_pod"]) for number in (spec.min_workers, spec.max_workers)
    )
    return (min(max(least, 1), most), most)


def objects(
    spec: PoolSpec, options: Mapping[str, Any], around: Surroundings, home: str, token: str, own: str
) -> list[tuple[str, Object]]:
    """All objects but the autoscaler, each with its kind, in the order in which they are applied.

    Args:
        home: the label of the home.
        token: what the pods ask for; only its hash is written.
        own: the namespace that we run in; empty: outside of the cluster.
    """
    marks = labels(spec.name, home)
    metadata = {"name": name(spec.name, home), "labels": marks}
    return [
        ("secrets", _secret(metadata, token)),
        ("networkpolicies", _network_policy(metadata, options, own)),
        ("services", _service(metadata)),
        ("deployments", _deployment(metadata, spec, options, around)),
    ]


def autoscaler(spec: PoolSpec, options: Mapping[str, Any], home: str) -> Object:
    """The HorizontalPodAutoscaler of a pool."""
    least, most = size(spec, options)
    called = name(spec.name, home)
    cpu = {"type": "Utilization", "averageUtilization": max(1, round(options["cpu_percent"]))}
    by_cpu = {"type": "Resource", "resource": {"name": "cpu", "target": cpu}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": called, "labels": labels(spec.name, home)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": called},
            "minReplicas": max(1, least),
            "maxReplicas": max(1, most),
            "metrics": options["metrics"] or [by_cpu],
        },
    }


def _secret(metadata: Object, token: str) -> Object:
    entry = {
        "subject": "owner",
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "scopes": ["pools:execute"],
    }
    data = base64.b64encode(json.dumps([entry]).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {_FILE: data},
    }


def _network_policy(metadata: Object, options: Mapping[str, Any], own: str) -> Object:
    """Only the port, and from where: as the option says, else our own namespace where we are in a cluster."""
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own}}}
    peers = options["network_from"] or ([named] if own else [])
    rule = {"ports": [{"port": PORT, "protocol": "TCP"}], **({"from": peers} if peers else {})}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": metadata["labels"]},
            "policyTypes": ["Ingress"],
            "ingress": [rule],
        },
    }


def _service(metadata: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "selector": metadata["labels"],
            "ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": PORT_NAME}],
        },
    }


def _deployment(metadata: Object, spec: PoolSpec, options: Mapping[str, Any], around: Surroundings) -> Object:
    """Without a number of pods: that is the autoscaler's."""
    marks = metadata["labels"]
    template = manifest.merged(_pod(metadata["name"], spec, options, around), options["pod_template"])
    about = template.get("metadata") or {}
    template["metadata"] = {
        **about,
        "labels": {**about.get("labels", {}), **marks},
        "annotations": {**options["annotations"], **about.get("annotations", {})},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**metadata, "annotations": options["annotations"]},
        "spec": {"selector": {"matchLabels": marks}, "revisionHistoryLimit": 2, "template": template},
    }


def _pod(called: str, spec: PoolSpec, options: Mapping[str, Any], around: Surroundings) -> Object:
    volumes: list[Object] = [
        {"name": "tokens", "secret": {"secretName": called, "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[Object] = [
        {"name": "tokens", "mountPath": _TOKENS, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    # In brackets an address may be of either family.
    command = [options["python"], "-m", "mcp_pools", "serve", "--http", f"[$(POD_IP)]:{PORT}"]
    runs = manifest.container(CONTAINER, spec, options, command, mounts)
    runs["env"] += [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        *({"name": key, "value": value} for key, value in _configuration(spec, options, around).items()),
    ]
    runs["ports"] = [{"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]
    runs["lifecycle"] = {"preStop": {"exec": {"command": [options["python"], "-m", "mcp_pools.kube.drain"]}}}
    runs["startupProbe"] = {**_asks("/healthz"), "periodSeconds": 1, "failureThreshold": 120}
    runs["readinessProbe"] = {**_asks("/readyz"), "periodSeconds": 2, "timeoutSeconds": 5}
    runs["livenessProbe"] = {
        **_asks("/healthz"),
        "periodSeconds": 10,
        "timeoutSeconds": 10,
        "failureThreshold": 6,
    }
    grace = math.ceil(options["grace_seconds"] + _MARGIN_SECONDS)
    return {
        "metadata": {},
        "spec": {"terminationGracePeriodSeconds": grace, **manifest.pod(options, runs, volumes)},
    }


def _asks(path: str) -> Object:
    return {"httpGet": {"path": path, "port": PORT_NAME}}


def _configuration(spec: PoolSpec, options: Mapping[str, Any], around: Surroundings) -> dict[str, str]:
    """The variables that configure a pod. It forgets soon, and nothing of it outlives it."""
    each = int(options["tasks_per_pod"])
    local = {"type": "local", "min_workers": each, "max_workers": each, "worker_type": spec.worker_type}
    keys: dict[str, Any] = {"durable_sync": "normal", "retention_days": 1.0}
    if around.agent is not None:
        keys["agents"] = {spec.worker_type: asdict(around.agent)}
        keys["allow"] = {"prompts": [spec.worker_type]}
    keys |= options["config"]
    keys |= {"home": _HOME, "auth": {"tokens_file": f"{_TOKENS}/{_FILE}"}, "pools": {"local": local}}
    return {
        f"MCP_POOLS_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
        for key, value in keys.items()
    }


def runs(around: Surroundings) -> frozenset[str] | None:
    """The task types that the pods run; `None`: they will say."""
    return None if around.agent is None else frozenset({PROMPT})
