"""One launch in a cluster: what has been seen and heard of it, and what follows. No I/O.

Whoever holds it tells it of the Job, the pod, the frames of its log, and asks `verdict`
after each change.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_pools.adapter import AdapterEvent, Ended, Launch, Returned, Started
from mcp_pools.carrier import heard
from mcp_pools.kube import reasons
from mcp_pools.kube.frames import Frame, Reader
from mcp_pools.kube.manifest import MARGIN_SECONDS, Object
from mcp_pools.kube.reasons import Held

PULL_SECONDS: Final = 60.0
"""How long an image may fail to be pulled: a registry may be away for a moment, a wrong name is for ever."""


LOG_SECONDS: Final = 60.0
"""How long the log of a container that has ended is asked for."""


@dataclass(slots=True, eq=False)
class Attempt:
    """What is known of a launch."""

    launch: Launch
    name: str
    """Its Job's."""
    born: float = field(default_factory=time.time)
    job: Object | None = None
    pod: Object | None = None
    job_gone: bool = False
    unseen: bool = False
    """Whether it went while nobody looked, so that it may have run."""
    pod_gone: bool = False
    created: bool = False
    cancelling: bool = False
    closing: bool = False
    """Whether its outcome is known, so that no more is to be created for it."""
    read_out: bool = False
    """Whether the log was read to its end after the container had ended."""
    unreadable: str = ""
    """Why its log cannot be read just now; empty: nothing keeps it from being read."""
    over_since: float | None = None
    started_at: float | None = None
    told: Ended | None = None
    """The outcome that the container told."""
    refused: Held | None = None
    """Why its Job cannot be created."""
    pod_refused: Held | None = None
    """Why its Job cannot create a pod."""
    held: Held | None = None
    held_since: float = 0.0
    reader: Reader = field(default_factory=Reader)
    result: bytearray = field(default_factory=bytearray)

    @property
    def ran(self) -> bool:
        """Whether it has started, as far as can be told."""
        return self.started_at is not None or self.unseen or reasons.started(self.pod)

    @property
    def over(self) -> bool:
        """Whether nothing of it runs, or will."""
        if self.pod is not None and not self.pod_gone:
            return reasons.over(self.pod)
        return self.pod_gone or self.job_gone or bool(reasons.failed(self.job))

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left in the cluster, or at least nothing that runs."""
        pod_left = self.pod is not None and not self.pod_gone and not reasons.over(self.pod)
        return self.job_gone and not pod_left

    def look(self, now: float) -> Held | None:
        """Why it does not run yet; a reason that is new starts to count from `now`."""
        held = None if self.ran else reasons.held(self.job, self.pod)
        if self.pod is None and not self.ran:
            held = held or self.refused or self.pod_refused
        if (held and held.code) != (self.held and self.held.code):
            self.held_since = now
        self.held = held
        return held

    def hear(self, frame: Frame) -> AdapterEvent | None:
        """What a frame of its log says; the outcome is kept in `told`."""
        if frame.kind == "part":
            self.result += frame.data
        elif frame.kind == "ended":
            self.told = self._outcome(frame.fields)
        event = heard(self.launch.attempt_id, frame.kind, frame.data)
        if isinstance(event, Started):
            self.started_at = event.at
        return event

    def _outcome(self, said: dict[str, Any]) -> Ended:
        attempt_id, result = self.launch.attempt_id, bytes(self.result)
        if hashlib.sha256(result).hexdigest() != said["sha256"]:
            message = f"Its result of {said['size']} bytes did not come through its log whole."
            return Ended(attempt_id, "worker_lost", message=message, retryable=True)
        if said["code"] is None:
            return Ended(attempt_id, None, result)
        words = (said["message"], said["retryable"], said["details"])
        return Ended(attempt_id, said["code"], None, *words)

    def verdict(self, now: float, pending_seconds: float) -> Ended | Returned | None:
        """What became of it, or is to become of it; `None`: it goes on."""
        if self.told is not None:
            return self.told  # nothing of it ran any more when it was told
        if self.cancelling:
            return Ended(self.launch.attempt_id, "cancelled", message="Cancelled.")
        if self.over:
            self.over_since = self.over_since or now
            unread = now - self.over_since > LOG_SECONDS
            if unread or self.read_out or self.pod is None or self.pod_gone:
                return self._lost()
        if reasons.node_lost(self.pod):
            return self._lost()
        if not self.ran:
            return self._overdue(now, pending_seconds)
        if now > (self.started_at or now) + self.launch.timeout + MARGIN_SECONDS:
            message = f"It ran longer than its timeout of {self.launch.timeout:g} s."
            return Ended(self.launch.attempt_id, "timeout", message=message)
        return None

    def _lost(self) -> Ended | Returned:
        attempt_id = self.launch.attempt_id
        deleted = self.pod_gone or self.job_gone or reasons.node_lost(self.pod)
        late = reasons.failed(self.job) == "DeadlineExceeded"
        if not self.ran and deleted and not late:
            return Returned(attempt_id)  # it never ran: no attempt is spent on what befell its pod
        if not self.ran and late:
            message = f"Its container was not started before the Job's deadline{self._last_word()}"
            return Ended(attempt_id, "unschedulable", message=message, retryable=True)
        if (damage := self.reader.damage or self.unreadable) and not deleted:
            message = f"Its log did not come through whole: {damage}."
            return Ended(attempt_id, "worker_lost", message=message, retryable=True)
        lost = reasons.lost(self.job, self.pod, deleted=deleted)
        return Ended(
            attempt_id, lost.code, message=lost.message, retryable=lost.retryable, details=lost.details
        )

    def _last_word(self) -> str:
        """What its container waits for, as far as the cluster says."""
        reason = reasons.waits_for(self.pod)
        return f": {reason}." if reason else "."

    def _overdue(self, now: float, pending_seconds: float) -> Ended | None:
        held, attempt_id = self.held, self.launch.attempt_id
        if held is None or held.patient:
            return None
        most = min(pending_seconds, PULL_SECONDS) if held.code == "image_pull" else pending_seconds
        if not held.final and now - self.held_since < most:
            return None
        waited = "" if held.final else f" It waited {now - self.held_since:.0f} s."
        code = "pool_unreachable" if held.code == "pool_unhealthy" else held.code
        retryable = code != "not_allowed"
        return Ended(attempt_id, code, message=held.message + waited, retryable=retryable)
