"""Another mcp-pools: a launch becomes a task of the peer, under its attempt id as idempotency key.

So it runs once however often it is sent: what got no answer is sent again, and the next owner takes up
what this one left by sending it once more. Then `pool_task` waits for the end.

Its `{"$secret": ...}` references travel as they are: the peer fills in its secrets, ours stay
here. The option `pool` says which of the peer's pools; none: it routes.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mcp_pools.adapter import Ended, Launch, Printed, Returned, Started
from mcp_pools.errors import CODES, PoolsError
from mcp_pools.line import Lost, Refused
from mcp_pools.profile import LOOK_SECONDS, Errand, Profile

STATUS: Final = {"failed": "task_error", "timed_out": "timeout", "cancelled": "cancelled"}
"""The code of an end that has no error of its own."""

_AGAIN_SECONDS: Final = 0.3
_SUBMIT_SECONDS: Final = 30.0
_CANCEL_CALL_SECONDS: Final = 60.0
_WAIT_SECONDS: Final = 20.0
_START_SECONDS: Final = 1.0
_READ_SECONDS: Final = 120.0
_FULL_SECONDS: Final = 1.0
_CANCEL_SECONDS: Final = 30.0
"""How long a peer that does not answer is asked to cancel a task."""
_GRACE_SECONDS: Final = 30.0
"""How much longer than its timeout a launch of a peer that does not answer is waited for."""
_LONGEST_WORDS: Final = 500
_OVERLAP: Final = 256


@dataclass(slots=True, eq=False)
class Delegated(Errand):
    """A launch that is a task of the peer."""

    remote_id: str | None = None
    started: bool = False
    said: str = ""
    """The end of what it has printed, as far as we know."""
    lost_since: float | None = None

    @property
    def sent(self) -> bool:
        """Whether the peer may have it."""
        return self.remote_id is not None or self.doubtful or self.submitting

    def failed(
        self, code: str, message: str, details: dict[str, Any] | None = None, *, retryable: bool = False
    ) -> Ended:
        """Its end, with the peer's name for it."""
        known = {} if self.remote_id is None else {"peer_task": self.remote_id}
        return self.ended(code, message, {**known, **(details or {})}, retryable=retryable)


