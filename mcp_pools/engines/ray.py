"""Ray: each launch is a task, whose Ray worker looks after a process of its own.

Ray ends the tasks of a driver that has gone, so none is ours: a *keeper*, a named actor that
outlives us, one on each cluster, asks for them, and keeps what they say and how they ended until somebody
takes it. It decides, too, whether a task that begins may run its launch: one that was stopped may not.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import ray

import mcp_pools
from mcp_pools import engine_worker
from mcp_pools.carrier import Outcome
from mcp_pools.engine import Heard, Lost, Unusable, knock
from mcp_pools.engine_worker import KEPT_BYTES, Said, Stint

_NAMESPACE: Final = "mcp-pools"
_KEEPER: Final = f"keeper-{mcp_pools.__version__}"
_KNOCK_SECONDS: Final = 5.0
_PORT, _CLIENT_PORT = 6379, 10001
_TELL_SECONDS: Final = 0.2
"""How often a task asks whether it is to stop, when it has nothing to say."""
_TAKE_SECONDS: Final = 10.0
_KEPT_SECONDS: Final = 24 * 3600.0
"""How long an outcome that nobody takes is kept."""


# On a Ray worker.


def carry(keeper: Any, attempt_id: str, facts: dict[str, Any], payload: bytes) -> list[Any] | None:
    """The task: carry a launch out, if it may begin; its outcome, or `None`."""
    if not ray.get(keeper.begin.remote(attempt_id)):
        return None
    stint = Stint(facts, payload)
    telling = threading.Thread(target=_tell, args=(keeper, attempt_id, stint), daemon=True)
    telling.start()
    outcome = stint.run()
    telling.join()  # all it said is with the keeper before its outcome
    return list(outcome)


def _tell(keeper: Any, attempt_id: str, stint: Stint) -> None:
    while (batch := stint.take(_TELL_SECONDS)) is not None:
        if ray.get(keeper.hear.remote(attempt_id, batch)):
            stint.stop()


# The keeper.


@dataclass(slots=True, eq=False)
class _Kept:
    """What the keeper knows of a launch."""

    task: Any = None
    begun: bool = False
    stopped: bool = False
    over: bool = False
    outcome: list[Any] | None = None
    lost: str = ""
    """Why nobody will ever tell its outcome, in words."""
    said: deque[Said] = field(default_factory=deque)
    printed_bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    taken: asyncio.Event = field(default_factory=asyncio.Event)


class Keeper:
    """An actor; its methods are called from links and from tasks."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._seeing: set[asyncio.Task[None]] = set()

    async def version(self) -> str:
        """That of mcp-pools on the cluster."""
        return engine_worker.version()

    async def launch(self, attempt_id: str, facts: dict[str, Any], payload: bytes, cpus: int) -> None:
        """Ask for a task, once."""
        if attempt_id in self._kept:
            return
        kept = self._kept[attempt_id] = _Kept()
        me = ray.get_runtime_context().current_actor
        task = ray.remote(carry).options(num_cpus=cpus, max_retries=0, name=f"mcp-pools {attempt_id}")
        kept.task = task.remote(me, attempt_id, facts, payload)
        seeing = asyncio.create_task(self._see_through(attempt_id, kept))
        self._seeing.add(seeing)
        seeing.add_done_callback(self._seeing.discard)

    async def _see_through(self, attempt_id: str, kept: _Kept) -> None:
        try:
            kept.outcome = await kept.task
        except Exception as error:  # Ray's word on a task that it lost, or that nobody may run
            if kept.begun:
                kept.lost = f"The Ray worker that ran it has gone ({type(error).__name__})."
        kept.over, kept.task = True, None
        kept.changed.set()
        try:
            async with asyncio.timeout(_KEPT_SECONDS):
                await kept.taken.wait()
        except TimeoutError:
            pass
        self._kept.pop(attempt_id, None)

    async def begin(self, attempt_id: str) -> bool:
        """Whether a task may run its launch now."""
        kept = self._kept.get(attempt_id)
        if kept is None or kept.stopped or kept.begun:
            return False
        kept.begun = True
        return True

    async def hear(self, attempt_id: str, batch: list[Said]) -> bool:
        """Keep what a launch says; whether it is to stop."""
        kept = self._kept[attempt_id]
        for kind, data in batch:
            kept.said.append((kind, data))
            kept.printed_bytes += len(data)
        while kept.printed_bytes > KEPT_BYTES and len(kept.said) > 1:
            kept.printed_bytes -= len(kept.said.popleft()[1])
        kept.changed.set()
        return kept.stopped

    async def take(self, attempt_id: str, seconds: float) -> tuple[str, list[Said], Any]:
        """What a launch has said since: `goes on`, or `over` with its outcome, or `lost` with words."""
        kept = self._kept.get(attempt_id)
        if kept is None:
            return "lost", [], "The Ray cluster does not know it; it may have run, in part or in whole."
        if not kept.said and not kept.over:
            kept.changed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await kept.changed.wait()
            except TimeoutError:
                pass
        said, kept.said, kept.printed_bytes = list(kept.said), deque(), 0
        if kept.lost:
            return "lost", said, kept.lost
        return ("over", said, kept.outcome) if kept.over else ("goes on", said, None)

    async def stop(self, attempt_id: str) -> None:
        """End a launch: one that has begun hears it, any other never begins."""
        kept = self._kept.get(attempt_id)
        if kept is None:
            return
        kept.stopped = True
        if not kept.begun and not kept.over:
            ray.cancel(kept.task)
            kept.over = True
            kept.changed.set()

    async def forget(self, attempt_id: str) -> None:
        """Its outcome was taken."""
        if (kept := self._kept.get(attempt_id)) is not None:
            kept.taken.set()


