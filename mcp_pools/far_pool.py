"""What all pools on other MCP servers have in common: a kept line, places, launches under way.

A pool type says how it knows its peer (`look`) and what becomes of a launch there (`outcome`).
What runs at a peer goes on when this owner leaves; the next one takes it up.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Generic, TypeVar
from urllib.parse import urlsplit

from mcp_pools import delegate
from mcp_pools.adapter import Changed, Ended, Launch, Returned, Sink, Slot, Surroundings
from mcp_pools.errors import PoolsError
from mcp_pools.line import Line, Lost, Refused
from mcp_pools.models import Health, PoolSpec, Worker

LOOK_SECONDS: Final = 3.0
"""How long a peer may take to say who it is."""
AGAIN_SECONDS: Final = 0.3
"""How soon it is asked again when it did not answer."""

_LONGEST_PAUSE: Final = 3.0
_LEAVE_SECONDS: Final = 3.0


@dataclass(slots=True, eq=False)
class Errand:
    """A launch at the peer, in its place here."""

    launch: Launch
    place: str
    doubtful: bool = False
    """The peer may have taken it without our hearing so."""
    cancelled: bool = False
    submitting: bool = False
    """It is on its way, and must not be dropped now."""
    work: asyncio.Task[None] | None = None

    def ended(
        self, code: str, message: str, details: dict[str, Any] | None = None, *, retryable: bool = False
    ) -> Ended:
        """Its end without a result."""
        return Ended(self.launch.attempt_id, code, None, message, retryable, details or {})

    def called_off(self, **details: Any) -> Ended:
        """Its end as cancelled."""
        return self.ended("cancelled", "Cancelled.", details)

    def returned(self) -> Returned:
        """It goes back: the peer never took it."""
        return Returned(self.launch.attempt_id)


E = TypeVar("E", bound=Errand)


class FarPool(ABC, Generic[E]):
    """A pool on another server (`mcp_pools.adapter.Adapter`), but for what depends on the server."""

    options: ClassVar[frozenset[str]]
    """The names of its options; `token_secret` names the configured secret that is the bearer token."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings) -> None:
        self.spec = spec
        self.task_types: frozenset[str] | None = None
        """What the peer runs; `None` until it was asked."""
        self.surroundings = surroundings
        self.line = Line(address(spec, self.options), partial(_token, spec, surroundings))
        self.leaving = False
        self.trouble: str | None = "it was not asked yet"
        self._errands: dict[str, E] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._places: set[str] = set()
        self._seq = 0
        self._full_until = 0.0

    @abstractmethod
    def errand(self, launch: Launch, doubtful: bool) -> E:
        """A launch, about to go out; `doubtful`: an earlier owner may have sent it."""

    @abstractmethod
    async def look(self) -> None:
        """Ask the peer who it is and what it runs. Raises `Lost`, `Refused`, and `PoolsError` for a peer
        that can never be this pool.
        """

    @abstractmethod
    async def outcome(self, errand: E) -> Ended | Returned:
        """Carry a launch out."""

    @abstractmethod
    async def call_off(self, errand: E) -> None:
        """Tell the peer that a launch is cancelled, and `errand.cancelled` set; its outcome says the rest.
        May raise `Lost` and `Refused`.
        """

    @property
    def most(self) -> int:
        """Launches at once."""
        return self.spec.max_workers

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. A peer that does not answer is unhealthy, no error.

        Raises:
            PoolsError: the peer can never be this pool.
        """
        self.sink = sink
        async with self.line.kept():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.line.tried()
            await self._look()
            watching = asyncio.create_task(self._watch())
            for launch in orphans:
                self._carry(self.errand(launch, doubtful=True))
            try:
                yield
            finally:
                watching.cancel()
                await self._leave()

    async def _leave(self) -> None:
        """Stop listening. What is being submitted is heard out: a peer may drop a call that ends early."""
        self.leaving = True
        submitting = [errand.work for errand in self._errands.values() if errand.work and errand.submitting]
        if submitting:
            await asyncio.wait(submitting, timeout=_LEAVE_SECONDS)
        work = [
            each for each in (*self._telling, *(errand.work for errand in self._errands.values())) if each
        ]
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    # Whether the peer is there.

    async def _look(self) -> None:
        try:
            await self.look()
        except Lost as lost:
            self.mark(f"pool_unreachable: {lost.why}")
        except Refused as refused:
            self.mark(f"it refuses to say what it runs: {refused.code}")
        except PoolsError as wrong:
            self.mark(str(wrong))
            raise
        else:
            self.mark(None)

    def mark(self, trouble: str | None) -> None:
        """Note what is wrong with the peer, or that nothing is."""
        changed, self.trouble = (self.trouble is None) != (trouble is None), trouble
        if changed:
            self.sink(Changed())

    def full_for(self, seconds: float) -> None:
        """Take nothing for a while: the peer has no room."""
        self._full_until = time.monotonic() + seconds
        asyncio.get_running_loop().call_later(seconds, self.sink, Changed())

    async def _watch(self) -> None:
        """While the peer is in trouble, look whether it still is."""
        pause = AGAIN_SECONDS
        while True:
            await asyncio.sleep(pause)
            if self.trouble is None:
                pause = AGAIN_SECONDS
                continue
            pause = min(pause * 1.5, _LONGEST_PAUSE)
            with suppress(PoolsError):
                await self._look()

    async def health(self) -> tuple[Health, str | None]:
        """See `Adapter.health`."""
        with suppress(PoolsError):
            await self._look()
        return ("healthy", None) if self.trouble is None else ("unhealthy", self.trouble)

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
        if self.trouble is not None or time.monotonic() < self._full_until:
            return ()
        names = (f"{self.spec.name}-{number}" for number in range(1, self.most + 1))
        free = [name for name in names if name not in self._places]
        room = self.most - len(self._places)
        return [self._slot(name) for name in free[: max(0, min(wanted, room))]]

    def _slot(self, place: str) -> Slot:
        self._places.add(place)
        self._seq += 1
        return Slot(place, self._seq, partial(self._places.discard, place))

    # Launches.

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        for launch in launches:
            if launch.attempt_id not in self._errands:
                self._carry(self.errand(launch, doubtful=False))

    def under_way(self, attempt_id: str) -> bool:
        """Whether a launch has had no outcome yet."""
        return attempt_id in self._errands

    def _carry(self, errand: E) -> None:
        self._places.add(errand.place)
        self._errands[errand.launch.attempt_id] = errand
        errand.work = asyncio.create_task(self._carried(errand))

    async def _carried(self, errand: E) -> None:
        try:
            with delegate.continuing(errand.launch.traceparent):
                outcome = await self.outcome(errand)
        except Exception as failure:  # a bug of ours, or an answer no peer should give
            message = f"Asking the peer raised {type(failure).__name__}; it may have run."
            outcome = errand.ended("pool_unreachable", message, {"confirmed": False})
        del self._errands[errand.launch.attempt_id]
        self._places.discard(errand.place)
        self.sink(outcome)
        self.sink(Changed())

    async def cancel(self, attempt_id: str) -> None:
        """See `Adapter.cancel`. The peer is told at once; the outcome follows."""
        errand = self._errands.get(attempt_id)
        if errand is None or errand.cancelled:
            return
        errand.cancelled = True
        telling = asyncio.create_task(self._told(errand))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _told(self, errand: E) -> None:
        with suppress(Lost, Refused):
            await self.call_off(errand)


def address(spec: PoolSpec, options: frozenset[str]) -> str:
    """The URL of the peer's MCP endpoint, `/mcp` where the definition names no path.

    Raises:
        PoolsError: `invalid_payload` for a definition that no peer can be reached by.
    """
    for option in spec.options:
        if option not in options:
            known = f"Its options: {', '.join(sorted(options))}."
            raise _invalid(f"A pool of type {spec.type} has no option {option!r}.", known)
    url = spec.endpoint or ""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise _invalid(
            f"The endpoint of pool {spec.name!r} is no http or https URL.",
            'Write it like "https://pools.example.org/mcp", and name its token under options.token_secret.',
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
