"""A pool on another MCP server: a kept line, places, launches under way.

What kind of server it is, and what becomes of a launch there, its profile says, which is picked by the
tools that the server offers. What runs at a peer goes on when this owner leaves, where the profile
says so; the next one takes it up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from mcp_pools import delegate
from mcp_pools.adapter import Changed, Launch, Sink, Slot, Surroundings
from mcp_pools.errors import PoolsError
from mcp_pools.line import Line, Lost, Refused
from mcp_pools.models import Health, PoolSpec, Worker
from mcp_pools.profile import LOOK_SECONDS, Errand, Profile
from mcp_pools.way import Way
from mcp_pools.ways import TRUSTED, way_to

AGAIN_SECONDS: Final = 0.3
"""How soon a peer in trouble is looked at again."""

_LONGEST_PAUSE: Final = 3.0
_LEAVE_SECONDS: Final = 3.0


class FarPool:
    """A pool on another server (`mcp_pools.adapter.Adapter`).

    Args:
        way: to the server; `None`: the definition says which.
    """

    profiles: ClassVar[tuple[type[Profile[Any]], ...]]
    """What its server may be; the first that suits is taken."""
    configured_only = TRUSTED
    """Options that a definition has from the configuration alone."""

    def __init__(self, spec: PoolSpec, surroundings: Surroundings, way: Way | None = None) -> None:
        known = frozenset().union(*(kind.options for kind in self.profiles))
        self.spec = spec
        self.task_types: frozenset[str] | None = None
        """What the peer runs; `None` until it was asked."""
        self.surroundings = surroundings
        self.line = Line(way or way_to(spec, surroundings, known))
        self.leaving = False
        self.trouble: str | None = "it was not asked yet"
        self.profile = self._expected()(self)
        self._errands: dict[str, Any] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._places: set[str] = set()
        self._seq = 0
        self._full_until = 0.0

    @property
    def resolves_secrets(self) -> bool:
        """See `mcp_pools.adapter.Adapter`."""
        return self.profile.resolves_secrets

    @property
    def most(self) -> int:
        """Launches at once."""
        return self.profile.most

    @asynccontextmanager
    async def run(self, sink: Sink, orphans: Sequence[Launch]) -> AsyncIterator[None]:
        """See `Adapter.run`. A peer that does not answer is unhealthy, no error.

        Raises:
            PoolsError: the peer can never be this pool.
        """
        self.sink = sink
        async with self.line.kept():
            left_by = self.profile  # what an earlier owner knew the peer as
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.line.tried()
            await self._look()
            watching = asyncio.create_task(self._watch())
            for launch in orphans:
                self._take_up(left_by, launch)
            try:
                yield
            finally:
                watching.cancel()
                await self._leave()

    def _take_up(self, profile: Profile[Any], launch: Launch) -> None:
        """Go on with what an earlier owner left, or say that it may have run."""
        errand = profile.errand(launch, doubtful=True)
        if profile.resumes:
            self._carry(errand)
        else:
            message = "Its owner died while the server had it; it may have run."
            self.sink(errand.ended("interrupted", message, retryable=True))

    async def _leave(self) -> None:
        """Stop listening. What is being submitted is heard out: a peer may drop a call that ends early."""
        self.leaving = True
        left = list(self._errands.values())
        submitting = [errand.work for errand in left if errand.submitting]
        if submitting:
            await asyncio.wait(submitting, timeout=_LEAVE_SECONDS)
        work = [*self._telling, *(errand.work for errand in self._errands.values())]
        for each in work:
            each.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for errand in [each for each in self._errands.values() if not each.by.resumes]:
            message = "Its pool closed while the server had it; it may have run."
            self.sink(errand.ended("interrupted", message, retryable=True))
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self.profile.leave()

    # Who the peer is, and whether it is there.

    def _expected(self) -> type[Profile[Any]]:
        """The profile until the peer was asked: the one it had last time, or the first it may have."""
        with suppress(OSError):
            last = self._memory.read_text()
            for kind in self.profiles:
                if kind.name == last and kind.suits(self.spec, kind.tools):
                    return kind
        return next(kind for kind in self.profiles if kind.suits(self.spec, kind.tools))

    @property
    def _memory(self) -> Path:
        return self.surroundings.directory / "profile"

    def _recognise(self, offered: frozenset[str]) -> None:
        """Take the profile that suits a server with these tools; raises `PoolsError` when none does."""
        for kind in self.profiles:
            if kind.suits(self.spec, offered):
                if type(self.profile) is not kind:
                    self.profile = kind(self)
                self._memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._memory.write_text(kind.name)
                return
        lacks = "; ".join(
            f"as {kind.kind} it does not offer {', '.join(sorted(kind.tools - offered))}"
            for kind in self.profiles
            if kind.tools
        )
        raise PoolsError(
            "invalid_payload",
            f"The server at {self.line.where} is none that a pool of type {self.spec.type} may use: {lacks}.",
            "Name the MCP address of such a server, and a token that may execute"
            + ("; or map task types to its tools under options.tools." if _maps(self.profiles) else "."),
        )

    async def _look(self) -> None:
        try:
            if self.trouble is not None:
                self._recognise(await self.line.tools(LOOK_SECONDS))
            self.task_types = await self.profile.look()
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
        names = (f"{self.spec.name}-{number}" for number in range(1, self.most + 1))
        free = [name for name in names if name not in self._places]
        return [self._slot(name) for name in free[: min(wanted, self.room)]]

    @property
    def room(self) -> int:
        """How many places can be reserved now."""
        if self.trouble is not None or time.monotonic() < self._full_until:
            return 0
        return max(0, self.most - len(self._places))

    @property
    def taken(self) -> int:
        """How many places are reserved, or have a launch."""
        return len(self._places)

    def _slot(self, place: str) -> Slot:
        self._places.add(place)
        self._seq += 1
        return Slot(place, self._seq, partial(self._places.discard, place))

    # Launches.

    def launch(self, launches: Sequence[Launch]) -> None:
        """See `Adapter.launch`."""
        for launch in launches:
            if launch.attempt_id not in self._errands:
                self._carry(self.profile.errand(launch, doubtful=False))

    def under_way(self, attempt_id: str) -> bool:
        """Whether a launch has had no outcome yet."""
        return attempt_id in self._errands

    def _carry(self, errand: Errand) -> None:
        self._places.add(errand.place)
        self._errands[errand.launch.attempt_id] = errand
        errand.work = asyncio.create_task(self._carried(errand))

    async def _carried(self, errand: Errand) -> None:
        try:
            with delegate.continuing(errand.launch.traceparent):
                outcome = await errand.by.outcome(errand)
        except Exception as failure:  # a bug of ours, or an answer no peer should give
            message = f"Asking the peer raised {type(failure).__name__}; it may have run."
            outcome = errand.ended("pool_unreachable", message, {"confirmed": False})
        del self._errands[errand.launch.attempt_id]
        self._places.discard(errand.place)
        self.sink(outcome)
        self.sink(Changed())

    async def lose(self) -> None:
        """The server is gone, and what ran there with it: that is lost, what it never got goes back."""
        left = [(errand, errand.sent) for errand in self._errands.values()]
        for errand, _ in left:
            if errand.work is not None:
                errand.work.cancel()
        await asyncio.gather(*(errand.work for errand, _ in left if errand.work), return_exceptions=True)
        for errand, sent in left:
            if self._errands.pop(errand.launch.attempt_id, None) is None:
                continue  # its outcome came just before
            self._places.discard(errand.place)
            if errand.cancelled:
                self.sink(errand.called_off())
            elif sent:
                message = "The server that had it is gone; it may have run, in part or in whole."
                self.sink(errand.ended("worker_lost", message, retryable=True))
            else:
                self.sink(errand.returned())
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

    async def _told(self, errand: Errand) -> None:
        with suppress(Lost, Refused):
            await errand.by.call_off(errand)


def _maps(profiles: Iterable[type[Profile[Any]]]) -> bool:
    return any("tools" in kind.options for kind in profiles)
