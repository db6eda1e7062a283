"""Profiles of servers whose tools do the work while the call lasts: one launch is one call.

Such servers know no launch again: they have no keys and no ids of ours. So what was sent and got no
answer is `interrupted` and never sent twice, and what an owner left there may have run. A call that is
given up, cancelled or over its time, is cancelled as MCP has it; no answer says whether the work stopped,
so `details.confirmed` is false unless the server has another way (`stopped`).
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from mcp_pools.adapter import Ended, Launch, Returned, Started
from mcp_pools.errors import PoolsError
from mcp_pools.line import Lost, Refused
from mcp_pools.profile import LOOK_SECONDS, Errand, Profile

ANSWER_SECONDS: Final = 60.0
"""What the line waits longer for an answer than the launch may run: the launch's own clock ends it."""


@dataclass(slots=True, eq=False)
class Asked(Errand):
    """A launch that is a call."""

    called: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is cancelled."""

    async def heard(self, progress: float, total: float | None, message: str | None) -> None:
        """Pass the peer's progress on."""
        if self.by.pool.under_way(self.launch.attempt_id):
            self.by.pool.sink(self.progressed(progress, total, message))


class OneCall(Profile[Asked]):
    """A server where a launch is a call."""

    grace_seconds: ClassVar[float] = 0.0
    """How much longer than its timeout a launch is heard out: the server may keep the time, too."""

    def errand(self, launch: Launch, doubtful: bool) -> Asked:
        """See `Profile.errand`."""
        return Asked(self, launch, doubtful)

    @abstractmethod
    async def answer(self, errand: Asked) -> Ended | Returned:
        """Make the call, and judge its answer. Raises `Lost`, `Refused`, and `PoolsError` for what cannot
        be asked of this server.
        """

    async def stopped(self, errand: Asked) -> bool:
        """Stop what a call that was given up may have left running; whether the peer said that it did."""
        return False

    async def look(self) -> frozenset[str]:
        """See `Profile.look`. Prompts, as long as the tools are there."""
        if missing := self.tools - await self.pool.line.tools(LOOK_SECONDS):
            raise PoolsError(
                "invalid_payload",
                f"The server at {self.pool.line.where} does not offer {', '.join(sorted(missing))} any more.",
                "Look at the server, or name another one.",
            )
        return frozenset({"prompt"})

    async def outcome(self, errand: Asked) -> Ended | Returned:
        """See `Profile.outcome`."""
        self.pool.sink(Started(errand.launch.attempt_id, time.time()))
        call = asyncio.create_task(self.answer(errand))
        called = asyncio.create_task(errand.called.wait())
        try:
            patience = errand.launch.timeout + self.grace_seconds
            await asyncio.wait((call, called), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            await _given_up(call)  # the server hears of it before anything else is asked
            return await self._cut(errand)
        except Lost as lost:
            return await self._lost(errand, lost)
        except Refused as refused:
            message = "Its tool says that it failed; details has its words."
            return errand.ended("task_error", message, {"message": refused.words})
        except PoolsError as wrong:
            return errand.ended(wrong.code, str(wrong))
        finally:
            called.cancel()
            await _given_up(call)

    async def _cut(self, errand: Asked) -> Ended:
        """The end of a call that was given up."""
        confirmed = await self.stopped(errand)
        if errand.cancelled:
            return errand.called_off(**({} if confirmed else {"confirmed": False}))
        message = f"It had no answer within {errand.launch.timeout:g} s."
        return errand.ended("timeout", message, {} if confirmed else {"confirmed": False})

    async def _lost(self, errand: Asked, lost: Lost) -> Ended | Returned:
        self.pool.mark(f"pool_unreachable: {lost.why}")
        if not lost.sent:
            return errand.called_off() if errand.cancelled else errand.returned()
        await self.stopped(errand)
        message = "The server did not answer; it may have run, in part or in whole."
        return errand.ended("interrupted", message, {"confirmed": False}, retryable=True)

    async def call_off(self, errand: Asked) -> None:
        """See `Profile.call_off`. The call is given up."""
        errand.called.set()


async def _given_up(call: asyncio.Task[Any]) -> None:
    """End a call, which tells the server."""
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


def prompt_of(errand: Asked) -> dict[str, Any]:
    """The payload of a prompt; raises `PoolsError` `unsupported` for one that wants a worktree."""
    payload: dict[str, Any] = json.loads(errand.launch.payload)
    if payload.get("worktree"):
        raise PoolsError("unsupported", "The server makes no worktrees.", "Leave out worktree.")
    return payload
