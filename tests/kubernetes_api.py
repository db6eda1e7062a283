"""A cluster for tests: an API server over real HTTP whose Jobs run as processes of this machine.

It answers as the recorded one does: bodies of errors, watches with bookmarks, conditions in
pairs, events for what is refused. It knows what the pool needs (Jobs, pods, Secrets, ConfigMaps,
events, logs, claims) and makes trouble on demand (`Trouble`). An image is what `images` says of
it; any other is a stock Python: this machine's, without the libraries that are installed for the tests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Object = dict[str, Any]

MARK = "TEST_CLUSTER_POD"
"""The variable by which all processes of a pod are found, as a kernel finds those of a namespace."""
KINDS = {
    "jobs": "Job",
    "pods": "Pod",
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "events": "Event",
    "deployments": "Deployment",
    "services": "Service",
    "endpointslices": "EndpointSlice",
    "networkpolicies": "NetworkPolicy",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
}
GROUPS = {"jobs": "jobs.batch", "deployments": "deployments.apps"}


@dataclass
class Trouble:
    """What goes wrong from now on."""

    down: bool = False
    """Every request gets a 503."""
    busy: int = 0
    """So many requests get a 429 that asks for a pause."""
    quota_jobs: bool = False
    quota_pods: bool = False
    pod_security: bool = False
    lost_answers: int = 0
    """So many Jobs are created without the client hearing of it."""
    latency: float = 0.0
    token: str | None = None
    """Who does not bring this is not let in."""
    lost_logs: set[str] = field(default_factory=set)
    """The logs of these pods cannot be read any more."""


@dataclass
class Pod:
    """A pod that runs, or ran."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    ended: bool = False

    @property
    def log(self) -> Path:
        """What its container printed."""
        return self.directory / "log"


