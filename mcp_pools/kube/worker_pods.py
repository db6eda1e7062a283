"""Mode `workers` of a kubernetes pool: pods that are kept, each an mcp-pools that serves many launches.

The objects (`mcp_pools.kube.deployment`) are applied whenever an owner opens the pool, and stay when it
leaves: what runs in the pods goes on, and the next owner takes it up. Each ready endpoint of the
Service is a pool on another server (`mcp_pools.far_pool`); a launch goes to the one with most room,
under its attempt id, so that it runs once however often it is sent. A launch's worker names its pod.

A pod that is to go gets no new launches and ends those it has. What a pod had when it went is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from mcp_pools.adapter import Changed, Ended, Launch, Returned, Sink, Slot, Surroundings
from mcp_pools.bearer import SecretBearer
from mcp_pools.errors import PoolsError
from mcp_pools.far_pool import FarPool
from mcp_pools.kube import deployment, reasons
from mcp_pools.kube.api import Api, ApiError, Object, unopened
from mcp_pools.kube.credentials import SERVICE_ACCOUNT, find_access
from mcp_pools.kube.endpoints import Endpoint, endpoints
from mcp_pools.kube.informer import Informer
from mcp_pools.kube.kept import identity, token
from mcp_pools.models import Health, PoolSpec, Worker
from mcp_pools.profile import LOOK_SECONDS
from mcp_pools.profiles.federation import Federation
from mcp_pools.ways.over_http import OverHttp

_AGAIN_SECONDS: Final = 2.0
"""How soon a cluster that did not answer is asked again."""
_OPENING_SECONDS: Final = 2 * LOOK_SECONDS
"""How long opening the pool waits for pods that are there."""
_CRASHES: Final = "CrashLoopBackOff"


class _Served(FarPool):
    """The mcp-pools in a pod."""

    profiles = (Federation,)


class _Pod:
    """A pod and the line to it."""

    def __init__(self, endpoint: Endpoint, pool: _Served) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.looked = asyncio.Event()
        """Set once it was asked who it is."""
        self.over = asyncio.Event()
        """Set when its line is to end."""
        self.gone = False
        """Whether that is because its endpoint is no more."""
        self.wrong: str | None = None
        """Why it can never be a part of the pool."""
        self.keeping: asyncio.Task[None] | None = None

    @property
    def open(self) -> bool:
        """Whether it takes launches."""
        return self.endpoint.ready and not self.gone and self.wrong is None and self.looked.is_set()

    @property
    def answers(self) -> bool:
        """Whether it does, as far as we know."""
        return self.open and self.pool.trouble is None


class WorkerPods:
    """A pool of kept pods (`mcp_pools.adapter.Adapter`)."""

    resolves_secrets = True
    """The pods have their own."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        self._spec = spec
        self._surroundings = surroundings
        self._options = deployment.checked(spec)
        self.task_types = deployment.runs(surroundings)
        """What the pods run; `None` until one was asked."""
        self._access = find_access(spec.endpoint, self._options["context"] or None)
        self._slices: dict[str, Object] = {}
        self._pods: dict[tuple[str, str], _Pod] = {}
        self._leaving: set[_Pod] = set()
        """Pods whose endpoints are no more, until what they had is settled."""
        self._orphans: dict[str, list[Launch]] = {}
        """By the names of their pods, until those are met."""
        self._waiting: list[Endpoint] = []
        """Pods that have not been ready yet."""
        self._stale = asyncio.Event()
        """Set when the cluster may not have what it is to have."""
        self._applying = asyncio.Lock()
        self._discarded = False
        self._closing = asyncio.Event()

    @property
    def spec(self) -> PoolSpec:
        """The definition; another size is passed on to the cluster."""
        return self._spec

    @spec.setter
    def spec(self, spec: PoolSpec) -> None:
        """See above."""
        changed, self._spec = spec != self._spec, spec
        if changed:
            self._stale.set()

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. Raises `PoolsError` `pool_unreachable` when the cluster does not answer."""
        self._sink = sink
        async with Api(self._access, self.spec.namespace) as self._api:
            work: list[asyncio.Task[None]] = []
            try:
                await self._open(orphans)
                work = [asyncio.create_task(self._informer.run()), asyncio.create_task(self._keep_applied())]
                yield
            except ApiError as error:
                raise unopened(error) from error
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
                await self._leave()

    async def _open(self, orphans: Sequence[Launch]) -> None:
        directory = self._surroundings.directory
        home = await asyncio.to_thread(identity, directory)
        bearer = self._token = await asyncio.to_thread(token, directory)
        self._own = await asyncio.to_thread(_own_namespace)
        self._home, self._name = home, deployment.name(self.spec.name, home)
        self._bearer = SecretBearer(lambda: bearer)
        await self._apply()
        select = {"labelSelector": f"kubernetes.io/service-name={self._name}"}
        self._informer = Informer(self._api, "endpointslices", select, self._listed, self._changed)
        for launch in orphans:
            self._orphans.setdefault(_pod_of(launch), []).append(launch)
        await self._informer.list()
        self._judge_orphans()
        pods = [asyncio.create_task(pod.looked.wait()) for pod in self._pods.values()]
        if pods:
            _, late = await asyncio.wait(pods, timeout=_OPENING_SECONDS)
            for each in late:
                each.cancel()

    # What there is to be in the cluster.

    async def _apply(self) -> None:
        """Make the cluster have all objects as they are to be, and the Deployment a size in its bounds: the
        autoscaler sees to that, too, but only by and by, and not that there is none.
        """
        spec, options = self.spec, self._options
        around, home = self._surroundings, self._home
        made = {
            kind: await self._api.apply(kind, body)
            for kind, body in deployment.objects(spec, options, around, home, self._token, self._own)
        }
        await self._api.apply("horizontalpodautoscalers", deployment.autoscaler(spec, options, home))
        least, most = deployment.size(spec, options)
        present = made["deployments"]["spec"].get("replicas", 1)
        wanted = min(max(present, least), most)
        if wanted != present:
            await self._api.scale(self._name, wanted)

    async def _keep_applied(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                async with self._applying:
                    if not self._discarded:
                        await self._apply()
            except (ApiError, PoolsError):
                self._stale.set()
                await asyncio.sleep(_AGAIN_SECONDS)

    async def discard(self) -> None:
        """The pool is closed for good: take all of it away. Raises `PoolsError` when the cluster refuses."""
        self._discarded = True
        try:
            async with self._applying:  # what is on its way would make it anew
                await self._delete_all()
        except ApiError as error:
            raise unopened(error) from error

    async def _delete_all(self) -> None:
        for kind in ("horizontalpodautoscalers", "deployments", "services", "networkpolicies", "secrets"):
            await self._api.delete(kind, self._name, "Background")

    # The pods.

    def _listed(self, slices: list[Object]) -> None:
        self._slices = {each["metadata"]["name"]: each for each in slices}
        self._look()

    def _changed(self, kind: str, slice: Object) -> None:
        self._slices[slice["metadata"]["name"]] = slice
        if kind == "DELETED":
            del self._slices[slice["metadata"]["name"]]
        self._look()

    def _look(self) -> None:
        """Meet the pods that are ready, and let go of those that are no more."""
        found = endpoints(self._slices.values(), deployment.PORT_NAME)
        for key in [key for key in self._pods if key not in found]:
            pod = self._pods.pop(key)
            self._leaving.add(pod)
            pod.gone = True
            pod.over.set()
        for key, endpoint in found.items():
            if key in self._pods:
                self._pods[key].endpoint = endpoint
            elif endpoint.ready or endpoint.pod in self._orphans:
                self._meet(endpoint, self._orphans.pop(endpoint.pod, []))
        self._waiting = [
            each for key, each in found.items() if key not in self._pods and not each.terminating
        ]
        self._sink(Changed())

    def _judge_orphans(self) -> None:
        """What is left of them after all pods were listed had pods that are no more."""
        for launch in [each for launches in self._orphans.values() for each in launches]:
            message = "Its owner died, and its pod is gone; it may have run, in part or in whole."
            self._sink(Ended(launch.attempt_id, "interrupted", message=message, retryable=True))
        self._orphans.clear()

    def _meet(self, endpoint: Endpoint, orphans: Sequence[Launch]) -> None:
        spec = PoolSpec(
            name=endpoint.pod,
            type=self.spec.type,
            max_workers=int(self._options["tasks_per_pod"]),
            worker_type=self.spec.worker_type,
        )
        pod = _Pod(endpoint, _Served(spec, self._surroundings, OverHttp(endpoint.url, self._bearer)))
        self._pods[endpoint.key] = pod
        pod.keeping = asyncio.create_task(self._keep(pod, orphans))

    async def _keep(self, pod: _Pod, orphans: Sequence[Launch]) -> None:
        """The line to a pod, from its readiness to its end."""
        try:
            async with pod.pool.run(self._sink, orphans):
                self.task_types = pod.pool.task_types or self.task_types
                pod.looked.set()
                self._sink(Changed())
                await pod.over.wait()
                if pod.gone and await self._has_gone(pod):
                    await pod.pool.lose()
        except Exception as wrong:  # it is no such server, or a bug of ours: this pod's matter alone
            pod.wrong = str(wrong) if isinstance(wrong, PoolsError) else f"it raised {type(wrong).__name__}"
            for launch in [] if pod.looked.is_set() else orphans:  # else they have been taken up
                message = "Its owner died, and its pod is none that can be asked; it may have run."
                self._sink(Ended(launch.attempt_id, "interrupted", message=message, retryable=True))
        finally:
            pod.looked.set()
            self._leaving.discard(pod)

    async def _has_gone(self, pod: _Pod) -> bool:
        """Wait until a pod is no more, for its endpoint may go before it; not when the pool closes first."""
        while pod.pool.taken and await self._is_there(pod.endpoint):
            with suppress(TimeoutError):
                return not await asyncio.wait_for(self._closing.wait(), _AGAIN_SECONDS)
        return not self._closing.is_set()

    async def _is_there(self, endpoint: Endpoint) -> bool:
        try:
            found = await self._api.list("pods", fieldSelector=f"metadata.name={endpoint.pod}")
        except (ApiError, PoolsError):
            return True
        return any(
            each["metadata"]["uid"] == endpoint.uid and not reasons.over(each) and not reasons.node_lost(each)
            for each in found.get("items") or ()
        )

    async def _leave(self) -> None:
        """Let go of all pods; what they have goes on there."""
        self._closing.set()
        pods = [*self._pods.values(), *self._leaving]
        for pod in pods:
            pod.over.set()
        await asyncio.gather(
            *(pod.keeping for pod in pods if pod.keeping is not None), return_exceptions=True
        )
        self._pods.clear()

    # Places for work.

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """See `Adapter.reserve`. Round by round a place of each pod that has one, the emptiest first."""
        pods = sorted((pod.pool for pod in self._pods.values() if pod.open), key=lambda each: -each.room)
        places = deployment.size(self.spec, self._options)[1] * int(self._options["tasks_per_pod"])
        room = places - sum(pod.pool.taken for pod in self._all())
        slots: list[Slot] = []
        while pods and len(slots) < min(wanted, room):
            rounds = [each.reserve(1) for each in pods[: min(wanted, room) - len(slots)]]
            slots += [slot for found in rounds for slot in found]
            pods = [each for each in pods if each.room]
        return slots

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        pods = {pod.endpoint.pod: pod.pool for pod in self._pods.values()}
        for launch in launches:
            if (pool := pods.get(_pod_of(launch))) is not None:
                pool.launch([launch])
            elif not any(pod.pool.under_way(launch.attempt_id) for pod in self._leaving):
                # Its pod went after the place was reserved.
                asyncio.get_running_loop().call_soon(self._sink, Returned(launch.attempt_id))

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`."""
        for pod in self._all():
            await pod.pool.cancel(attempt_id)

    def _all(self) -> Iterable[_Pod]:
        return [*self._pods.values(), *self._leaving]

    # How it stands.

    @property
    def workers(self) -> Sequence[Worker]:
        """The places of the pods, and pods that are starting."""
        rows: list[Worker] = []
        for pod in self._all():
            busy = pod.pool.workers
            rows += busy
            if pod.open:
                free = (f"{pod.endpoint.pod}-{number}" for number in range(1, pod.pool.most + 1))
                names = {each.worker_id for each in busy}
                rows += [Worker(worker_id=name, status="idle") for name in free if name not in names]
        rows += [Worker(worker_id=each.pod, status="starting") for each in self._waiting]
        return rows

    async def health(self) -> tuple[Health, str | None]:
        """See `Adapter.health`. Without a pod that answers, the cluster says why."""
        try:
            await asyncio.gather(*(pod.pool.health() for pod in self._pods.values() if pod.open))
            why = None if any(pod.answers for pod in self._pods.values()) else await self._why_none()
        except (ApiError, PoolsError) as error:
            return "unhealthy", str(error)
        if why is not None:
            return why
        failing = self._informer.failure
        return ("healthy", None) if failing is None else ("degraded", f"a watch fails: {failing}")

    async def _why_none(self) -> tuple[Health, str | None]:
        """Why no pod answers; one that is only starting is no reason to send work elsewhere."""
        if not deployment.size(self.spec, self._options)[1]:
            return "healthy", None
        marks = deployment.labels(self.spec.name, self._home)
        selector = ",".join(f"{key}={value}" for key, value in marks.items())
        pods = (await self._api.list("pods", labelSelector=selector)).get("items") or []
        for pod in pods:
            if (held := reasons.held(None, pod)) is not None:
                return "unhealthy", f"no pod is ready: {held.message}"
            if reasons.waits_for(pod) == _CRASHES:
                return (
                    "unhealthy",
                    f"no pod is ready: {_CRASHES}; kubectl logs {pod['metadata']['name']} says why",
                )
        try:
            if refused := reasons.unmade(await self._api.get("deployments", self._name)):
                return "unhealthy", f"no pod is made: {refused}"
        except ApiError as error:
            if error.status != 404:
                raise
            self._stale.set()
            return "unhealthy", "somebody deleted its Deployment, which is made again"
        for each in self._pods.values():
            if each.open and each.pool.trouble is not None:
                return "unhealthy", f"a pod is ready, and does not answer: {each.pool.trouble}"
            if each.wrong is not None:
                return "unhealthy", each.wrong
        waits = next((word for pod in pods if (word := reasons.waits_for(pod))), "it starts")
        return "degraded", f"no pod is ready yet: {waits}"


def _pod_of(launch: Launch) -> str:
    """The pod that a launch's place is in."""
    return launch.worker.rpartition("-")[0]


def _own_namespace() -> str:
    """The namespace of the pod that we run in; empty outside of a cluster."""
    with suppress(OSError):
        return (SERVICE_ACCOUNT / "namespace").read_text().strip()
    return ""