class Federation(Profile[Delegated]):
    """A pool of another mcp-pools (`mcp_pools.profile.Profile`)."""

    name = "mcp-pools"
    kind = "another mcp-pools"
    tools = frozenset({"pool_execute", "pool_task", "pool_cancel", "pool_list"})
    options = frozenset({"pool"})
    resumes = True
    resolves_secrets = True

    def errand(self, launch: Launch, doubtful: bool) -> Delegated:
        """See `Profile.errand`."""
        return Delegated(self, launch, doubtful)

    async def look(self) -> frozenset[str]:
        """See `Profile.look`. `PoolsError` `nesting_too_deep`: the peer is this very home."""
        pools = [pool for pool in (await self._call("pool_list", {}, LOOK_SECONDS)).get("pools", ()) if pool]
        if any(pool.get("pool_id") == self.pool.surroundings.pool_id for pool in pools):
            raise PoolsError(
                "nesting_too_deep",
                f"The server at {self.pool.line.where} serves this very home: "
                "its tasks would come back to it.",
                "Name another server.",
            )
        wanted = self.pool.spec.options.get("pool")
        return frozenset(
            str(type)
            for pool in pools
            if wanted in (None, pool.get("name")) and pool.get("status") != "draining"
            for type in pool.get("task_types", ())
        )

    async def outcome(self, errand: Delegated) -> Ended | Returned:
        """Send it, wait for its end, fetch its result; again for as long as there is no answer."""
        while True:
            try:
                if errand.remote_id is None:
                    await self._submit(errand)
                return await self._followed(errand)
            except Lost as lost:
                if (outcome := self._given_up(errand, lost)) is not None:
                    return outcome
            except Refused as refused:
                return self._refusal(errand, refused)
            await asyncio.sleep(_AGAIN_SECONDS)

    def _given_up(self, errand: Delegated, lost: Lost) -> Ended | Returned | None:
        """What becomes of a launch without an answer; `None`: it is tried again."""
        errand.doubtful |= lost.sent
        self.pool.mark(f"pool_unreachable: {lost.why}")
        if not errand.sent:
            return errand.called_off() if errand.cancelled else errand.returned()
        errand.lost_since = errand.lost_since or time.monotonic()
        lost_for = time.monotonic() - errand.lost_since
        if errand.cancelled and lost_for > _CANCEL_SECONDS:
            return errand.called_off(confirmed=False)
        if lost_for > errand.launch.timeout + _GRACE_SECONDS:
            message = "The peer does not answer any more; it may have run, in part or in whole."
            return errand.failed("pool_unreachable", message, {"confirmed": False}, retryable=True)
        return None

    async def _submit(self, errand: Delegated) -> None:
        launch = errand.launch
        payload = json.loads(launch.payload)
        if launch.task_type == "http":  # our policy's own word, which no peer takes: it has a policy, too
            payload.pop("allowed_hosts", None)
        arguments = {
            "task_type": launch.task_type,
            "payload": payload,
            "timeout": launch.timeout,
            "idempotency_key": launch.attempt_id,
            "wait": False,
        }
        if (pool := self.pool.spec.options.get("pool")) is not None:
            arguments["pool"] = pool
        errand.submitting = True
        try:
            task = await self._call("pool_execute", arguments, _SUBMIT_SECONDS, depth=launch.depth + 1)
            errand.remote_id = str(task["task_id"])
        except Refused as refused:
            # The same launch, sent by an owner before with its parts that are done by now: that is the one.
            if refused.code != "conflict" or not (known := refused.details.get("id")):
                raise
            errand.remote_id, task = str(known), {}
        finally:
            errand.submitting = False
        self._heard(errand, task)
        if self.pool.leaving:
            raise asyncio.CancelledError

    async def _followed(self, errand: Delegated) -> Ended | Returned:
        """Wait until the task has ended at the peer."""
        while True:
            if errand.cancelled:
                await self.call_off(errand)
            patience = _WAIT_SECONDS if errand.started else _START_SECONDS
            asked = {"task_id": errand.remote_id, "wait_seconds": patience, "output": True}
            task = await self._call(
                "pool_task", asked, patience + _SUBMIT_SECONDS, on_progress=partial(self._progressed, errand)
            )
            errand.lost_since = None
            self._heard(errand, task)
            if task["status"] in ("completed", *STATUS):
                return await self._judged(errand, task)

    async def _call(
        self, tool: str, arguments: dict[str, Any], seconds: float, **more: Any
    ) -> dict[str, Any]:
        return await self.pool.line.call(tool, arguments, seconds=seconds, **more)

    # What the peer says of it.

    def _heard(self, errand: Delegated, task: dict[str, Any]) -> None:
        """Pass on what is new of a task as it stands."""
        id = errand.launch.attempt_id
        if task.get("started_at") and not errand.started:
            errand.started = True
            self.pool.sink(Started(id, time.time()))
        if isinstance(text := task.get("output_tail"), str) and (fresh := _behind(errand.said, text)):
            errand.said = text[-2 * _OVERLAP :]
            self.pool.sink(Printed(id, fresh.encode(errors="replace")))
        if progress := task.get("progress"):
            self.pool.sink(errand.progressed(progress["done"], progress["total"], progress["message"]))

    async def _progressed(
        self, errand: Delegated, done: float, total: float | None, message: str | None
    ) -> None:
        if self.pool.under_way(errand.launch.attempt_id):
            self.pool.sink(errand.progressed(done, total, message))

    async def _judged(self, errand: Delegated, task: dict[str, Any]) -> Ended | Returned:
        """The outcome of a task that has ended."""
        id, status, error = errand.launch.attempt_id, task["status"], task.get("error") or {}
        if status == "completed":
            return Ended(id, None, await self._result(task))
        if status == "cancelled" and errand.doubtful and not errand.cancelled:
            # Nobody asked for that: the peer lets go of what comes with a call that breaks.
            if not task.get("started_at"):
                return errand.returned()
            message = "The call that brought it to the peer broke, and it was ended there; it may have run."
            return errand.failed("interrupted", message, retryable=True)
        if status == "cancelled":
            return errand.called_off()
        code = error.get("code") if error.get("code") in CODES else STATUS[status]
        partial_result = None if task.get("result") is None else await self._result(task)
        said = {"peer_task": errand.remote_id, **_words(error)}
        message = f"It failed at the peer: {code}; details has the peer's words."
        return Ended(id, code, partial_result, message, bool(error.get("retryable")), said)

    async def _result(self, task: dict[str, Any]) -> bytes:
        """The whole result, as JSON."""
        if task.get("result_uri"):
            return (await self.pool.line.read(str(task["result_uri"]), seconds=_READ_SECONDS)).encode()
        return json.dumps(task["result"], ensure_ascii=False, separators=(",", ":")).encode()

    def _refusal(self, errand: Delegated, refused: Refused) -> Ended | Returned:
        if errand.cancelled and errand.remote_id is None:
            return errand.called_off()
        if refused.code == "queue_full":
            self.pool.full_for(_FULL_SECONDS)
            return errand.returned()
        if errand.remote_id is None:
            message = f"The peer refused it: {refused.code}; details has the peer's words."
            return errand.failed(refused.code, message, {"message": refused.words})
        code = "interrupted" if refused.code == "unknown_task" else refused.code
        message = f"The peer does not tell of it any more ({refused.code}); it may have run."
        return errand.failed(code, message, {"message": refused.words}, retryable=True)

    async def call_off(self, errand: Delegated) -> None:
        """See `Profile.call_off`."""
        if errand.remote_id is not None:  # else it is called off as soon as it has a name
            await self._call("pool_cancel", {"task_id": errand.remote_id}, _CANCEL_CALL_SECONDS)


def _words(error: dict[str, Any]) -> dict[str, Any]:
    """What the peer says of a failure, for the details."""
    found = {"message": str(error["message"])[:_LONGEST_WORDS]} if error.get("message") else {}
    return {**found, "details": error["details"]} if error.get("details") else found


def _behind(seen: str, text: str) -> str:
    """What `text` has behind what was seen of it; its beginning may be cut off since."""
    if not seen:
        return text
    end = seen[-_OVERLAP:]
    at = text.rfind(end)
    return text if at < 0 else text[at + len(end) :]