class Refusal(Exception):
    """An error answer."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.body = {**status, "message": message, "reason": reason, "details": details, "code": code}


class Cluster:
    """The objects, what happens to them, and the API they are seen through."""

    def __init__(self, directory: Path) -> None:
        self.trouble = Trouble()
        self.images: dict[str, str] = {}
        """What is special about an image: `missing` (no registry has it), `never` (and none is asked),
        `worker` (it has this package and its extras).
        """
        self.python_path = ""
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.created_jobs: list[str] = []
        self._directory = directory
        self._version = 1000
        self._oldest = 0
        self._generation = 0
        self._objects: dict[str, dict[str, Object]] = {kind: {} for kind in KINDS}
        self._history: list[tuple[int, str, str, Object]] = []
        self._pods: dict[str, Pod] = {}
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None

    # From the tests' thread.

    def call(self, coroutine: Any) -> Any:
        """Run something on the cluster's own loop."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def all(self, kind: str) -> list[Object]:
        """The objects of a kind as they stand."""
        return copy.deepcopy(list(self._objects[kind].values()))

    def drop_watches(self) -> None:
        """Every watch breaks off."""
        self.call(self._drop())

    def expire(self) -> None:
        """Nobody can go on from a version heard so far: 410."""
        self._oldest = self._version + 1
        self._version += 2
        self.drop_watches()

    def evict(self, pod: str) -> None:
        """What a drain does."""
        self.call(self._delete_pod(pod, disruption="EvictionByEvictionAPI"))

    def delete_pod(self, pod: str) -> None:
        """Somebody deletes a pod."""
        self.call(self._delete_pod(pod))

    def admit(self, job: str) -> None:
        """A queue lets a Job in."""
        self.call(self._admit(job))

    async def _admit(self, job: str) -> None:
        changed = copy.deepcopy(self._find("jobs", job))
        changed["spec"]["suspend"] = False
        await self._put("jobs", "MODIFIED", changed)
        self._spawn(self._run_job(job))

    def kill(self, pod: str, reason: str = "OOMKilled") -> None:
        """The kernel ends a container."""
        self.call(self._end_pod(pod, 137, reason))

    def evict_for_disk(self, pod: str) -> None:
        """The kubelet evicts a pod that fills the disk."""
        self.call(self._end_pod(pod, 137, "Error", pod_reason="Evicted", message="usage exceeds the limit"))

    async def _drop(self) -> None:
        async with self._changed:
            self._generation += 1
            self._changed.notify_all()

    # The objects.

    async def _put(self, kind: str, change: str, thing: Object) -> Object:
        self._version += 1
        thing = copy.deepcopy(thing)
        thing["metadata"]["resourceVersion"] = str(self._version)
        name = thing["metadata"]["name"]
        if change == "DELETED":
            self._objects[kind].pop(name, None)
        else:
            self._objects[kind][name] = thing
        async with self._changed:
            self._history.append((self._version, kind, change, thing))
            self._changed.notify_all()
        return thing

    async def _update(self, kind: str, name: str, **status: Any) -> Object | None:
        thing = self._objects[kind].get(name)
        if thing is None:
            return None
        thing = copy.deepcopy(thing)
        conditions = status.pop("conditions", [])
        thing.setdefault("status", {}).update(status)
        kept = thing["status"].setdefault("conditions", [])
        for condition in conditions:
            kept[:] = [each for each in kept if each["type"] != condition["type"]] + [condition]
        return await self._put(kind, "MODIFIED", thing)

    def _find(self, kind: str, name: str) -> Object:
        if name not in self._objects[kind]:
            known = GROUPS.get(kind, kind)
            raise Refusal(404, "NotFound", f'{known} "{name}" not found', name=name, kind=kind)
        return self._objects[kind][name]

    async def _create(self, kind: str, body: Object) -> Object:
        name = body.get("metadata", {}).get("name")
        if not name or name != name.lower() or "_" in name or len(name) > 253:
            raise Refusal(422, "Invalid", f'{KINDS[kind]} "{name}" is invalid: metadata.name', name=name)
        if name in self._objects[kind]:
            known = GROUPS.get(kind, kind)
            raise Refusal(409, "AlreadyExists", f'{known} "{name}" already exists', name=name, kind=kind)
        size = sum(len(each) for each in {**body.get("data", {}), **body.get("binaryData", {})}.values())
        if size * 3 // 4 > 1_048_576:
            raise Refusal(422, "Invalid", f'{KINDS[kind]} "{name}" is invalid: []: Too long')
        if kind == "jobs" and self.trouble.quota_jobs:
            message = f'jobs.batch "{name}" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1'
            raise Refusal(403, "Forbidden", message, name=name, kind=kind)
        thing = copy.deepcopy(body)
        thing["metadata"].update(uid=os.urandom(8).hex(), creationTimestamp=now())
        thing = await self._put(kind, "ADDED", thing)
        if kind == "jobs":
            self.created_jobs.append(name)
            self._spawn(self._run_job(name))
        return thing

    # The Job controller and the kubelet.

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_job(self, name: str) -> None:
        job = self._objects["jobs"][name]
        if job["spec"].get("suspend"):
            suspended = {"type": "Suspended", "status": "True", "reason": "JobSuspended"}
            await self._update("jobs", name, conditions=[suspended])
            return
        await self._update("jobs", name, startTime=now())
        refused = "exceeded quota: pods, requested: pods=1" if self.trouble.quota_pods else ""
        if self.trouble.pod_security:
            refused = 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false'
        pod_name = f"{name}-{os.urandom(3).hex()[:5]}"
        if refused:
            message = f'Error creating: pods "{pod_name}" is forbidden: {refused}'
            await self._event("Job", name, "FailedCreate", message)
            return
        pod = copy.deepcopy(job["spec"]["template"])
        pod.setdefault("metadata", {}).update(
            name=pod_name,
            uid=os.urandom(8).hex(),
            ownerReferences=[{"kind": "Job", "name": name, "uid": job["metadata"]["uid"]}],
        )
        pod["metadata"]["labels"] = {**pod["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
        pod.update(apiVersion="v1", kind="Pod", status={"phase": "Pending"})
        await self._put("pods", "ADDED", pod)
        await self._update("jobs", name, active=1)
        deadline = job["spec"].get("activeDeadlineSeconds")
        asyncio.get_running_loop().call_later(deadline, self._spawn_deadline, name)
        await self._start_pod(pod_name)

    def _spawn_deadline(self, name: str) -> None:
        job = self._objects["jobs"].get(name)
        if job is not None and (job.get("status") or {}).get("active"):
            self._spawn(self._past_deadline(name))

    async def _past_deadline(self, name: str) -> None:
        await self._fail_job(name, "DeadlineExceeded", target_only=True)
        for pod in self._pods_of(name):
            await self._delete_pod(pod)
        await self._fail_job(name, "DeadlineExceeded")

    async def _start_pod(self, name: str) -> None:
        spec = self._objects["pods"][name]["spec"]
        container = spec["containers"][0]
        cpus = container.get("resources", {}).get("requests", {}).get("cpu", "0")
        if float(cpus) > 16:
            message = "0/1 nodes are available: 1 Insufficient cpu."
            unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            await self._update("pods", name, conditions=[{**unschedulable, "message": message}])
            return
        self._objects["pods"][name]["spec"]["nodeName"] = "vm"
        await self._update("pods", name, conditions=[{"type": "PodScheduled", "status": "True"}])
        await self._state(name, {"waiting": {"reason": "ContainerCreating"}})
        reason = {"missing": "ErrImagePull", "never": "ErrImageNeverPull"}.get(
            self.images.get(container["image"], "")
        )
        if reason is not None:
            await self._state(name, {"waiting": {"reason": reason, "message": f"no {container['image']}"}})
            return
        directory = Path(tempfile.mkdtemp(dir=self._directory))
        while not self._mounted(spec, directory):
            await asyncio.sleep(0.05)
            if name not in self._objects["pods"]:
                return
        pod = self._pods[name] = Pod(name, directory)
        pod.process = self._started(container, pod)
        await self._state(name, {"running": {"startedAt": now()}}, phase="Running")
        code = await asyncio.to_thread(pod.process.wait)
        if not pod.ended:
            await self._end_pod(
                name, code if code >= 0 else 128 - code, "Completed" if code == 0 else "Error"
            )

    def _mounted(self, spec: Object, directory: Path) -> bool:
        """Bring Secrets and ConfigMaps into the pod's directory, if all are there."""
        for volume in spec.get("volumes", ()):
            place = directory / volume["name"]
            if claim := volume.get("persistentVolumeClaim", {}).get("claimName"):
                (self._directory / "claims" / claim).mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                place.symlink_to(self._directory / "claims" / claim)
                continue
            place.mkdir(exist_ok=True)
            sources = volume.get("projected", {}).get("sources", [])
            wanted = [("secrets", each["secret"]["name"]) for each in sources if "secret" in each]
            if "configMap" in volume:
                wanted.append(("configmaps", volume["configMap"]["name"]))
            for kind, name in wanted:
                if name not in self._objects[kind]:
                    return False
                thing = self._objects[kind][name]
                for key, value in {**thing.get("data", {}), **thing.get("binaryData", {})}.items():
                    (place / key).write_bytes(base64.b64decode(value))
        return True

    def _started(self, container: Object, pod: Pod) -> subprocess.Popen[bytes]:
        mounts = {each["mountPath"]: str(pod.directory / each["name"]) for each in container["volumeMounts"]}

        def inside(word: str) -> str:
            for path, place in mounts.items():
                if word == path or word.startswith(path + "/"):
                    return place + word[len(path) :]
            return word

        argv = [inside(word) for word in container["command"]]
        stock = self.images.get(container["image"]) != "worker"
        python = getattr(sys, "_base_executable", sys.executable) if stock else sys.executable
        argv[0] = python if argv[0] == "python3" else argv[0]
        given = {each["name"]: inside(each["value"]) for each in container.get("env", ())}
        own = {"PATH": os.environ["PATH"], MARK: pod.name}
        if self.python_path:
            own["PYTHONPATH"] = self.python_path
        with pod.log.open("ab") as log:
            return subprocess.Popen(
                argv,
                env={**own, **given},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=mounts["/tmp"],
                start_new_session=True,
            )

    async def _state(self, name: str, state: Object, **status: Any) -> None:
        await self._update("pods", name, containerStatuses=[{"name": "task", "state": state}], **status)

    async def _end_pod(
        self, name: str, code: int, reason: str, *, pod_reason: str = "", message: str = ""
    ) -> None:
        pod = self._pods.get(name)
        if pod is not None:
            pod.ended = True
            await asyncio.to_thread(end_processes, name)
        if name not in self._objects["pods"]:
            return
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}}
        more = {"reason": pod_reason, "message": message} if pod_reason else {}
        phase = "Succeeded" if code == 0 else "Failed"
        await self._state(name, state, phase=phase, **more)
        job = self._objects["pods"][name]["metadata"]["ownerReferences"][0]["name"]
        if code:
            await self._fail_job(job, "BackoffLimitExceeded")
        else:
            reached = {"status": "True", "reason": "CompletionsReached"}
            await self._update("jobs", job, conditions=[{"type": "SuccessCriteriaMet", **reached}])
            await self._update("jobs", job, active=0, conditions=[{"type": "Complete", **reached}])

    async def _fail_job(self, name: str, reason: str, *, target_only: bool = False) -> None:
        failed = {"status": "True", "reason": reason}
        await self._update("jobs", name, conditions=[{"type": "FailureTarget", **failed}])
        if not target_only:
            await self._update("jobs", name, active=0, conditions=[{"type": "Failed", **failed}])

    async def _delete_pod(self, name: str, *, disruption: str = "") -> None:
        if name not in self._objects["pods"]:
            return
        if disruption:
            target = {"type": "DisruptionTarget", "status": "True", "reason": disruption}
            await self._update("pods", name, conditions=[{**target, "message": "Eviction API: evicting"}])
        self._objects["pods"][name]["metadata"]["deletionTimestamp"] = now()
        await self._update("pods", name)
        pod = self._pods.get(name)
        if pod is not None and not pod.ended:
            await self._end_pod(name, 137, "Error")
        elif pod is None:
            job = self._objects["pods"][name]["metadata"]["ownerReferences"][0]["name"]
            await self._fail_job(job, "BackoffLimitExceeded")
        if name in self._objects["pods"]:
            await self._put("pods", "DELETED", self._objects["pods"][name])

    def _pods_of(self, job: str) -> list[str]:
        return [
            name
            for name, pod in self._objects["pods"].items()
            if pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == job
        ]

    async def _delete_job(self, name: str) -> None:
        job = self._find("jobs", name)
        if "deletionTimestamp" in job["metadata"]:
            return
        job["metadata"]["deletionTimestamp"] = now()
        await self._update("jobs", name)
        self._spawn(self._collect_garbage(name))

    async def _collect_garbage(self, name: str) -> None:
        uid = self._objects["jobs"][name]["metadata"]["uid"]
        for pod in self._pods_of(name):
            await self._delete_pod(pod)
        if name in self._objects["jobs"]:
            await self._put("jobs", "DELETED", self._objects["jobs"][name])
        for secret in list(self._objects["secrets"].values()):
            owners = secret["metadata"].get("ownerReferences", ())
            if any(owner["uid"] == uid for owner in owners):
                await self._put("secrets", "DELETED", secret)

    async def _event(self, kind: str, name: str, reason: str, message: str) -> None:
        about = {"kind": kind, "name": name}
        metadata = {"name": f"{name}.{os.urandom(4).hex()}"}
        event = {"metadata": metadata, "involvedObject": about, "reason": reason, "message": message}
        await self._put("events", "ADDED", event)

    # The API.

    async def handle(self, request: Request) -> Response:
        """Any request."""
        kind, name = request.path_params["kind"], request.path_params.get("name", "")
        rest = request.path_params.get("rest", "")
        self.requests.append((request.method, request.url.path))
        if self.trouble.latency:
            await asyncio.sleep(self.trouble.latency)
        try:
            self._let_in(request)
            if request.method == "GET" and rest == "log":
                return self._log(name, follow="follow" in request.query_params)
            if request.method == "GET" and name:
                return JSONResponse(self._find(kind, name))
            if request.method == "GET" and "watch" in request.query_params:
                return StreamingResponse(self._watch(kind, request), media_type="application/json")
            if request.method == "GET":
                return JSONResponse(self._list(kind, request))
            return await self._write(kind, name, request)
        except Refusal as refusal:
            headers = {"Retry-After": "0.05"} if refusal.code == 429 else {}
            return JSONResponse(refusal.body, refusal.code, headers)

    def _let_in(self, request: Request) -> None:
        if self.trouble.down:
            raise Refusal(503, "ServiceUnavailable", "apiserver is shutting down")
        if self.trouble.busy:
            self.trouble.busy -= 1
            raise Refusal(429, "TooManyRequests", "too many requests")
        if self.trouble.token and request.headers.get("authorization") != f"Bearer {self.trouble.token}":
            raise Refusal(401, "Unauthorized", "Unauthorized")

    async def _write(self, kind: str, name: str, request: Request) -> Response:
        body = json.loads(await request.body() or b"{}")
        if request.method == "POST":
            thing = await self._create(kind, body)
            if kind == "jobs" and self.trouble.lost_answers:
                self.trouble.lost_answers -= 1
                raise Refusal(504, "Timeout", "request did not complete within the allotted timeout")
            return JSONResponse(thing, 201)
        thing = self._find(kind, name)
        if request.method == "PATCH":
            changed = copy.deepcopy(thing)
            changed["metadata"].update(body.get("metadata", {}))
            changed.get("spec", {}).update(body.get("spec", {}))
            return JSONResponse(await self._put(kind, "MODIFIED", changed))
        if kind == "jobs":
            await self._delete_job(name)
        elif kind == "pods":
            self._spawn(self._delete_pod(name))
        else:
            await self._put(kind, "DELETED", thing)
        return JSONResponse(thing)

    def _list(self, kind: str, request: Request) -> Object:
        items = [each for each in self._objects[kind].values() if selected(each, request)]
        metadata = {"resourceVersion": str(self._version)}
        return {"kind": f"{KINDS[kind]}List", "apiVersion": "v1", "metadata": metadata, "items": items}

    async def _watch(self, kind: str, request: Request) -> AsyncIterator[bytes]:
        since, generation = int(request.query_params["resourceVersion"]), self._generation
        if since < self._oldest:
            message = f"too old resource version: {since} ({self._oldest})"
            yield line("ERROR", Refusal(410, "Expired", message).body)
            return
        sent = 0
        while generation == self._generation:
            for version, what, change, thing in self._history[sent:]:
                sent += 1
                if what == kind and version > since and selected(thing, request):
                    yield line(change, thing)
            mark = {"kind": KINDS[kind], "metadata": {"resourceVersion": str(self._version)}}
            if sent == len(self._history):
                yield line("BOOKMARK", mark)
            async with self._changed:
                if sent == len(self._history) and generation == self._generation:
                    await self._changed.wait()

    def _log(self, name: str, *, follow: bool) -> Response:
        self._find("pods", name)
        pod = self._pods.get(name)
        if pod is None:
            message = f'container "task" in pod "{name}" is waiting to start'
            raise Refusal(400, "BadRequest", message)
        if name in self.trouble.lost_logs:
            raise Refusal(500, "InternalError", "dial tcp: connect: no route to host")
        return StreamingResponse(self._log_lines(pod, follow), media_type="text/plain")

    async def _log_lines(self, pod: Pod, follow: bool) -> AsyncIterator[bytes]:
        with pod.log.open("rb") as log:
            while pod.name not in self.trouble.lost_logs:
                over = pod.process is None or pod.process.poll() is not None
                while data := log.read(1 << 16):
                    yield data
                if over or not follow:
                    return
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End everything that runs."""
        await self._drop()
        for task in list(self._tasks):
            task.cancel()
        for name, pod in self._pods.items():
            pod.ended = True
            await asyncio.to_thread(end_processes, name)


def now() -> str:
    """The time, as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def line(change: str, thing: Object) -> bytes:
    """One event of a watch."""
    return json.dumps({"type": change, "object": thing}).encode() + b"\n"


