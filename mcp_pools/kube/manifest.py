"""The objects that an attempt is made of: its Job, the Secrets with its input, the code. Pure.

A Job is named after its attempt, so creating it twice makes one. Its pod follows the
restricted profile of Pod Security; `options` fill in what a cluster wants, and a pod template
may say otherwise.
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

from mcp_pools.adapter import Launch, Surroundings
from mcp_pools.carrier import facts_of
from mcp_pools.errors import PoolsError, nearest
from mcp_pools.models import PoolSpec

Object = dict[str, Any]

POOL: Final = "mcp-pools/pool"
HOME: Final = "mcp-pools/home"
TASK: Final = "mcp-pools/task-id"
ATTEMPT: Final = "mcp-pools/attempt"
CONTAINER: Final = "task"

PART_BYTES: Final = 700_000
"""Payload in one Secret at most; the API takes 1 MiB, and 1.5 MB of JSON with its base64."""
MOST_PARTS: Final = 12
MARGIN_SECONDS: Final = 60.0
"""What a Job's deadline leaves for what is not the task: the image, the worker's start."""
_PLACE: Final = "/mcp-pools"
_RESULTS: Final = f"{_PLACE}/results"
_MOUNTS: Final[dict[str, Object]] = {
    "code": {"mountPath": f"{_PLACE}/code", "readOnly": True},
    "input": {"mountPath": f"{_PLACE}/input", "readOnly": True},
    "results": {"mountPath": _RESULTS},
    "tmp": {"mountPath": "/tmp"},  # noqa: S108
}
_OWN_NAMES: Final = frozenset({"PATH", "HOME", "LANG", "TMPDIR"})
"""Variables that a container has values of its own for."""

OPTIONS: Final[dict[str, Any]] = {
    "annotations": {},
    "context": "",
    "image_pull_policy": "",
    "image_pull_secrets": [],
    "mode": "jobs",
    "node_selector": {},
    "pending_seconds": 300.0,
    "pod_template": {},
    "priority_class": "",
    "python": "python3",
    "queue": "",
    "resources": {},
    "result_volume": "",
    "runtime_class": "",
    "service_account": "",
    "task_types": ["echo", "sleep", "compute", "transform", "command", "process", "python"],
    "tolerations": [],
    "ttl_seconds": 600.0,
}
"""The options of a pool of Jobs, each with what it is when nothing is said; its type is the option's type.

`task_types`: what the image can run, by default what a stock Python image can; `*`: all there
are. `result_volume`: the name of a PersistentVolumeClaim where outcomes are kept, too.
"""


def checked_options(spec: PoolSpec, known: Mapping[str, Any] = OPTIONS) -> dict[str, Any]:
    """A definition's options over the defaults, `known`; raises `PoolsError` `invalid_payload`."""
    for name, value in spec.options.items():
        if name not in known:
            message = f"A kubernetes pool of mode {known['mode']} has no option {name!r}."
            raise PoolsError(
                "invalid_payload", message, nearest(name, known) or f"It has: {', '.join(known)}."
            )
        usual = known[name]
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        if not (number if isinstance(usual, float) else isinstance(value, type(usual))):
            kind = {float: "a number, 0 or more", str: "text", list: "a list", dict: "an object"}[type(usual)]
            raise PoolsError("invalid_payload", f"Option {name} is {value!r}.", f"Give {kind}.")
    return {**known, **spec.options}


def job_name(attempt_id: str) -> str:
    """The name of an attempt's Job: lower-case, at most 63 characters, the same each time."""
    readable = re.sub(r"[^a-z0-9]+", "-", attempt_id.lower()).strip("-")[:44]
    return f"{readable}-{hashlib.sha256(attempt_id.encode()).hexdigest()[:12]}".strip("-")


def labels(pool: str, home: str) -> dict[str, str]:
    """What all objects of a pool carry."""
    return {"app.kubernetes.io/managed-by": "mcp-pools", POOL: _label(pool), HOME: home}


def _label(text: str) -> str:
    """Text as a label's value, which must begin and end with a letter or digit."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.")


def secrets(launch: Launch, surroundings: Surroundings, common: Mapping[str, str]) -> list[Object]:
    """The Secrets that bring a launch's input; raises `PoolsError` when it is too large."""
    name = job_name(launch.attempt_id)
    data = launch.payload
    parts = [data[first : first + PART_BYTES] for first in range(0, len(data), PART_BYTES)]
    if len(parts) > MOST_PARTS:
        raise PoolsError(
            "invalid_payload",
            f"The payload has {len(data)} bytes; a Job takes {PART_BYTES * MOST_PARTS}.",
            "Put the data where the Job can read it, and send its address.",
        )
    files = [{f"payload-{number}": part} for number, part in enumerate(parts)] or [{}]
    files[0]["launch.json"] = json.dumps(_facts(launch, surroundings, len(parts))).encode()
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-{number}", "labels": _all_labels(launch, common)},
            "type": "Opaque",
            "immutable": True,
            "data": {key: base64.b64encode(value).decode() for key, value in content.items()},
        }
        for number, content in enumerate(files)
    ]


def _facts(launch: Launch, surroundings: Surroundings, parts: int) -> Object:
    environment = {key: value for key, value in surroundings.environment.items() if key not in _OWN_NAMES}
    return {
        **facts_of(launch),
        "parts": [f"payload-{number}" for number in range(parts)],
        "environment": environment,
        "agent": None if surroundings.agent is None else asdict(surroundings.agent),
    }


