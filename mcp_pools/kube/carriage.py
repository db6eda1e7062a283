"""One launch on its way through a cluster: its Job is made, watched, read, and cleared away.

What the cluster says of the Job and its pod comes from the pool (`seen`); what is to be
concluded from it stands in `mcp_pools.kube.attempt`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mcp_pools.adapter import Ended, Launch, Returned, Sink, Surroundings, Waits
from mcp_pools.errors import PoolsError
from mcp_pools.kube import manifest, reasons
from mcp_pools.kube.api import REQUEST_SECONDS, Api, ApiError, Object
from mcp_pools.kube.attempt import Attempt
from mcp_pools.kube.reasons import Held
from mcp_pools.models import PoolSpec

_LOOK_SECONDS: Final = 1.0
"""How often an attempt is looked at when nothing is heard of it."""
_CONFIRM_SECONDS: Final = 60.0
"""How long the end of a deleted Job is waited for."""
_RECOVERY_SECONDS: Final = 60.0
"""How long reading a kept result may take, once its pod runs."""
_MOST_PAUSE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ground:
    """What all launches of a pool share."""

    spec: PoolSpec
    options: dict[str, Any]
    surroundings: Surroundings
    api: Api
    labels: dict[str, str]
    code: str
    """The name of the bundle that the Jobs run."""
    sink: Sink


class Carriage:
    """A launch that is being carried out, and the place it takes.

    Args:
        number: of its place.
        recovery: the name of another Job, which only reads what a Job of this launch kept in the
            pool's result volume.
    """

    def __init__(self, ground: Ground, launch: Launch, number: int, *, recovery: str = "") -> None:
        self._ground = ground
        self.recovers = bool(recovery)
        """Whether it only reads what a launch kept."""
        self.attempt = Attempt(launch, recovery or manifest.job_name(launch.attempt_id))
        self.number = number
        self.task: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()

    @property
    def mark(self) -> Path:
        """The file that says that its Job was asked for."""
        return self._ground.surroundings.directory / self.attempt.name

    def seen(self, **what: object) -> None:
        """Something of the attempt's state is another now."""
        for name, value in what.items():
            setattr(self.attempt, name, value)
        self._stirred.set()

    def cancel(self) -> None:
        """Its end is wanted."""
        self.seen(cancelling=True)

    async def carry(self) -> Ended | Returned:
        """From its Job's creation to its end: the outcome."""
        attempt = self.attempt
        reading: asyncio.Task[None] | None = None
        creating = asyncio.create_task(self._create())
        try:
            while (outcome := self._look()) is None:
                if reading is None and reasons.started(attempt.pod):
                    reading = asyncio.create_task(self._read())
                await self._stir(_LOOK_SECONDS)
            attempt.closing = True
            # A request on its way may still make a Job: it is let through, so that it can be deleted.
            await asyncio.wait([creating], timeout=REQUEST_SECONDS)
            return outcome if attempt.told is not None else await self._cleared(outcome)
        except Exception as error:  # ours: the launch is not to hang for it
            message = f"The pool failed: {type(error).__name__}: {error}"
            return Ended(attempt.launch.attempt_id, "worker_lost", message=message, retryable=True)
        finally:
            await ended([task for task in (creating, reading) if task is not None])

    def recovery(self) -> Carriage | None:
        """Of a launch that may have kept its result where its pod's end does not touch it: who reads it."""
        if self.recovers or not self._ground.options["result_volume"] or not self.attempt.ran:
            return None
        name = f"{self.attempt.name}-r{os.urandom(2).hex()}"
        brief = replace(self.attempt.launch, timeout=_RECOVERY_SECONDS)
        return Carriage(replace(self._ground, sink=lambda _: None), brief, self.number, recovery=name)

    def _look(self) -> Ended | Returned | None:
        """What became of it; tells why it waits, when that has changed."""
        attempt, now = self.attempt, time.time()
        before = attempt.held
        held = attempt.look(now)
        if held is not None and held != before:
            code = held.code if held.code in ("image_pull", "quota", "pool_unhealthy") else "unschedulable"
            self._ground.sink(Waits(attempt.launch.attempt_id, code, held.message))  # type: ignore[arg-type]
        return attempt.verdict(now, float(self._ground.options["pending_seconds"]))

    async def _stir(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        self._stirred.clear()

    # Its Job.

    async def _create(self) -> None:
        """Make the Job and its input, as often as it takes; a refusal for good ends it."""
        attempt, pause = self.attempt, 0.1
        if attempt.created and reasons.started(attempt.pod):
            return
        while not attempt.closing and not (attempt.refused and attempt.refused.final):
            try:
                await self._create_once()
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
                self._stirred.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MOST_PAUSE_SECONDS)

    async def _create_once(self) -> None:
        ground, attempt = self._ground, self.attempt
        inputs = self._inputs()
        for secret in inputs:
            await ground.api.create("secrets", secret)
        self.mark.touch()
        made = await ground.api.create("jobs", self._job())
        self.mark.write_text("created")
        attempt.created, attempt.job = True, attempt.job or made
        for secret in inputs:
            await ground.api.own("secrets", secret["metadata"]["name"], made)

    def _inputs(self) -> list[Object]:
        if self.recovers:
            return []
        return manifest.secrets(self.attempt.launch, self._ground.surroundings, self._ground.labels)

    def _job(self) -> Object:
        launch, ground = self.attempt.launch, self._ground
        if self.recovers:
            return manifest.recovery(launch, ground.spec, ground.labels, ground.code, self.attempt.name)
        return manifest.job(launch, ground.spec, ground.labels, ground.code)

    async def _cleared(self, outcome: Ended | Returned) -> Ended | Returned:
        """Delete what is left of it, and wait until that has gone; the outcome, if it did."""
        attempt, until, asked = self.attempt, time.monotonic() + _CONFIRM_SECONDS, 0.0
        cancelled = isinstance(outcome, Ended) and outcome.code == "cancelled"
        if attempt.over and not cancelled and not isinstance(outcome, Returned):
            return outcome  # nothing runs; its Job can be looked at until its time to live is over
        while not attempt.gone:
            if time.monotonic() > until:
                return _unconfirmed(outcome)
            if time.monotonic() > asked:
                asked = time.monotonic() + 5.0
                with contextlib.suppress(ApiError, PoolsError):
                    await self._delete()
                    continue
            await self._stir(_LOOK_SECONDS if attempt.created else 0.2)
        if attempt.told is not None and attempt.told.code is None:
            return attempt.told  # it was through before the word reached it
        return outcome

    async def _delete(self) -> None:
        api, attempt = self._ground.api, self.attempt
        await api.delete("jobs", attempt.name)
        try:
            attempt.job = await api.get("jobs", attempt.name)
        except ApiError as error:
            attempt.job_gone |= error.status == 404
        if attempt.job is None:
            await self.delete_inputs()

    async def delete_inputs(self) -> None:
        """Delete Secrets that no Job came to own."""
        with contextlib.suppress(ApiError, PoolsError):
            for secret in self._inputs():
                await self._ground.api.delete("secrets", secret["metadata"]["name"])

    # Its log.

    async def _read(self) -> None:
        """Follow the log until the outcome was told, or nothing more can come."""
        api, attempt = self._ground.api, self.attempt
        while attempt.told is None and attempt.pod is not None:
            was_over = attempt.over
            attempt.reader.again()
            path = f"{api.path('pods', attempt.pod['metadata']['name'])}/log"
            attempt.unreadable = ""
            try:
                async with api.lines(path, follow="true", container=manifest.CONTAINER) as lines:
                    async for line in lines:
                        self._heard(line)
            except (ApiError, PoolsError) as error:
                if not isinstance(error, ApiError) or error.passing:
                    attempt.unreadable = str(error)
            attempt.read_out = attempt.told is not None or (was_over and not attempt.unreadable)
            self._stirred.set()
            if attempt.read_out:
                return
            await asyncio.sleep(0.2)

    def _heard(self, line: bytes) -> None:
        frame = self.attempt.reader.line(line)
        event = None if frame is None else self.attempt.hear(frame)
        if event is not None:
            self._ground.sink(event)
        if self.attempt.told is not None:
            self._stirred.set()


def _unconfirmed(outcome: Ended | Returned) -> Ended | Returned:
    """An outcome whose last word is missing: whether the pod is gone."""
    if isinstance(outcome, Returned):
        message = "Its Job was deleted before it started, but it could not be seen to go."
        outcome = Ended(outcome.attempt_id, "pool_unreachable", message=message, retryable=True)
    return replace(outcome, details={**outcome.details, "confirmed": False})


async def ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
