"""Dask: each launch is a task, whose thread on a Dask worker looks after a process of its own.

Dask runs a task again when its worker dies, and forgets one whose client has gone. So a launch has
three things at the scheduler, named after its attempt: a *ticket*, a queue with one element, which
whoever runs the launch must take first, so that it runs once (and never, once we have taken it
back); the queue of what it *says*; and its future, *published*, so that it outlives our client.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import distributed
from distributed import Client, LocalCluster, Queue

import mcp_pools
from mcp_pools import engine_worker
from mcp_pools.carrier import Outcome
from mcp_pools.engine import Heard, Lost, Unusable, knock
from mcp_pools.engine_worker import Stint

_CONNECT_SECONDS: Final = 10
_PORT: Final = 8786
_SAYINGS: Final = 256
"""How much of what a launch says the scheduler keeps, in batches, while nobody takes it."""
_BATCH_SECONDS: Final = 2.0
_LAST_WORDS_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 1.0

_running: Final[dict[str, Stint]] = {}
"""On a Dask worker: the launches it runs, by attempt id."""


# On a Dask worker.


def carry(attempt_id: str, facts: dict[str, Any], payload: bytes) -> list[Any] | None:
    """The task: carry a launch out, if it has not run before; its outcome, or `None`."""
    ticket = Queue(_ticket(attempt_id))
    taken = ticket.get(batch=True)
    ticket.close()
    if not taken:
        return None
    says = Queue(_says(attempt_id), maxsize=_SAYINGS)
    stint = _running[attempt_id] = Stint(facts, payload)
    here = distributed.get_worker().address.encode()
    telling = threading.Thread(target=_tell, args=(stint, says, here), daemon=True)
    telling.start()
    try:
        return list(stint.run())
    finally:
        del _running[attempt_id]
        telling.join(_LAST_WORDS_SECONDS)
        says.close()


def _tell(stint: Stint, says: Any, here: bytes) -> None:
    """Send what it says to the scheduler; while nobody takes it there, it is dropped."""
    batch: list[tuple[str, bytes]] | None = [("worker", here)]
    while batch is not None:
        if batch:
            with contextlib.suppress(TimeoutError):
                says.put([list(each) for each in batch], timeout=_BATCH_SECONDS)
        batch = stint.take(_WATCH_SECONDS)
    with contextlib.suppress(TimeoutError):
        says.put([], timeout=_BATCH_SECONDS)


def stop(attempt_id: str) -> bool:
    """Stop a launch, should it run here; whether it does."""
    stint = _running.get(attempt_id)
    if stint is not None:
        stint.stop()
    return stint is not None


# In the link.


class Dask:
    """A cluster (`mcp_pools.engine.Engine`).

    Args:
        endpoint: of its scheduler; `None`: a cluster of our own, which ends with us.
        workers: how many our own has at most.
    """

    def __init__(self, endpoint: str | None, workers: int, options: dict[str, Any]) -> None:
        self._endpoint = endpoint
        self._most = workers
        self._size = 1
        self._cluster: Any = None
        self._client: Any = None
        self._workers: dict[str, int] = {}
        """Threads of each worker, by its address, when they were last looked at."""
        self._under_way: set[str] = set()
        self._withdrawn: set[str] = set()
        """Launches whose ticket was taken back, so that they never start."""

    @asynccontextmanager
    async def life(self, heard: Heard) -> AsyncIterator[None]:
        """See `Engine.life`."""
        self._heard = heard
        async with contextlib.AsyncExitStack() as stack:
            if self._endpoint is None:
                self._cluster = await stack.enter_async_context(self._own_cluster())
            else:
                parts = urlsplit(self._endpoint if "://" in self._endpoint else f"tcp://{self._endpoint}")
                if parts.scheme in ("tcp", "tls"):
                    await knock(parts.hostname or "", parts.port or _PORT, _CONNECT_SECONDS)
            self._client = await stack.enter_async_context(
                Client(
                    self._endpoint or self._cluster,
                    asynchronous=True,
                    set_as_default=False,
                    timeout=_CONNECT_SECONDS,
                )
            )
            await self._check_workers()
            yield

    def _own_cluster(self) -> Any:
        """Processes of this machine. TLS, for a scheduler runs whatever anybody sends to its port."""
        return LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,
            dashboard_address=None,
            worker_dashboard_address=None,
            memory_limit=0,
            asynchronous=True,
        )

    async def _check_workers(self) -> None:
        """Refuse a cluster whose workers cannot run launches."""
        found = await self._client.run(engine_worker.version, on_error="return")
        wrong = {worker: said for worker, said in found.items() if said != mcp_pools.__version__}
        if wrong and len(wrong) == len(found):
            said = next(iter(wrong.values()))
            has = f"has version {said}" if isinstance(said, str) else f"answers {type(said).__name__}"
            raise Unusable(
                f"None of the cluster's {len(found)} workers has mcp-pools {mcp_pools.__version__}: "
                f"{next(iter(wrong))} {has}.",
                f"In the workers' environment, run: pip install mcp-pools=={mcp_pools.__version__}",
            )

    async def capacity(self) -> int:
        """See `Engine.capacity`: threads. Of a cluster of our own: what it may grow to."""
        known = await self._client.scheduler.identity(n_workers=-1)
        self._workers = {name: each["nthreads"] for name, each in known["workers"].items()}
        return self._most if self._endpoint is None else sum(self._workers.values())

    async def resize(self, workers: int) -> None:
        """See `Engine.resize`. It grows; what it has more than it may use costs little."""
        self._most = max(workers, 1)

    def _grow(self) -> None:
        """A worker for each launch, as far as it may grow."""
        wanted = min(len(self._under_way), self._most)
        if self._cluster is not None and wanted > self._size:
            self._size = wanted
            self._cluster.scale(wanted)

    # Launches.

    async def carry(self, facts: dict[str, Any], payload: bytes) -> Outcome | None:
        """See `Engine.carry`."""
        attempt_id = facts["attempt_id"]
        self._under_way.add(attempt_id)
        self._grow()
        ticket = await Queue(_ticket(attempt_id), client=self._client)
        await ticket.put(1)
        future = self._client.submit(
            carry, attempt_id, facts, payload, key=_name(attempt_id), pure=False, retries=0
        )
        await self._client.publish_dataset(future, name=_name(attempt_id))
        return await self._see_through(attempt_id, future, ticket)

    async def adopt(self, attempt_id: str) -> Outcome | None:
        """See `Engine.adopt`."""
        ticket = await Queue(_ticket(attempt_id), client=self._client)
        if _name(attempt_id) in await self._client.list_datasets():
            future = await self._client.get_dataset(_name(attempt_id))
            return await self._see_through(attempt_id, future, ticket)
        if await ticket.get(batch=True):
            ticket.close()
            return None
        while any((await self._client.run(stop, attempt_id)).values()):
            await asyncio.sleep(0.1)
        ticket.close()
        raise Lost("Its owner died, and the cluster does not know it; it may have run, in part or in whole.")

    async def _see_through(self, attempt_id: str, future: Any, ticket: Any) -> Outcome | None:
        says = await Queue(_says(attempt_id), client=self._client, maxsize=_SAYINGS)
        worker: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        listening = asyncio.create_task(self._listen(attempt_id, says, worker))
        watching = asyncio.create_task(self._worker_gone(worker))
        result = asyncio.ensure_future(_result(future))
        try:
            await asyncio.wait([result, watching], return_when=asyncio.FIRST_COMPLETED)
            outcome = await self._outcome(attempt_id, result, listening, ticket)
        finally:
            for task in (listening, watching, result):
                task.cancel()
            self._under_way.discard(attempt_id)
        await self._forget(attempt_id, future, ticket, says)  # not when it is only we who leave
        if isinstance(outcome, Lost):
            raise outcome
        return outcome

    async def _outcome(
        self,
        attempt_id: str,
        result: asyncio.Future[list[Any] | None],
        listening: asyncio.Task[None],
        ticket: Any,
    ) -> Outcome | Lost | None:
        error = result.exception() if result.done() else None
        if error is not None:  # not even its ticket was looked at, and trying again would help nothing
            return Lost(f"The Dask worker could not take it: {type(error).__name__}: {error}")
        said = result.result() if result.done() else None
        if said is not None:
            await asyncio.wait([listening], timeout=_LAST_WORDS_SECONDS)
            return Outcome(*said)
        if self._client.status != "running":
            return Lost("The Dask scheduler has gone; it may have run, in part or in whole.")
        if attempt_id in self._withdrawn or await ticket.get(batch=True):
            self._withdrawn.discard(attempt_id)
            return None
        return Lost("The Dask worker that ran it has gone.")

    async def _forget(self, attempt_id: str, future: Any, *queues: Any) -> None:
        """Leave nothing of a launch at the scheduler, unless all has gone with it."""
        if self._client.status != "running":
            return
        for queue in queues:
            queue.close()
        with contextlib.suppress(OSError):
            await self._client.unpublish_dataset(_name(attempt_id))
            await self._client.cancel([future], force=True)

    async def _listen(self, attempt_id: str, says: Any, worker: asyncio.Future[str]) -> None:
        """Pass on what a launch says, to its end."""
        while batch := await says.get():
            for kind, data in batch:
                if kind != "worker":
                    self._heard(attempt_id, kind, data)
                elif not worker.done():
                    worker.set_result(data.decode())

    async def _worker_gone(self, worker: asyncio.Future[str]) -> None:
        """Until the worker that runs a launch has left the cluster; `capacity` says who is there."""
        name = await worker
        while True:
            if name not in self._workers:  # it may have come since
                with contextlib.suppress(OSError, TimeoutError):
                    await self.capacity()
                    if name not in self._workers:
                        return
            await asyncio.sleep(_WATCH_SECONDS)

    async def stop(self, attempt_id: str) -> None:
        """See `Engine.stop`. Without its ticket a launch never starts; with it taken, it runs somewhere."""
        ticket = await Queue(_ticket(attempt_id), client=self._client)
        if await ticket.get(batch=True):
            self._withdrawn.add(attempt_id)
            await self._client.cancel([distributed.Future(_name(attempt_id), self._client)], force=True)
        else:
            await self._client.run(stop, attempt_id, on_error="ignore")
        ticket.close()


async def _result(future: Any) -> list[Any] | None:
    """What the task returned; `None` when Dask gave it up or it was cancelled."""
    try:
        said: list[Any] | None = await future
    except (asyncio.CancelledError, distributed.client.FutureCancelledError):
        if future.status == "pending":
            raise  # it is we who are cancelled
        return None
    except distributed.scheduler.KilledWorker:
        return None
    return said


def _name(attempt_id: str) -> str:
    return f"mcp-pools-{attempt_id}"


def _ticket(attempt_id: str) -> str:
    return f"{_name(attempt_id)}-ticket"


def _says(attempt_id: str) -> str:
    return f"{_name(attempt_id)}-says"


engine = Dask
