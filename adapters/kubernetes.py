"""Pool type `kubernetes`: each launch is a Job of its own, on a cluster.

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
import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mcp_pools.adapter import Changed, Ended, Launch, Returned, Sink, Slot, Surroundings, Waits
from mcp_pools.errors import PoolsError
from mcp_pools.kube import manifest, reasons
from mcp_pools.kube.api import REQUEST_SECONDS, Api, ApiError, Object
from mcp_pools.kube.attempt import Attempt
from mcp_pools.kube.bundle import bundle
from mcp_pools.kube.credentials import find_access
from mcp_pools.kube.informer import Informer
from mcp_pools.kube.reasons import Held
from mcp_pools.models import Health, PoolSpec, Worker

_LOOK_SECONDS: Final = 1.0
"""How often an attempt is looked at when nothing is heard of it."""
_CONFIRM_SECONDS: Final = 60.0
"""How long the end of a deleted Job is waited for."""
_MOST_PAUSE_SECONDS: Final = 5.0
_MARKS_KEPT: Final = 1000
_RETURNS: Final = 5
"""How often a task may lose its pod before it starts, in a row, before that is a failure."""


@dataclass(slots=True, eq=False)
class _Carried:
    """A launch that is being carried out, and the place it takes."""

    attempt: Attempt
    number: int
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class KubernetesPool:
    """A pool of Jobs (`mcp_pools.adapter.Adapter`)."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self._surroundings = surroundings
        self._options = manifest.checked_options(spec)
        self._access = find_access(spec.endpoint, self._options["context"] or None)
        self._carried: dict[str, _Carried] = {}
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
        self._labels = manifest.labels(self.spec.name, self._identity())
        async with Api(self._access, self.spec.namespace) as self._api:
            watching = []
            try:
                await self._open(orphans)
                watching = [asyncio.create_task(informer.run()) for informer in self._informers]
                yield
            except ApiError as error:
                raise PoolsError(
                    "pool_unreachable", f"The API server refused: {error}", retryable=True
                ) from error
            finally:
                carrying = [each.task for each in self._carried.values() if each.task is not None]
                await _ended([*watching, *carrying, *self._background])
                self._carried.clear()

    def _identity(self) -> str:
        directory = self._surroundings.directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "identity"
        if not path.exists():
            fresh = directory / f"identity.{os.getpid()}"
            fresh.write_text(os.urandom(12).hex())
            fresh.replace(path)
        return path.read_text()

    async def _open(self, orphans: Sequence[Launch]) -> None:
        name, data = await asyncio.to_thread(bundle)
        self._code = name
        await self._api.create("configmaps", manifest.code(name, data))
        adopted = [self._take(launch) for launch in orphans]
        selector = {
            "labelSelector": ",".join(f"{key}={self._labels[key]}" for key in (manifest.POOL, manifest.HOME))
        }
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
            if mark.name not in self._carried and mark.name != "identity":
                mark.unlink()
        for carried in adopted:
            self._adopt(carried)

    def _take(self, launch: Launch) -> _Carried:
        taken = {each.number for each in self._carried.values()} | self._reserved
        _, _, number = launch.worker.rpartition("-")
        known = int(number) if number.isdecimal() and int(number) not in taken else None
        carried = _Carried(
            Attempt(launch, manifest.job_name(launch.attempt_id)), known or _lowest_free(taken)
        )
        self._carried[carried.attempt.name] = carried
        return carried

    def _adopt(self, carried: _Carried) -> None:
        """Go on with a launch of an earlier owner, or judge it: its Job is there, or never was, or went.

        When the owner died while it asked for the Job, it is asked for again: should it have come
        to be, the name is taken. Not after the time a Job that has ended lives, for then it may have run.
        """
        attempt = carried.attempt
        attempt_id, mark = attempt.launch.attempt_id, self._mark(attempt)
        asked = mark.exists()
        lives = time.time() - self._options["ttl_seconds"] / 2
        unanswered = asked and not mark.read_text() and mark.stat().st_mtime > lives
        attempt.created = attempt.job is not None
        if attempt.created or unanswered:
            carried.task = asyncio.create_task(self._carry(carried))
            return
        del self._carried[attempt.name]
        if asked:
            message = "Its owner died, and its Job is gone; it may have run, in part or in whole."
            self._sink(Ended(attempt_id, "interrupted", message=message, retryable=True))
        else:
            self._spawn(self._delete_inputs(attempt))
            self._sink(Returned(attempt_id))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _mark(self, attempt: Attempt) -> Path:
        return self._surroundings.directory / attempt.name

    # Places for work.

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """See `Adapter.reserve`. A place is the right to have one Job more."""
        slots = []
        taken = {each.number for each in self._carried.values()} | self._reserved
        for _ in range(min(wanted, self.spec.max_workers - len(taken))):
            number = _lowest_free(taken)
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
                carried = self._take(launch)
                carried.task = asyncio.create_task(self._carry(carried))

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`."""
        carried = self._carried.get(manifest.job_name(attempt_id))
        if carried is not None:
            carried.attempt.cancelling = True
            carried.stirred.set()

    # One launch, from its Job's creation to its end.

    async def _carry(self, carried: _Carried) -> None:
        attempt = carried.attempt
        reading: asyncio.Task[None] | None = None
        creating = asyncio.create_task(self._create(carried))
        try:
            while (outcome := self._look(attempt)) is None:
                if reading is None and reasons.started(attempt.pod):
                    reading = asyncio.create_task(self._read(carried))
                await self._stir(carried, _LOOK_SECONDS)
            attempt.closing = True
            # A request on its way may still make a Job: it is let through, so that it can be deleted.
            await asyncio.wait([creating], timeout=REQUEST_SECONDS)
            if attempt.told is None:
                outcome = await self._cleared(carried, outcome)
        except Exception as error:  # ours: the launch is not to hang for it
            message = f"The pool failed: {type(error).__name__}: {error}"
            outcome = Ended(attempt.launch.attempt_id, "worker_lost", message=message, retryable=True)
        finally:
            await _ended([task for task in (creating, reading) if task is not None])
        self._report(attempt, outcome)

    def _report(self, attempt: Attempt, outcome: Ended | Returned) -> None:
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
        self._marks.append(self._mark(attempt))
        if len(self._marks) > _MARKS_KEPT:  # its end has long been on disk
            self._marks.popleft().unlink(missing_ok=True)

    def _look(self, attempt: Attempt) -> Ended | Returned | None:
        """What became of a launch; tells why it waits, when that has changed."""
        now, before = time.time(), attempt.held
        held = attempt.look(now)
        if held is not None and held != before:
            code = held.code if held.code in ("image_pull", "quota", "pool_unhealthy") else "unschedulable"
            self._sink(Waits(attempt.launch.attempt_id, code, held.message))  # type: ignore[arg-type]
        return attempt.verdict(now, float(self._options["pending_seconds"]))

    async def _stir(self, carried: _Carried, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await carried.stirred.wait()
        carried.stirred.clear()

    async def _create(self, carried: _Carried) -> None:
        """Make the Job and its input, as often as it takes; a refusal for good ends it."""
        attempt, pause = carried.attempt, 0.1
        if attempt.created and reasons.started(attempt.pod):
            return
        while not attempt.closing and not (attempt.refused and attempt.refused.final):
            try:
                await self._create_once(attempt)
            except PoolsError as error:
                attempt.refused = Held(error.code, str(error), final=error.code == "invalid_payload")
            except ApiError as error:
                attempt.refused = reasons.refusal(error.status, error.message)
                if attempt.refused is None:
                    attempt.refused = Held("pool_unhealthy", error.message, final=not error.passing)
                pause = error.pause or pause
            else:
                attempt.refused = None
                return
            finally:
                carried.stirred.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE_SECONDS)

    async def _create_once(self, attempt: Attempt) -> None:
        launch = attempt.launch
        inputs = manifest.secrets(launch, self._surroundings, self._labels)
        for secret in inputs:
            await self._api.create("secrets", secret)
        self._mark(attempt).touch()
        made = await self._api.create("jobs", manifest.job(launch, self.spec, self._labels, self._code))
        self._mark(attempt).write_text("created")
        attempt.created, attempt.job = True, attempt.job or made
        for secret in inputs:
            await self._api.own("secrets", secret["metadata"]["name"], made)

    async def _read(self, carried: _Carried) -> None:
        """Follow the log until the outcome was told, or nothing more can come."""
        attempt = carried.attempt
        while attempt.told is None and attempt.pod is not None:
            was_over = attempt.over
            attempt.reader.again()
            path = f"{self._api.path('pods', attempt.pod['metadata']['name'])}/log"
            broken = False
            try:
                async with self._api.lines(path, follow="true", container=manifest.CONTAINER) as lines:
                    async for line in lines:
                        self._heard(attempt, line)
            except (ApiError, PoolsError) as error:
                broken = not isinstance(error, ApiError) or error.passing
            attempt.read_out = attempt.told is not None or (was_over and not broken)
            carried.stirred.set()
            if attempt.read_out:
                return
            await asyncio.sleep(0.2)

    def _heard(self, attempt: Attempt, line: bytes) -> None:
        frame = attempt.reader.line(line)
        event = None if frame is None else attempt.hear(frame)
        if event is not None:
            self._sink(event)
        if attempt.told is not None:
            self._carried[attempt.name].stirred.set()

    async def _cleared(self, carried: _Carried, outcome: Ended | Returned) -> Ended | Returned:
        """Delete what is left of a launch, and wait until it has gone; the outcome, if it did."""
        attempt, until, asked = carried.attempt, time.monotonic() + _CONFIRM_SECONDS, 0.0
        cancelled = isinstance(outcome, Ended) and outcome.code == "cancelled"
        if attempt.over and not cancelled and not isinstance(outcome, Returned):
            return outcome  # nothing runs; its Job can be looked at until its time to live is over
        while not attempt.gone:
            if time.monotonic() > until:
                return _unconfirmed(outcome)
            if time.monotonic() > asked:
                asked = time.monotonic() + 5.0
                with contextlib.suppress(ApiError, PoolsError):
                    await self._delete(attempt)
                    continue
            await self._stir(carried, 0.2 if not attempt.created else _LOOK_SECONDS)
        if attempt.told is not None and attempt.told.code is None:
            return attempt.told  # it was through before the word reached it
        return outcome

    async def _delete(self, attempt: Attempt) -> None:
        await self._api.delete("jobs", attempt.name)
        try:
            attempt.job = await self._api.get("jobs", attempt.name)
        except ApiError as error:
            attempt.job_gone |= error.status == 404
        if attempt.job is None:
            await self._delete_inputs(attempt)

    async def _delete_inputs(self, attempt: Attempt) -> None:
        """Delete Secrets that no Job came to own."""
        with contextlib.suppress(ApiError, PoolsError):
            for secret in manifest.secrets(attempt.launch, self._surroundings, self._labels):
                await self._api.delete("secrets", secret["metadata"]["name"])

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
                self._seen(carried, job=found[name])
            elif carried.attempt.job is not None:
                self._seen(carried, job_gone=True, unseen=True)

    def _job_changed(self, kind: str, job: Object) -> None:
        carried = self._carried.get(job["metadata"]["name"])
        if carried is not None:
            self._seen(carried, job=job, job_gone=kind == "DELETED")

    def _pods_listed(self, pods: list[Object]) -> None:
        found = {_job_of(pod): pod for pod in pods}
        for name, carried in self._carried.items():
            if name in found:
                self._seen(carried, pod=found[name])
            elif carried.attempt.pod is not None:
                self._seen(carried, pod_gone=True, unseen=not carried.attempt.pod_gone)

    def _pod_changed(self, kind: str, pod: Object) -> None:
        carried = self._carried.get(_job_of(pod))
        if carried is not None:
            self._seen(carried, pod=pod, pod_gone=kind == "DELETED")

    def _events_listed(self, events: list[Object]) -> None:
        for event in events:
            self._event_changed("ADDED", event)

    def _event_changed(self, _kind: str, event: Object) -> None:
        told = reasons.failed_create(event)
        carried = self._carried.get(told[0]) if told else None
        if told and carried is not None and carried.attempt.pod is None:
            self._seen(carried, pod_refused=told[1])

    def _seen(self, carried: _Carried, **what: object) -> None:
        for name, value in what.items():
            setattr(carried.attempt, name, value)
        carried.stirred.set()

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
        ]


def _job_of(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name", ""))


def _lowest_free(taken: set[int]) -> int:
    return next(number for number in itertools.count(1) if number not in taken)


def _unconfirmed(outcome: Ended | Returned) -> Ended | Returned:
    """An outcome whose last word is missing: whether the pod is gone."""
    if isinstance(outcome, Returned):
        message = "Its Job was deleted before it started, but it could not be seen to go."
        outcome = Ended(outcome.attempt_id, "pool_unreachable", message=message, retryable=True)
    return replace(outcome, details={**outcome.details, "confirmed": False})


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
