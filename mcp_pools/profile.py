"""The contract of a profile: one kind of MCP server, and how a launch is carried out there.

A pool on another server (`mcp_pools.far_pool`) keeps the line to it, the places and the errands, and
picks its profile by the tools that the server offers. Implementations: `mcp_pools/profiles/`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from mcp_pools.adapter import Ended, Launch, Progressed, Returned

if TYPE_CHECKING:
    from mcp_pools.far_pool import FarPool
    from mcp_pools.models import PoolSpec

LOOK_SECONDS: Final = 3.0
"""How long a peer may take to say who it is."""
LONGEST_PROGRESS: Final = 500
"""Characters of what a peer says of its progress that are kept."""


@dataclass(slots=True, eq=False)
class Errand:
    """A launch at the peer, in its place here."""

    by: Profile[Any]
    launch: Launch
    doubtful: bool = False
    """The peer may have taken it without our hearing so."""
    cancelled: bool = False
    submitting: bool = False
    """It is on its way, and must not be dropped now."""
    work: asyncio.Task[None] | None = None

    @property
    def sent(self) -> bool:
        """Whether the peer may have it."""
        return self.doubtful or self.submitting

    @property
    def place(self) -> str:
        """Where it is, of the pool's places."""
        return self.launch.worker

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

    def progressed(self, done: Any, total: Any, message: Any) -> Progressed:
        """The peer's word on how far it is."""
        words = None if message is None else str(message)[:LONGEST_PROGRESS]
        return Progressed(self.launch.attempt_id, float(done), None if total is None else float(total), words)


E = TypeVar("E", bound=Errand)


class Profile(ABC, Generic[E]):
    """One kind of server, seen by one pool. `PoolsError` `invalid_payload` refuses the pool's definition."""

    name: ClassVar[str]
    """What the pool remembers it by."""
    kind: ClassVar[str]
    """What such a server is called."""
    tools: ClassVar[frozenset[str]] = frozenset()
    """What it offers, by which it is known."""
    options: ClassVar[frozenset[str]] = frozenset()
    """The names of the pool's options that it reads."""
    resumes: ClassVar[bool] = False
    """Whether the next owner can take up what this one left; if not, what was left may have run."""
    resolves_secrets: ClassVar[bool] = False
    """Whether the peer fills in references to secrets, see `mcp_pools.adapter.Adapter`."""

    def __init__(self, pool: FarPool) -> None:
        self.pool = pool

    @classmethod
    def suits(cls, spec: PoolSpec, tools: Iterable[str]) -> bool:
        """Whether a pool of this definition, at a server that offers `tools`, goes by this profile."""
        return cls.tools.issubset(tools)

    @property
    def most(self) -> int:
        """Launches at once."""
        return self.pool.spec.max_workers

    @abstractmethod
    def errand(self, launch: Launch, doubtful: bool) -> E:
        """A launch, about to go out; `doubtful`: an earlier owner may have sent it."""

    @abstractmethod
    async def look(self) -> frozenset[str]:
        """Ask the peer how it is, and which of our task types it runs.

        Raises `Lost`, `Refused`, and `PoolsError` for a peer that can never be this pool.
        """

    @abstractmethod
    async def outcome(self, errand: E) -> Ended | Returned:
        """Carry a launch out."""

    @abstractmethod
    async def call_off(self, errand: E) -> None:
        """Tell the peer that a launch is cancelled, and `errand.cancelled` set; its outcome says the rest.
        May raise `Lost` and `Refused`.
        """

    async def leave(self) -> None:
        """The pool closes: let go at the peer of what nobody will use any more."""