def selected(thing: Object, request: Request) -> bool:
    """Whether an object fits the selectors of a request."""
    marks = thing["metadata"].get("labels") or {}
    wanted = [part.split("=", 1) for part in request.query_params.get("labelSelector", "").split(",") if part]
    fields = [part.split("=", 1) for part in request.query_params.get("fieldSelector", "").split(",") if part]
    return all(marks.get(key) == value for key, value in wanted) and all(
        _at(thing, key) == value for key, value in fields
    )


def _at(thing: Any, path: str) -> Any:
    for key in path.split("."):
        thing = (thing or {}).get(key)
    return thing


def end_processes(pod: str) -> None:
    """Kill all processes of a pod, and wait until there are none."""
    while found := _processes(pod):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def _processes(pod: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and f"{MARK}={pod}\0" in (entry / "environ").read_text(
                errors="replace"
            ):
                state = (entry / "stat").read_text().rpartition(") ")[2][:1]
                found += [int(entry.name)] if state not in "ZX" else []
    return found


@contextmanager
def cluster(directory: Path, kind: type[Cluster] = Cluster, **tls: Any) -> Iterator[Any]:
    """A cluster that serves for as long as the block lasts, in a thread of its own.

    `tls`: uvicorn's `ssl_…` arguments; none: plain HTTP.
    """
    directory.mkdir(exist_ok=True)
    made = kind(directory)
    paths = [f"/{root}/namespaces/{{namespace}}/{{kind}}" for root in ("api/v1", "apis/{group}/{version}")]
    methods = ["GET", "POST", "PATCH", "DELETE"]
    routes = [
        Route(path + end, made.handle, methods=methods)
        for path in paths
        for end in ("", "/{name}", "/{name}/{rest}")
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(
        Starlette(routes=routes), log_level="error", lifespan="off", timeout_graceful_shutdown=1, **tls
    )
    server = uvicorn.Server(config)
    ready = threading.Event()

    async def serve() -> None:
        made.loop = asyncio.get_running_loop()
        ready.set()
        await server.serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield made
    finally:
        made.call(made.stop())
        server.should_exit = True
        thread.join(10)
        listening.close()
