"""The process between an owner and an engine: `python -m mcp_pools.link ENGINE DESCRIPTOR`.

It has the engine's library, its threads and its connection, so that the owner has none of them:
whatever they block, print or break is this process's matter. It ends when its owner does.

From the owner, over the socket DESCRIPTOR: ["open", {"endpoint", "workers", "options"}] first;
["launch", facts] with the payload, ["adopt", attempt id, timeout], ["stop", attempt id], ["workers", how
many], ["leave"]. To the owner: ["ready", capacity] or ["unusable", message, next] first;
["said", attempt id, kind] with the data, ["ended", attempt id, code, message, retryable, details]
with the result, ["returned", attempt id], ["capacity", how many], ["trouble", words].
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any, Final

from mcp_pools import processes
from mcp_pools.carrier import STOPPED, Outcome
from mcp_pools.engine import Engine, Lost, Unusable, receive, send
from mcp_pools.worker_process import MARK

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 4.0
"""How long an engine may take to say how it is."""
_FAILURES: Final = 5
"""How often in a row an engine may fail to do so before another link is to try."""
_STOP_SECONDS: Final = 30.0
"""How long the end of a launch that is to be stopped is waited for."""
_AGAIN_SECONDS: Final = 1.0
_MARGIN_SECONDS: Final = 30.0
"""How much longer than its timeout a launch may take to be heard of."""
_LEAVE_SECONDS: Final = 10.0
_CANCEL_SECONDS: Final = 2.0
"""How long tasks may take to end: an engine's library may hold on to its own."""