def keeper() -> Any:
    """The cluster's keeper; made when there is none yet. The process must be connected to it."""
    made = ray.remote(Keeper).options(
        name=_KEEPER, namespace=_NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0
    )
    return made.remote()


# In the link.


class Ray:
    """A cluster (`mcp_pools.engine.Engine`).

    Args:
        endpoint: `ray://host:10001`, or the address that `ray start` printed; `None`: a cluster of our
            own, which ends with us.
        workers: how many launches our own runs at a time.
    """

    def __init__(self, endpoint: str | None, workers: int, options: dict[str, Any]) -> None:
        self._endpoint = endpoint
        self._most = workers
        self._keeper: Any = None

    @asynccontextmanager
    async def life(self, heard: Heard) -> AsyncIterator[None]:
        """See `Engine.life`."""
        self._heard = heard
        if self._endpoint is None:
            self._start_own()
        else:
            await knock(*_host_and_port(self._endpoint), _KNOCK_SECONDS)
            ray.init(self._endpoint, namespace=_NAMESPACE, log_to_driver=False)
        try:
            await self._find_keeper()
            yield
        finally:
            ray.shutdown()

    def _start_own(self) -> None:
        """Processes of this machine, and a token that only they know: a cluster runs what anybody sends.

        Launches take no CPU in its books: how many there are at a time is counted here.
        """
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=1, namespace=_NAMESPACE, include_dashboard=False, log_to_driver=False)

    async def _find_keeper(self) -> None:
        self._keeper = keeper()
        try:
            found = await self._ask("version")
        except ray.exceptions.RayActorError as error:
            found = type(error).__name__
        if found != mcp_pools.__version__:
            raise Unusable(
                f"The cluster's workers do not have mcp-pools {mcp_pools.__version__}: {found}.",
                f"In their environment, run: pip install mcp-pools=={mcp_pools.__version__}",
            )

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await asyncio.wrap_future(getattr(self._keeper, method).remote(*arguments).future())

    async def capacity(self) -> int:
        """See `Engine.capacity`: CPUs."""
        if await self._ask("version") and self._endpoint is None:
            return self._most
        return int((await asyncio.to_thread(ray.cluster_resources)).get("CPU", 0))

    async def resize(self, workers: int) -> None:
        """See `Engine.resize`."""
        self._most = workers

    # Launches.

    async def carry(self, facts: dict[str, Any], payload: bytes) -> Outcome | None:
        """See `Engine.carry`."""
        attempt_id = facts["attempt_id"]
        await self._ask("launch", attempt_id, facts, payload, 0 if self._endpoint is None else 1)
        return await self.adopt(attempt_id)

    async def adopt(self, attempt_id: str) -> Outcome | None:
        """See `Engine.adopt`."""
        state = "goes on"
        while state == "goes on":
            try:
                state, said, outcome = await self._ask("take", attempt_id, _TAKE_SECONDS)
            except ray.exceptions.RayActorError:
                raise Lost("Its keeper on the Ray cluster has gone; it may have run.") from None
            for kind, data in said:
                self._heard(attempt_id, kind, data)
        await self._ask("forget", attempt_id)
        if state == "lost":
            raise Lost(outcome)
        return None if outcome is None else Outcome(*outcome)

    async def stop(self, attempt_id: str) -> None:
        """See `Engine.stop`."""
        await self._ask("stop", attempt_id)


def _host_and_port(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return parts.hostname or "", parts.port or (_CLIENT_PORT if parts.scheme == "ray" else _PORT)


engine = Ray
