"""Pool type `kubernetes`: each launch is a Job of its own, on a cluster; or pods are kept that serve many.

Which it is, the option `mode` says: `jobs`, or `workers` (`mcp_pools.kube.worker_pods`). Of Jobs:

A Job is named after its attempt; its input lies in a Secret that the Job owns, its outcome
comes as checksummed frames in its log, followed live. One loop a kind hears what becomes
of all Jobs of the pool. What cannot run says why: the pool asks, waits for `pending_seconds`,
and gives up with that reason; nothing waits without a word.

When the owner leaves or dies, its Jobs go on; the next one finds them by their labels.
Kubernetes may, rarely, start two pods for one Job: at most once is its best effort.

The pool's directory keeps `identity`, the label that tells this home's Jobs from others', and
a file for each launch whose Job was asked for: empty until the cluster said that it is there.

`endpoint` is the API server's URL, or the option `context` a context of the kubeconfig; see
`mcp_pools.kube.manifest.OPTIONS` for the others.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mcp_pools.adapter import Changed, Ended, Launch, Returned, Sink, Slot, Surroundings
from mcp_pools.agents import PROMPT
from mcp_pools.errors import PoolsError
from mcp_pools.kube import manifest, reasons
from mcp_pools.kube.api import Api, ApiError, Object, unopened
from mcp_pools.kube.bundle import bundle
from mcp_pools.kube.carriage import Carriage, Ground, ended
from mcp_pools.kube.credentials import find_access
from mcp_pools.kube.informer import Informer
from mcp_pools.kube.kept import FILES, identity
from mcp_pools.models import Health, PoolSpec, Worker
from mcp_pools.places import lowest_free, place_of

if TYPE_CHECKING:
    from mcp_pools.kube.worker_pods import WorkerPods

_MARKS_KEPT: Final = 1000
_RETURNS: Final = 5
"""How often a task may lose its pod before it starts, in a row, before that is a failure."""


def kubernetes_pool(spec: PoolSpec, surroundings: Surroundings) -> KubernetesPool | WorkerPods:
    """The pool of a definition, in the mode that it names; raises `PoolsError` `invalid_payload`."""
    mode = spec.options.get("mode", "jobs")
    if mode == "jobs":
        return KubernetesPool(spec, surroundings)
    if mode == "workers":
        from mcp_pools.kube.worker_pods import WorkerPods  # the SDK's client, which Jobs do not need

        return WorkerPods(spec, surroundings)
    message = f"Option mode is {mode!r}."
    raise PoolsError("invalid_payload", message, "Give jobs (a pod for each attempt) or workers (kept pods).")


class KubernetesPool:
    """A pool of Jobs (`mcp_pools.adapter.Adapter`)."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self._surroundings = surroundings
        self._options = manifest.checked_options(spec)
        runs = frozenset(self._options["task_types"] if surroundings.agent is None else [PROMPT])
        self.task_types: frozenset[str] | None = None if "*" in runs else runs
        """What its image can run; `None`: whatever there is."""
        self._access = find_access(spec.endpoint, self._options["context"] or None)
        self._carried: dict[str, Carriage] = {}
        """By the names of their Jobs."""
        self._reserved: set[int] = set()
        self._seq = itertools.count(time.time_ns() // 1000)
        self._returns: dict[str, int] = {}
        self._informers: list[Informer] = []
        self._marks: deque[Path] = deque()
        self._background: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. Raises `PoolsError` `pool_unreachable` when the cluster does not answer."""
        self._sink = sink
        async with Api(self._access, self.spec.namespace) as self._api:
            watching = []
            try:
                await self._open(orphans)
                watching = [asyncio.create_task(informer.run()) for informer in self._informers]
                yield
            except ApiError as error:
                raise unopened(error) from error
            finally:
                carrying = [each.task for each in self._carried.values() if each.task is not None]
                await ended([*watching, *carrying, *self._background])
                self._carried.clear()

    async def _open(self, orphans: Sequence[Launch]) -> None:
        code, data = await asyncio.to_thread(bundle)
        labels = manifest.labels(self.spec.name, identity(self._surroundings.directory))
        self._ground = Ground(
            self.spec, self._options, self._surroundings, self._api, labels, code, self._sink
        )
        await self._api.create("configmaps", manifest.code(code, data))
        adopted = [self._take(launch) for launch in orphans]
        ours = ",".join(f"{key}={labels[key]}" for key in (manifest.POOL, manifest.HOME))
        selector = {"labelSelector": ours}
        failures = {"fieldSelector": "reason=FailedCreate"}
        self._informers = [
            Informer(self._api, "jobs", selector, self._jobs_listed, self._job_changed),
            Informer(self._api, "pods", selector, self._pods_listed, self._pod_changed),
            Informer(self._api, "events", failures, self._events_listed, self._event_changed),
        ]
        self._strays: list[str] = []
        for informer in self._informers:
            await informer.list()
        for stray in self._strays:
            await self._api.delete("jobs", stray)
        # What an earlier owner collected is on disk by now; what this one collects may not be at its death.
        for mark in self._surroundings.directory.iterdir():
            if mark.name not in self._carried and mark.name not in FILES:
                mark.unlink()
        for carried in adopted:
            self._adopt(carried)

    def _take(self, launch: Launch) -> Carriage:
        taken = {each.number for each in self._carried.values()} | self._reserved
        ground = replace(self._ground, spec=self.spec)
        carriage = Carriage(ground, launch, place_of(launch.worker, taken))
        self._carried[carriage.attempt.name] = carriage
        return carriage

    def _adopt(self, carriage: Carriage) -> None:
        """Go on with a launch of an earlier owner, or judge it: its Job is there, or never was, or went.

        When the owner died while it asked for the Job, it is asked for again: should it have come
        to be, the name is taken. Not after the time a Job that has ended lives, for then it may have run.
        """
        attempt, mark = carriage.attempt, carriage.mark
        asked = mark.exists()
        lives = time.time() - self._options["ttl_seconds"] / 2
        unanswered = asked and not mark.read_text() and mark.stat().st_mtime > lives
        attempt.created = attempt.job is not None
        if attempt.created or unanswered:
            self._set_out(carriage)
        elif asked:
            attempt.job_gone = attempt.unseen = True
            self._spawn(self._missed(carriage))
        else:
            del self._carried[attempt.name]
            self._spawn(carriage.delete_inputs())
            self._sink(Returned(attempt.launch.attempt_id))

    async def _missed(self, carriage: Carriage) -> None:
        message = "Its owner died, and its Job is gone; it may have run, in part or in whole."
        id = carriage.attempt.launch.attempt_id
        lost = Ended(id, "interrupted", message=message, retryable=True)
        self._report(carriage, await self._recovered(carriage) or lost)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Places for work.

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """See `Adapter.reserve`. A place is the right to have one Job more."""
        slots = []
        taken = {each.number for each in self._carried.values()} | self._reserved
        for _ in range(min(wanted, self.spec.max_workers - len(taken))):
            number = lowest_free(taken)
            taken.add(number)
            slots.append(self._slot(number))
        return slots

    def _slot(self, number: int) -> Slot:
        self._reserved.add(number)
        return Slot(f"{self.spec.name}-{number}", next(self._seq), lambda: self._reserved.discard(number))

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        for launch in launches:
            if manifest.job_name(launch.attempt_id) not in self._carried:
                self._reserved.discard(int(launch.worker.rpartition("-")[2]))
                self._set_out(self._take(launch))

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`."""
        for carriage in self._carried.values():
            if carriage.attempt.launch.attempt_id == attempt_id:
                carriage.cancel()

    # What becomes of them.

    def _set_out(self, carriage: Carriage) -> None:
        carriage.task = asyncio.create_task(self._carry(carriage))

    async def _carry(self, carriage: Carriage) -> None:
        outcome = await carriage.carry()
        if isinstance(outcome, Ended) and outcome.code != "cancelled" and carriage.attempt.told is None:
            outcome = await self._recovered(carriage) or outcome
        self._report(carriage, outcome)

    async def _recovered(self, carriage: Carriage) -> Ended | None:
        """What a launch kept in the result volume before its pod, or the pod's log, was lost."""
        recovery = carriage.recovery()
        if recovery is None:
            return None
        self._carried[recovery.attempt.name] = recovery
        try:
            await recovery.carry()
        finally:
            del self._carried[recovery.attempt.name]
            recovery.mark.unlink(missing_ok=True)
        return recovery.attempt.told

    def _report(self, carriage: Carriage, outcome: Ended | Returned) -> None:
        attempt = carriage.attempt
        del self._carried[attempt.name]
        task_id = attempt.launch.task_id
        if isinstance(outcome, Returned):
            self._returns[task_id] = self._returns.get(task_id, 0) + 1
            if self._returns[task_id] >= _RETURNS:
                message = f"Its pod was lost {_RETURNS} times before it started."
                outcome = Ended(outcome.attempt_id, "worker_lost", message=message, retryable=True)
        if isinstance(outcome, Ended):
            self._returns.pop(task_id, None)
        self._sink(outcome)
        self._sink(Changed())
        self._marks.append(carriage.mark)
        if len(self._marks) > _MARKS_KEPT:  # its end has long been on disk
            self._marks.popleft().unlink(missing_ok=True)

    # What the cluster says.

    def _jobs_listed(self, jobs: list[Object]) -> None:
        found = {job["metadata"]["name"]: job for job in jobs}
        self._strays = [
            name
            for name, job in found.items()
            if name not in self._carried and (job.get("status") or {}).get("active")
        ]
        for name, carried in self._carried.items():
            if name in found:
                carried.seen(job=found[name])
            elif carried.attempt.job is not None:
                carried.seen(job_gone=True, unseen=True)

    def _job_changed(self, kind: str, job: Object) -> None:
        carried = self._carried.get(job["metadata"]["name"])
        if carried is not None:
            carried.seen(job=job, job_gone=kind == "DELETED")

    def _pods_listed(self, pods: list[Object]) -> None:
        found = {_job_of(pod): pod for pod in pods}
        for name, carried in self._carried.items():
            if name in found:
                carried.seen(pod=found[name])
            elif carried.attempt.pod is not None:
                carried.seen(pod_gone=True, unseen=not carried.attempt.pod_gone)

    def _pod_changed(self, kind: str, pod: Object) -> None:
        carried = self._carried.get(_job_of(pod))
        if carried is not None:
            carried.seen(pod=pod, pod_gone=kind == "DELETED")

    def _events_listed(self, events: list[Object]) -> None:
        for event in events:
            self._event_changed("ADDED", event)

    def _event_changed(self, _kind: str, event: Object) -> None:
        told = reasons.failed_create(event)
        carried = self._carried.get(told[0]) if told else None
        if told and carried is not None and carried.attempt.pod is None:
            carried.seen(pod_refused=told[1])

    # How it stands.

    async def health(self) -> tuple[Health, str | None]:
        """See `Adapter.health`."""
        try:
            await self._api.list("jobs", limit="1")
        except (ApiError, PoolsError) as error:
            return "unhealthy", str(error)
        failing = next((each.failure for each in self._informers if each.failure), None)
        return ("healthy", None) if failing is None else ("degraded", f"a watch fails: {failing}")

    @property
    def workers(self) -> Sequence[Worker]:
        """The Jobs that there are."""
        return [
            Worker(
                worker_id=f"{self.spec.name}-{carried.number}",
                status="busy" if carried.attempt.ran else "starting",
                task_id=carried.attempt.launch.task_id,
                started_at=datetime.fromtimestamp(carried.attempt.born, UTC),
            )
            for carried in self._carried.values()
            if not carried.recovers
        ]


def _job_of(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name", ""))