def _all_labels(launch: Launch, common: Mapping[str, str]) -> dict[str, str]:
    return {**common, TASK: _label(launch.task_id), ATTEMPT: _label(launch.attempt_id)}


def code(name: str, data: bytes) -> Object:
    """The ConfigMap with the code, shared by all Jobs of this version."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"mcp-pools-code-{name}",
            "labels": {"app.kubernetes.io/managed-by": "mcp-pools"},
        },
        "immutable": True,
        "binaryData": {"code.zip": base64.b64encode(data).decode()},
    }


def job(launch: Launch, spec: PoolSpec, common: Mapping[str, str], code_name: str) -> Object:
    """The Job of a launch."""
    options, name = checked_options(spec), job_name(launch.attempt_id)
    command = [f"{_PLACE}/input", *([f"{_RESULTS}/{name}"] if options["result_volume"] else [])]
    volumes = [_code_volume(code_name), _input_volume(launch)]
    return _job(name, launch, spec, options, common, command, volumes)


def recovery(launch: Launch, spec: PoolSpec, common: Mapping[str, str], code_name: str, name: str) -> Object:
    """The Job, by this name, that tells once more what a launch's Job kept in the result volume."""
    command = ["--recover", f"{_RESULTS}/{job_name(launch.attempt_id)}"]
    return _job(name, launch, spec, checked_options(spec), common, command, [_code_volume(code_name)])


def _job(
    name: str,
    launch: Launch,
    spec: PoolSpec,
    options: Mapping[str, Any],
    common: Mapping[str, str],
    arguments: list[str],
    volumes: list[Object],
) -> Object:
    marks = _all_labels(launch, common)
    template = merged(_pod(spec, options, arguments, volumes), options["pod_template"])
    metadata = {**template.get("metadata", {})}
    metadata["labels"] = {**metadata.get("labels", {}), **marks}
    metadata["annotations"] = {**options["annotations"], **metadata.get("annotations", {})}
    template = {**template, "metadata": metadata}
    queue = {"kueue.x-k8s.io/queue-name": options["queue"]} if options["queue"] else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**marks, **queue},
            "annotations": options["annotations"],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": math.ceil(options["pending_seconds"] + launch.timeout + MARGIN_SECONDS),
            "ttlSecondsAfterFinished": math.ceil(options["ttl_seconds"]),
            **({"suspend": True} if queue else {}),
            "template": template,
        },
    }


def _pod(spec: PoolSpec, options: Mapping[str, Any], arguments: list[str], volumes: list[Object]) -> Object:
    volumes = [*volumes, {"name": "tmp", "emptyDir": {}}]
    if options["result_volume"]:
        claim = {"claimName": options["result_volume"]}
        volumes.append({"name": "results", "persistentVolumeClaim": claim})
    command = [options["python"], f"{_PLACE}/code/code.zip", *arguments]
    mounts = [{"name": each["name"], **_MOUNTS[each["name"]]} for each in volumes]
    ours = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5}
    return {
        "metadata": {},
        "spec": {**ours, **pod(options, container(CONTAINER, spec, options, command, mounts), volumes)},
    }


def pod(options: Mapping[str, Any], runs: Object, volumes: list[Object]) -> Object:
    """What a pod is by the restricted profile, and by a pool's options."""
    named = {
        "nodeSelector": options["node_selector"],
        "tolerations": options["tolerations"],
        "serviceAccountName": options["service_account"],
        "priorityClassName": options["priority_class"],
        "runtimeClassName": options["runtime_class"],
        "imagePullSecrets": [{"name": name} for name in options["image_pull_secrets"]],
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [runs],
        "volumes": volumes,
        **{key: value for key, value in named.items() if value},
    }


def container(
    name: str, spec: PoolSpec, options: Mapping[str, Any], command: list[str], mounts: list[Object]
) -> Object:
    """A container by the restricted profile: it writes nowhere but below `/tmp`."""
    made = {
        "name": name,
        "image": spec.container_image,
        "command": command,
        "workingDir": "/tmp",  # noqa: S108
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108
            {"name": "TMPDIR", "value": "/tmp"},  # noqa: S108
            {"name": "LANG", "value": "C.UTF-8"},
            {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": options["resources"],
        "volumeMounts": mounts,
    }
    if options["image_pull_policy"]:
        made["imagePullPolicy"] = options["image_pull_policy"]
    return made


def _code_volume(code_name: str) -> Object:
    return {"name": "code", "configMap": {"name": f"mcp-pools-code-{code_name}"}}


def _input_volume(launch: Launch) -> Object:
    name = job_name(launch.attempt_id)
    count = max(1, -(-len(launch.payload) // PART_BYTES))
    sources = [{"secret": {"name": f"{name}-{number}"}} for number in range(count)]
    return {"name": "input", "projected": {"sources": sources, "defaultMode": 0o440}}


def merged(base: Any, over: Any) -> Any:
    """`over` laid on `base`: objects key by key, lists of named objects (containers, volumes,
    variables) name by name, anything else replaced; null takes a key away.
    """
    if isinstance(base, dict) and isinstance(over, dict):
        result = {**base}
        for key, value in over.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merged(base[key], value) if key in base else value
        return result
    if _named(base) and _named(over):
        known = {each["name"]: each for each in base}
        for each in over:
            known[each["name"]] = merged(known.get(each["name"], {}), each)
        return list(known.values())
    return over


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) and "name" in each for each in value)
