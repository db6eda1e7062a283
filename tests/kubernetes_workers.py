"""A cluster for tests that keeps Deployments, too: their pods are processes, each at a loopback address.

What the recorded cluster does, in small: server-side apply, the scale subresource, an autoscaler that keeps
a Deployment within its bounds (without metrics, as there), probes, EndpointSlices that say what is
ready and what is to go, preStop and the grace period, containers that start anew.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from kubernetes_api import MARK, Cluster, Object, Pod, Refusal, end_processes, now
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class WorkersCluster(Cluster):
    """See above. `fast`: seconds between looks at a pod."""

    fast = 0.05

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.images = {"mcp-pools-worker": "worker"}
        self.started: list[str] = []
        """The names of all pods there were."""
        self.network = f"127.{random.randint(2, 250)}.{random.randint(2, 250)}"
        self._numbers = iter(range(2, 250))

    # From the tests' thread.

    def pods(self, deployment: str = "") -> list[Object]:
        """The pods of Deployments, or of one."""
        return [
            pod for pod in self.all("pods") if pod["metadata"]["labels"].get("app", "").startswith(deployment)
        ]

    def crash(self, pod: str) -> None:
        """The kernel ends a pod's container; it starts anew in its place."""
        self.call(self._crash(pod))

    def vanish(self, pod: str) -> None:
        """A pod is gone at once, with all its processes: its node was lost and given up."""
        self.call(self._vanish(pod))

    async def _crash(self, pod: str) -> None:
        await asyncio.to_thread(end_processes, pod)

    async def _vanish(self, name: str) -> None:
        self._pods[name].ended = True
        await asyncio.to_thread(end_processes, name)
        await self._gone(name)

    # The API.

    async def _write(self, kind: str, name: str, request: Request) -> Response:
        content = request.headers.get("content-type", "")
        if request.path_params.get("rest") == "scale":
            replicas = json.loads(await request.body())["spec"]["replicas"]
            return JSONResponse(await self._merge(kind, name, {"spec": {"replicas": replicas}}))
        if request.method == "PATCH" and content.startswith("application/apply-patch"):
            if not request.query_params.get("fieldManager"):
                raise Refusal(
                    400, "BadRequest", "PatchOptions.meta.k8s.io is invalid: fieldManager: Required"
                )
            return await self._apply(kind, name, json.loads(await request.body()))
        if request.method == "DELETE" and kind == "deployments":
            thing = self._find(kind, name)
            await self._put(kind, "DELETED", thing)
            await self._reconcile(name)
            return JSONResponse(thing)
        return await super()._write(kind, name, request)

    async def _apply(self, kind: str, name: str, body: Object) -> Response:
        there = self._objects[kind].get(name)
        if there is None:
            made = await self._create(kind, body)
            if kind == "deployments":
                made = await self._merge(kind, name, {"spec": {"replicas": 1}})
            await self._settle(kind, name)
            return JSONResponse(made, 201)
        return JSONResponse(await self._merge(kind, name, body))

    async def _merge(self, kind: str, name: str, body: Object) -> Object:
        thing = await self._put(kind, "MODIFIED", merged(self._find(kind, name), body))
        await self._settle(kind, name)
        return thing

    async def _settle(self, kind: str, name: str) -> None:
        if kind == "services":
            await self._slice(name)
        if kind in ("deployments", "horizontalpodautoscalers"):
            await self._reconcile(name)

    # The controllers.

    async def _reconcile(self, name: str) -> None:
        """Start and end pods until there are as many as are wanted."""
        deployment = self._objects["deployments"].get(name)
        template = deployment["spec"]["template"] if deployment else {}
        wanted = self._wanted(name)
        if deployment and wanted != deployment["spec"].get("replicas", 1):
            deployment["spec"]["replicas"] = wanted
        mark = _hash(template)
        alive = [each for each in self._of(name) if "deletionTimestamp" not in each["metadata"]]
        current = [each for each in alive if each["metadata"]["labels"]["pod-template-hash"] == mark]
        for _ in range(wanted - len(current)):
            await self._new_pod(name, template, mark)
        for pod in [*[each for each in alive if each not in current], *current[wanted:]]:
            self._spawn(self._delete_pod(pod["metadata"]["name"]))

    def _wanted(self, name: str) -> int:
        if name not in self._objects["deployments"]:
            return 0
        wanted: int = self._objects["deployments"][name]["spec"].get("replicas", 1)
        autoscaler = self._objects["horizontalpodautoscalers"].get(name)
        if autoscaler and wanted:
            bounds = autoscaler["spec"]
            wanted = min(max(wanted, bounds["minReplicas"]), bounds["maxReplicas"])
        return wanted

    def _of(self, name: str) -> list[Object]:
        return [
            each for each in self._objects["pods"].values() if each["metadata"]["labels"].get("app") == name
        ]

    async def _new_pod(self, deployment: str, template: Object, mark: str) -> None:
        pod = copy.deepcopy(template)
        name = f"{deployment}-{mark}-{os.urandom(3).hex()[:5]}"
        labels = {**pod["metadata"]["labels"], "app": deployment, "pod-template-hash": mark}
        pod["metadata"] |= {"name": name, "uid": os.urandom(8).hex(), "labels": labels, "ownerReferences": []}
        pod.update(apiVersion="v1", kind="Pod", status={"phase": "Pending"})
        self.started.append(name)
        await self._put("pods", "ADDED", pod)
        self._spawn(self._live(name, deployment))

    async def _live(self, name: str, deployment: str) -> None:
        """A pod on its node: its container runs, is probed, and starts anew when it ends."""
        spec = self._objects["pods"][name]["spec"]
        container = spec["containers"][0]
        trouble = {"missing": "ErrImagePull"}.get(self.images.get(container["image"], ""))
        state = {"waiting": {"reason": trouble or "ContainerCreating", "message": container["image"]}}
        await self._state(name, state)
        if trouble:
            return
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        while not self._mounted(spec, directory):
            await asyncio.sleep(self.fast)
        pod = self._pods[name] = Pod(name, directory)
        address = f"{self.network}.{next(self._numbers)}"
        await self._update("pods", name, podIP=address)
        while not pod.ended and name in self._objects["pods"]:
            pod.process = self._started(container, pod, address)
            running = {"running": {"startedAt": now()}}
            await self._state(name, running, phase="Running")
            await self._slice(deployment)
            probing = asyncio.create_task(self._probe(name, deployment, address, container))
            await asyncio.to_thread(pod.process.wait)
            probing.cancel()
            await self._ready(name, deployment, "False")

    async def _probe(self, name: str, deployment: str, address: str, container: Object) -> None:
        path = container["readinessProbe"]["httpGet"]["path"]
        port = container["ports"][0]["containerPort"]
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(f"http://{address}:{port}{path}")
                    await self._ready(name, deployment, "True" if answer.is_success else "False")
                pod = self._objects["pods"].get(name)  # one that is ready is not asked so often
                await asyncio.sleep(self.fast if pod is None or _is_ready(pod) == "False" else 0.5)

    async def _ready(self, name: str, deployment: str, status: str) -> None:
        pod = self._objects["pods"].get(name)
        if pod is None or _is_ready(pod) == status:
            return
        await self._update("pods", name, conditions=[{"type": "Ready", "status": status}])
        await self._slice(deployment)

    async def _slice(self, service: str) -> None:
        """What the controller of EndpointSlices says."""
        if service not in self._objects["services"]:
            return
        ports = self._objects["services"][service]["spec"]["ports"]
        pods = [each for each in self._of(service) if each["status"].get("podIP")]
        found = {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": f"{service}-abcde", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "endpoints": [_endpoint(each) for each in pods] or None,
            "ports": [{"name": each["name"], "port": each["port"], "protocol": "TCP"} for each in ports],
        }
        change = "MODIFIED" if found["metadata"]["name"] in self._objects["endpointslices"] else "ADDED"
        await self._put("endpointslices", change, found)

    async def _delete_pod(self, name: str, *, disruption: str = "") -> None:
        """As a kubelet ends a pod: it is marked, its preStop runs, then SIGTERM, in the end SIGKILL."""
        thing = self._objects["pods"].get(name)
        if thing is None or "app" not in thing["metadata"]["labels"]:
            await super()._delete_pod(name, disruption=disruption)
            return
        if "deletionTimestamp" in thing["metadata"]:
            return
        thing["metadata"]["deletionTimestamp"] = now()
        await self._update("pods", name)
        await self._slice(thing["metadata"]["labels"]["app"])
        await self._reconcile(thing["metadata"]["labels"]["app"])  # another one does not wait for its end
        pod = self._pods.get(name)
        if pod is not None and pod.process is not None:
            pod.ended = True
            grace = thing["spec"]["terminationGracePeriodSeconds"]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped(thing, pod), grace)
            await asyncio.to_thread(end_processes, name)
        await self._gone(name)

    async def _stopped(self, thing: Object, pod: Pod) -> None:
        container = thing["spec"]["containers"][0]
        argv = container["lifecycle"]["preStop"]["exec"]["command"]
        stop = self._started({**container, "command": argv}, pod, thing["status"]["podIP"])
        await asyncio.to_thread(stop.wait)
        assert pod.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pod.process.pid, signal.SIGTERM)
        await asyncio.to_thread(pod.process.wait)

    async def _gone(self, name: str) -> None:
        thing = self._objects["pods"].get(name)
        if thing is not None:
            await self._put("pods", "DELETED", thing)
            deployment = thing["metadata"]["labels"]["app"]
            await self._slice(deployment)
            await self._reconcile(deployment)

    # The kubelet.

    def _mounted(self, spec: Object, directory: Path) -> bool:
        for volume in spec["volumes"]:
            if "secret" not in volume:
                continue
            secret = self._objects["secrets"].get(volume["secret"]["secretName"])
            if secret is None:
                return False
            place = directory / volume["name"]
            place.mkdir(exist_ok=True)
            for key, value in secret["data"].items():
                (place / key).write_bytes(base64.b64decode(value))
                (place / key).chmod(volume["secret"]["defaultMode"] if os.geteuid() == 0 else 0o400)
        return super()._mounted(spec, directory)

    def _started(self, container: Object, pod: Pod, address: str = "") -> subprocess.Popen[bytes]:
        if not address:
            return super()._started(container, pod)
        mounts = {each["mountPath"]: str(pod.directory / each["name"]) for each in container["volumeMounts"]}
        known = re.compile(rf"(?<!\w)({'|'.join(mounts)})(?!\w)")
        given = {each["name"]: each.get("value", address) for each in container["env"]}

        def inside(word: str) -> str:
            return known.sub(lambda found: mounts[found[0]], word.replace("$(POD_IP)", address))

        argv = [inside(word) for word in container["command"]]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": self.python_path, MARK: pod.name}
        with pod.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *argv[1:]],
                env={**environment, **{key: inside(value) for key, value in given.items()}},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=mounts["/tmp"],
                start_new_session=True,
            )


def merged(base: Any, over: Any) -> Any:
    """Server-side apply, where one manager has all fields: objects key by key, all else replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    return copy.deepcopy(over)


def _hash(template: Object) -> str:
    return f"{hash(json.dumps(template, sort_keys=True)) & 0xFFFFFFFF:08x}"


def _is_ready(pod: Object) -> str:
    conditions = pod["status"].get("conditions") or ()
    return next((each["status"] for each in conditions if each["type"] == "Ready"), "False")


def _endpoint(pod: Object) -> Object:
    metadata, going = pod["metadata"], "deletionTimestamp" in pod["metadata"]
    serving = _is_ready(pod) == "True"
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": serving and not going, "serving": serving, "terminating": going},
        "targetRef": {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        "nodeName": "vm",
    }
