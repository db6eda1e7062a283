"""Pool type `mcp`: the pools of another mcp-pools server, reached over HTTP.

A launch becomes a task of the peer under its attempt id as idempotency key, so it runs once
however often it is sent: what got no answer is sent again, and the next owner takes up what
this one left by sending it once more. Then `pool_task` waits for the end.

Its own `{"$secret": ...}` references travel as they are: the peer fills in its secrets, ours
stay here. Options: `token_secret` (the name of a configured secret: the peer's bearer token),
`pool` (which of the peer's pools; none: it routes).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from mcp_pools import delegate
from mcp_pools.adapter import (
    Changed,
    Ended,
    Launch,
    Printed,
    Progressed,
    Returned,
    Sink,
    Slot,
    Started,
    Surroundings,
)
from mcp_pools.errors import CODES, PoolsError
from mcp_pools.line import Line, Lost, Refused
from mcp_pools.models import Health, PoolSpec, Worker

TOOLS: Final = frozenset({"pool_execute", "pool_task", "pool_cancel", "pool_list"})
"""What the peer must offer."""
OPTIONS: Final = frozenset({"token_secret", "pool"})
STATUS: Final = {"failed": "task_error", "timed_out": "timeout", "cancelled": "cancelled"}
"""The code of an end that has no error of its own."""

_LOOK_SECONDS: Final = 3.0
_SUBMIT_SECONDS: Final = 30.0
_WAIT_SECONDS: Final = 20.0
_START_SECONDS: Final = 1.0
_READ_SECONDS: Final = 120.0
_LEAVE_SECONDS: Final = 3.0
_AGAIN_SECONDS: Final = 0.3
_LONGEST_PAUSE: Final = 3.0
_FULL_SECONDS: Final = 1.0
_CANCEL_SECONDS: Final = 30.0
"""How long a peer that does not answer is asked to cancel a task."""
_GRACE_SECONDS: Final = 30.0
"""How much longer than its timeout a launch of a peer that does not answer is waited for."""
_LONGEST_WORDS: Final = 500
_OVERLAP: Final = 256


@dataclass(slots=True, eq=False)
class _Errand:
    """A launch at the peer."""

    launch: Launch
    place: str
    doubtful: bool = False
    """The peer may have taken it without our hearing so."""
    remote_id: str | None = None
    cancelled: bool = False
    started: bool = False
    submitting: bool = True
    said: str = ""
    """What it has printed so far, as far as we know."""
    lost_since: float | None = None
    work: asyncio.Task[None] | None = None


class McpPool:
    """A pool of another server (`mcp_pools.adapter.Adapter`)."""

    resolves_secrets = True

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self.task_types: frozenset[str] | None = None
        """What the peer runs; `None` until it was asked."""
        self._surroundings = surroundings
        self._errands: dict[str, _Errand] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._places: set[str] = set()
        self._seq = 0
        self._trouble: str | None = "it was not asked yet"
        self._full_until = 0.0
        self._line = Line(address(spec), partial(_token, spec, surroundings))

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. What runs at the peer goes on there when this ends: the next owner takes it up.

        Raises:
            PoolsError: `nesting_too_deep` when the peer is this very home, `invalid_payload` when it
                is no mcp-pools. A peer that does not answer is only unhealthy.
        """
        self._sink = sink
        async with self._line.kept():
            with suppress(TimeoutError, Lost):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._line.tried()
                await self._look()
            watching = asyncio.create_task(self._watch())
            for launch in orphans:
                self._carry(_Errand(launch, launch.worker, doubtful=True))
            try:
                yield
            finally:
                watching.cancel()
                await self._leave()

    async def _leave(self) -> None:
        """Stop listening. What is being submitted is heard out: the peer drops a call that ends early."""
        self._leaving = True
        submitting = [errand.work for errand in self._errands.values() if errand.work and errand.submitting]
        if submitting:
            await asyncio.wait(submitting, timeout=_LEAVE_SECONDS)
        work = [
            each for each in (*self._telling, *(errand.work for errand in self._errands.values())) if each
        ]
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    # Whether the peer is there, and who it is.

    async def _look(self) -> None:
        """Ask the peer who it is and what it runs. Raises `Lost`, and `PoolsError` as `run` does."""
        try:
            await self._looked()
        except Lost as lost:
            self._mark(f"pool_unreachable: {lost.why}")
            raise
        except Refused as refused:
            self._mark(f"it refuses to list its pools: {refused.code}")
        except PoolsError as wrong:
            self._mark(str(wrong))
            raise
        else:
            self._mark(None)

    async def _looked(self) -> None:
        if self._trouble is not None and (missing := TOOLS - await self._line.tools(_LOOK_SECONDS)):
            raise PoolsError(
                "invalid_payload",
                f"The server at {self._line.url} is no mcp-pools that this pool may use: it does not offer "
                f"{', '.join(sorted(missing))}.",
                "Name the /mcp address of an mcp-pools server, and a token that may execute.",
            )
        pools = [pool for pool in (await self._call("pool_list", {}, _LOOK_SECONDS)).get("pools", ()) if pool]
        if any(pool.get("pool_id") == self._surroundings.pool_id for pool in pools):
            raise PoolsError(
                "nesting_too_deep",
                f"The server at {self._line.url} serves this very home: its tasks would come back to it.",
                "Name another server.",
            )
        wanted = self.spec.options.get("pool")
        self.task_types = frozenset(
            str(type)
            for pool in pools
            if wanted in (None, pool.get("name")) and pool.get("status") != "draining"
            for type in pool.get("task_types", ())
        )

    def _mark(self, trouble: str | None) -> None:
        changed, self._trouble = (self._trouble is None) != (trouble is None), trouble
        if changed:
            self._sink(Changed())

    async def _watch(self) -> None:
        """While the peer is in trouble, look whether it still is."""
        pause = _AGAIN_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            if self._trouble is None:
                pause = _AGAIN_SECONDS
                continue
            with suppress(Lost, PoolsError):
                await self._look()

    async def health(self) -> tuple[Health, str | None]:
        """See `Adapter.health`."""
        with suppress(Lost, PoolsError):
            await self._look()
        return ("healthy", None) if self._trouble is None else ("unhealthy", self._trouble)

    # Places for work.

    @property
    def workers(self) -> Sequence[Worker]:
        """What runs at the peer, each as a worker."""
        return [
            Worker(worker_id=errand.place, status="busy", task_id=errand.launch.task_id)
            for errand in self._errands.values()
        ]

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """See `Adapter.reserve`; nothing while the peer is away or full."""
        if self._trouble is not None or time.monotonic() < self._full_until:
            return ()
        names = (f"{self.spec.name}-{number}" for number in range(1, self.spec.max_workers + 1))
        free = [name for name in names if name not in self._places]
        room = self.spec.max_workers - len(self._places)
        return [self._slot(name) for name in free[: max(0, min(wanted, room))]]

    def _slot(self, place: str) -> Slot:
        self._places.add(place)
        self._seq += 1
        return Slot(place, self._seq, partial(self._places.discard, place))

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        for launch in launches:
            if launch.attempt_id not in self._errands:
                self._carry(_Errand(launch, launch.worker))

    # One launch's way.

    def _carry(self, errand: _Errand) -> None:
        id = errand.launch.attempt_id
        self._places.add(errand.place)
        self._errands[id] = errand
        errand.work = asyncio.create_task(self._carried(errand))

    async def _carried(self, errand: _Errand) -> None:
        try:
            with delegate.continuing(errand.launch.traceparent):
                outcome = await self._outcome(errand)
        except Exception as failure:  # a bug of ours, or an answer no peer should give
            outcome = self._ended(
                errand, "pool_unreachable", f"Asking the peer raised {type(failure).__name__}."
            )
        del self._errands[errand.launch.attempt_id]
        self._places.discard(errand.place)
        self._sink(outcome)
        self._sink(Changed())

    async def _outcome(self, errand: _Errand) -> Ended | Returned:
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

    def _given_up(self, errand: _Errand, lost: Lost) -> Ended | Returned | None:
        """What becomes of a launch without an answer; `None`: it is tried again."""
        errand.doubtful |= lost.sent
        self._mark(f"pool_unreachable: {lost.why}")
        unknown = errand.remote_id is not None or errand.doubtful
        if not unknown:
            return _cancelled(errand, {}) if errand.cancelled else Returned(errand.launch.attempt_id)
        errand.lost_since = errand.lost_since or time.monotonic()
        lost_for = time.monotonic() - errand.lost_since
        if errand.cancelled and lost_for > _CANCEL_SECONDS:
            return _cancelled(errand, {"confirmed": False})
        if lost_for > errand.launch.timeout + _GRACE_SECONDS:
            message = "The peer does not answer any more; it may have run, in part or in whole."
            return self._ended(errand, "pool_unreachable", message, {"confirmed": False}, retryable=True)
        return None

    async def _submit(self, errand: _Errand) -> None:
        launch = errand.launch
        arguments = {
            "task_type": launch.task_type,
            "payload": json.loads(launch.payload),
            "timeout": launch.timeout,
            "idempotency_key": launch.attempt_id,
            "wait": False,
        }
        if (pool := self.spec.options.get("pool")) is not None:
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
        if self._leaving:
            raise asyncio.CancelledError

    async def _followed(self, errand: _Errand) -> Ended | Returned:
        """Wait until the task has ended at the peer."""
        while True:
            if errand.cancelled:
                await self._call("pool_cancel", {"task_id": errand.remote_id}, _SUBMIT_SECONDS * 2)
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
        return await self._line.call(tool, arguments, seconds=seconds, **more)

    # What the peer says of it.

    def _heard(self, errand: _Errand, task: dict[str, Any]) -> None:
        """Pass on what is new of a task as it stands."""
        id = errand.launch.attempt_id
        if task.get("started_at") and not errand.started:
            errand.started = True
            self._sink(Started(id, time.time()))
        if isinstance(text := task.get("output_tail"), str) and (fresh := _behind(errand.said, text)):
            errand.said = text[-2 * _OVERLAP :]
            self._sink(Printed(id, fresh.encode(errors="replace")))
        if progress := task.get("progress"):
            self._sink(_progress(id, progress["done"], progress["total"], progress["message"]))

    async def _progressed(
        self, errand: _Errand, done: float, total: float | None, message: str | None
    ) -> None:
        if errand.launch.attempt_id in self._errands:
            self._sink(_progress(errand.launch.attempt_id, done, total, message))

    async def _judged(self, errand: _Errand, task: dict[str, Any]) -> Ended | Returned:
        """The outcome of a task that has ended."""
        id, status, error = errand.launch.attempt_id, task["status"], task.get("error") or {}
        if status == "completed":
            return Ended(id, None, await self._result(task))
        if status == "cancelled" and not errand.cancelled and errand.doubtful and not task.get("started_at"):
            return Returned(id)  # the call that brought it broke, so the peer let it go
        if status == "cancelled":
            return _cancelled(errand, {})
        code = error.get("code") if error.get("code") in CODES else STATUS[status]
        partial_result = None if task.get("result") is None else await self._result(task)
        said = {"peer_task": errand.remote_id, **_words(error)}
        message = f"It failed at the peer: {code}; details has the peer's words."
        return Ended(id, code, partial_result, message, bool(error.get("retryable")), said)

    async def _result(self, task: dict[str, Any]) -> bytes:
        """The whole result, as JSON."""
        if task.get("result_uri"):
            return (await self._line.read(str(task["result_uri"]), seconds=_READ_SECONDS)).encode()
        return json.dumps(task["result"], ensure_ascii=False, separators=(",", ":")).encode()

    def _refusal(self, errand: _Errand, refused: Refused) -> Ended | Returned:
        if errand.cancelled and errand.remote_id is None:
            return _cancelled(errand, {})
        if refused.code == "queue_full":
            self._full_until = time.monotonic() + _FULL_SECONDS
            asyncio.get_running_loop().call_later(_FULL_SECONDS, self._sink, Changed())
            return Returned(errand.launch.attempt_id)
        if errand.remote_id is None:
            message = f"The peer refused it: {refused.code}; details has the peer's words."
            return self._ended(errand, refused.code, message, {"message": refused.words})
        code = "interrupted" if refused.code == "unknown_task" else refused.code
        message = f"The peer does not tell of it any more ({refused.code}); it may have run."
        return self._ended(errand, code, message, {"message": refused.words}, retryable=True)

    def _ended(
        self,
        errand: _Errand,
        code: str,
        message: str,
        details: dict[str, Any] | None = None,
        *,
        retryable: bool = False,
    ) -> Ended:
        known = {} if errand.remote_id is None else {"peer_task": errand.remote_id}
        return Ended(errand.launch.attempt_id, code, None, message, retryable, {**known, **(details or {})})

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`. The peer is told at once, and the end comes from it."""
        errand = self._errands.get(attempt_id)
        if errand is None or errand.cancelled:
            return
        errand.cancelled = True
        if errand.remote_id is not None:
            telling = asyncio.create_task(self._told(errand))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _told(self, errand: _Errand) -> None:
        with suppress(Lost, Refused):  # `_followed` asks again
            await self._call("pool_cancel", {"task_id": errand.remote_id}, _SUBMIT_SECONDS * 2)


def address(spec: PoolSpec) -> str:
    """The URL of the peer's MCP endpoint, `/mcp` where the definition names no path.

    Raises:
        PoolsError: `invalid_payload` for a definition that no peer can be reached by.
    """
    for option in spec.options:
        if option not in OPTIONS:
            raise _invalid(
                f"An mcp pool has no option {option!r}.", f"Its options: {', '.join(sorted(OPTIONS))}."
            )
    url = spec.endpoint or ""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise _invalid(
            f"The endpoint of pool {spec.name!r} is no http or https URL.",
            'Write it like "https://pools.example.org/mcp", a token under options.token_secret.',
        )
    loopback = host in ("localhost", "127.0.0.1", "::1")
    if "token_secret" in spec.options and parts.scheme != "https" and not loopback:
        raise _invalid(
            f"The token of pool {spec.name!r} would travel unencrypted to {host}.",
            "Use an https:// endpoint.",
        )
    return (parts if parts.path.strip("/") else parts._replace(path="/mcp")).geturl()


def _token(spec: PoolSpec, surroundings: Surroundings) -> str | None:
    name = spec.options.get("token_secret")
    return None if name is None else surroundings.secret(str(name))


def _invalid(message: str, next: str) -> PoolsError:
    return PoolsError("invalid_payload", message, next)


def _cancelled(errand: _Errand, details: dict[str, Any]) -> Ended:
    return Ended(errand.launch.attempt_id, "cancelled", message="Cancelled.", details=details)


def _progress(attempt_id: str, done: Any, total: Any, message: Any) -> Progressed:
    words = None if message is None else str(message)[:_LONGEST_WORDS]
    return Progressed(attempt_id, float(done), None if total is None else float(total), words)


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