class Link:
    """One owner and one engine.

    Args:
        writer: of the stream to the owner.
    """

    def __init__(self, engine: Engine, writer: asyncio.StreamWriter, embedded: bool) -> None:
        self._engine = engine
        self._embedded = embedded
        self._send = partial(send, writer)
        self._carried: dict[str, asyncio.Task[None]] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._timeouts: dict[str, float] = {}
        self._late: set[str] = set()
        """Launches that are stopped because their worker did not end them in time."""
        self._told: tuple[str, Any] = ("", None)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Until the owner leaves, or has gone."""
        async with self._engine.life(self._heard):
            self._send(["ready", await self._engine.capacity()])
            obeying = asyncio.create_task(self._obey(reader))
            looking = asyncio.create_task(self._look_after())
            try:
                await asyncio.wait([obeying, looking], return_when=asyncio.FIRST_COMPLETED)
                if self._embedded and obeying.done():
                    await self._end_all()
            finally:
                await _ended([obeying, looking, *self._stopping.values(), *self._carried.values()])

    async def _obey(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                header, body = await receive(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            match header:
                case ["launch", facts]:
                    self._timeouts[facts["attempt_id"]] = facts["timeout"]
                    self._see(facts["attempt_id"], self._engine.carry(facts, body), "worker_lost")
                case ["adopt", attempt_id, timeout]:
                    self._timeouts[attempt_id] = timeout
                    self._watch(attempt_id)  # it may have started, and nobody says so twice
                    self._see(attempt_id, self._engine.adopt(attempt_id), "interrupted")
                case ["stop", attempt_id] if attempt_id in self._carried:
                    self._cancelled.add(attempt_id)
                    self._stop(attempt_id)
                case ["workers", workers]:
                    await self._engine.resize(workers)
                case ["leave"]:
                    return

    # Launches.

    def _heard(self, attempt_id: str, kind: str, data: bytes) -> None:
        if attempt_id in self._carried:
            if kind == "started":
                self._watch(attempt_id)
            self._send(["said", attempt_id, kind], data)

    def _watch(self, attempt_id: str) -> None:
        """See to it that a launch does not outlast its timeout, should its worker fail to."""
        late = self._timeouts[attempt_id] + _MARGIN_SECONDS
        asyncio.get_running_loop().call_later(late, self._overdue, attempt_id)

    def _overdue(self, attempt_id: str) -> None:
        if attempt_id in self._carried:
            self._late.add(attempt_id)
            self._stop(attempt_id)

    def _see(self, attempt_id: str, work: Coroutine[Any, Any, Outcome | None], lost: str) -> None:
        self._carried[attempt_id] = asyncio.create_task(self._seen_through(attempt_id, work, lost))

    async def _seen_through(
        self, attempt_id: str, work: Coroutine[Any, Any, Outcome | None], lost: str
    ) -> None:
        try:
            outcome = await work
        except Lost as error:
            await asyncio.to_thread(_end_here, attempt_id)
            outcome = Outcome(lost, message=str(error), retryable=True)
        except Exception as error:  # the engine's, or ours: the launch is not to hang for it
            message = f"The engine failed: {type(error).__name__}: {error}"
            outcome = Outcome("worker_lost", message=message, retryable=True)
        self._end(attempt_id, outcome)

    def _end(self, attempt_id: str, outcome: Outcome | None) -> None:
        if self._carried.pop(attempt_id, None) is None:
            return
        cancelled = attempt_id in self._cancelled
        self._cancelled.discard(attempt_id)
        if attempt_id in self._late and outcome is not None and outcome.code == STOPPED:
            outcome = self._timed_out(attempt_id)
        self._late.discard(attempt_id)
        del self._timeouts[attempt_id]
        if outcome is None and not cancelled:
            self._send(["returned", attempt_id])
            return
        if cancelled and (outcome is None or outcome.code not in (None, "cancelled")):
            outcome = Outcome("cancelled", message="Cancelled.")
        assert outcome is not None
        if outcome.code == STOPPED:
            message = "It was stopped while it ran; it may have run in part."
            outcome = Outcome("interrupted", message=message, retryable=True)
        words = [outcome.message, outcome.retryable, outcome.details or {}]
        self._send(["ended", attempt_id, outcome.code, *words], outcome.result)

    def _stop(self, attempt_id: str) -> None:
        if attempt_id not in self._stopping:
            stopping = self._stopping[attempt_id] = asyncio.create_task(self._stopped(attempt_id))
            stopping.add_done_callback(lambda _: self._stopping.pop(attempt_id, None))

    async def _stopped(self, attempt_id: str) -> None:
        """Ask for a launch's end until it has come."""
        until = asyncio.get_running_loop().time() + _STOP_SECONDS
        while (carried := self._carried.get(attempt_id)) is not None:
            if asyncio.get_running_loop().time() > until:
                unconfirmed = Outcome("cancelled", message="Cancelled.")
                if attempt_id not in self._cancelled:
                    unconfirmed = self._timed_out(attempt_id)
                carried.cancel()
                return self._end(attempt_id, unconfirmed._replace(details={"confirmed": False}))
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._engine.stop(attempt_id)
            except Exception as error:  # it is asked again, and whether it is there is seen elsewhere
                log.warning("The engine could not stop %s: %s: %s", attempt_id, type(error).__name__, error)
            await asyncio.wait([carried], timeout=_AGAIN_SECONDS)

    def _timed_out(self, attempt_id: str) -> Outcome:
        message = f"It ran longer than its timeout of {self._timeouts[attempt_id]:g} s."
        return Outcome("timeout", message=message)

    async def _end_all(self) -> None:
        carried = list(self._carried.values())
        for attempt_id in list(self._carried):
            self._stop(attempt_id)
        if carried:
            await asyncio.wait(carried, timeout=_LEAVE_SECONDS)

    # How the engine is.

    async def _look_after(self) -> None:
        """Say when the engine is another; returns when it has been away for so long that this connection
        will not see it again.
        """
        failures = 0
        while failures < _FAILURES:
            await asyncio.sleep(_LOOK_SECONDS)
            now = await self._look()
            failures = 0 if now[0] == "capacity" else failures + 1
            if now != self._told:
                self._told = now
                self._send(list(now))

    async def _look(self) -> tuple[str, Any]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return "capacity", await self._engine.capacity()
        except TimeoutError:
            return "trouble", f"it did not answer within {_ANSWER_SECONDS:g} s"
        except Exception as error:
            return "trouble", f"{type(error).__name__}: {error}"


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended: what they see through goes on without them."""
    for task in (tasks := list(tasks)):
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)


def _end_here(attempt_id: str) -> None:
    """End what is left of a launch on this machine: of a worker that was killed, something may be."""
    processes.kill_marked(lambda name, value: name in (MARK, "MCP_POOLS_ATTEMPT") and value == attempt_id)


async def main(name: str, descriptor: int) -> int:
    """Serve the owner on the other side of a socket."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    header, _ = await receive(reader)
    module = importlib.import_module(f"mcp_pools.engines.{name}")
    engine: Engine = module.engine(**header[1])
    try:
        await Link(engine, writer, header[1]["endpoint"] is None).run(reader)
    except Unusable as error:
        send(writer, ["unusable", error.message, error.next])
    except Exception as error:
        send(writer, ["trouble", f"{type(error).__name__}: {error}"])
        raise
    finally:
        writer.close()
        await writer.wait_closed()
    return 0


if __name__ == "__main__":
    code = asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    sys.stdout.flush()
    os._exit(code)  # an engine's threads are nobody's any more
