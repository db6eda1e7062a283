"""The contract of a pool type: five methods, and typed events back.

An adapter runs *launches*. It knows nothing of queues, retries, stores or clients, and
it imports only this module, models, errors, telemetry, and its own library or `wire`.
The router commits a launch before it asks for it; an adapter may be asked for the same
launch again and must then not run it twice.

For every launch it took, an adapter reports exactly one `Ended` or one `Returned`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mcp_pools.agents import Agent
from mcp_pools.errors import PoolsError
from mcp_pools.models import Health, PoolSpec, WaitingCode, Worker


@dataclass(frozen=True, slots=True)
class Launch:
    """One attempt to run: all that an adapter may know of a task."""

    attempt_id: str
    task_id: str
    attempt: int
    task_type: str
    handler: str
    payload: bytes
    timeout: float
    cwd: str
    roots: tuple[str, ...]
    depth: int
    worker: str
    """Where the adapter said it would go (`Slot.worker`)."""
    seq: int
    traceparent: str | None = None
    """The trace context that whatever runs it goes on with; the parent of its spans."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one launch: the worker that will take it and that worker's own number for it."""

    worker: str
    seq: int
    give_back: Callable[[], None]
    """To be called when no launch follows, so that the place is free again."""


@dataclass(frozen=True, slots=True)
class Waits:
    """The launch was taken but does not run yet, and why; said again when the reason changes."""

    attempt_id: str
    code: WaitingCode
    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """The launch runs since `at` (Unix seconds)."""

    attempt_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Progressed:
    """The launch's latest word on how far it is."""

    attempt_id: str
    done: float
    total: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Ran:
    """When its handler ran (Unix seconds, by the clock of whoever ran it) and in which process.

    Optional, before `Ended`: it makes the launch's span exact.
    """

    attempt_id: str
    started: float
    ended: float
    pid: int


@dataclass(frozen=True, slots=True)
class Printed:
    """Output of the launch, as it came."""

    attempt_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The launch is over and nothing of it runs any more. `code` is `None` for a success."""

    attempt_id: str
    code: str | None
    result: bytes | None = None
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Returned:
    """The launch never started and never will: it goes back and costs no attempt."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Workers, free slots or health changed: look again."""


AdapterEvent = Waits | Started | Ran | Progressed | Printed | Ended | Returned | Changed
Sink = Callable[[AdapterEvent], None]
"""Takes an event on the event loop's thread, at once and without raising."""


def _no_secret(name: str) -> str:
    raise PoolsError("invalid_payload", f"The secret {name!r} is not configured.", "Add it to secrets.")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an adapter gets from the home it serves.

    `directory` is the pool's own, kept between owners. `environment` is all that the
    children of tasks may see of the owner's. `memory_bytes` limits each worker; 0: nothing.
    `agent` is what the pool's worker type stands for; `None` for Python. `pool_id` is the pool's
    own, which no other home has. `secret` reads a secret of the configuration by its name, for the
    pool's own credentials: it may block, and raises `PoolsError`.
    """

    directory: Path
    environment: Mapping[str, str]
    memory_bytes: int = 0
    agent: Agent | None = None
    pool_id: str = ""
    secret: Callable[[str], str] = _no_secret


class Adapter(Protocol):
    """A pool type. Built-in ones use nothing a third party cannot.

    A type whose work runs on another server may have four attributes more. `task_types`, a set or `None`
    (not known yet): what that server runs. `resolves_secrets`, true: references to secrets stay in its
    payloads, for the server has its own. `configured_only`, of the class, a set: the options that a
    definition has from the configuration alone. `discard`, an asynchronous method: called in the pool's life,
    before its end, when the pool is closed for good; it takes away what would stay elsewhere.
    """

    spec: PoolSpec
    """What was asked for. The router replaces it when the definition changes."""
    workers: Sequence[Worker]
    """The workers as they stand, known without asking anybody."""

    def run(self, sink: Sink, orphans: Sequence[Launch]) -> AbstractAsyncContextManager[None]:
        """The pool's life: on entering, start, and take up (or report `Ended`/`Returned` for)
        the launches an earlier owner left; on leaving, end everything that runs here. What
        runs elsewhere and can be taken up again goes on, and is left to the next owner.
        """

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """Places for up to `wanted` launches, now. Called when tasks wait, so it is also
        the sign to start workers. Each is then used by `launch`, or given back.
        """

    def launch(self, launches: Sequence[Launch]) -> None:
        """Run these, each in its reserved slot; outcomes arrive as events."""

    async def cancel(self, attempt_id: str) -> None:
        """End a launch and all it started; `Ended` (`cancelled`) follows when nothing is left.
        Unknown launches are ignored: they have ended.
        """

    async def health(self) -> tuple[Health, str | None]:
        """Ask whatever runs the work whether it is well; a reason when it is not."""
