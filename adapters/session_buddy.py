"""Pool type `session-buddy`: a pool of three workers of a Session-Buddy server, reached over MCP.

It takes prompts, and tells in a sentence whether a worker took one through; what the worker said
stays there. The sentence is the result. The server knows no task again: it has no keys, no ids,
no progress and no way to stop a worker. So a prompt whose answer is lost may have run and is never
sent twice, and one that is cancelled may go on (`details.confirmed` is false).

Options: `token_secret` (the name of a configured secret: the server's bearer token), `pool` (the
server's pool; none: the name of ours). A pool that is not there is created.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_pools.adapter import Ended, Launch, Returned, Started
from mcp_pools.errors import PoolsError
from mcp_pools.far_pool import LOOK_SECONDS, Errand, FarPool
from mcp_pools.line import LONGEST_WORDS, Lost, Refused

TOOLS: Final = frozenset({"create_pool", "list_pools", "execute_on_pool"})
"""What the server must offer."""
WORKERS: Final = 3
"""Of each of its pools."""

_GRACE_SECONDS: Final = 5.0
_DONE, _FAILED = "✅", "❌"


@dataclass(slots=True, eq=False)
class _Errand(Errand):
    """A prompt at one of the server's workers."""

    called: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is cancelled."""


class SessionBuddyPool(FarPool[_Errand]):
    """A pool of Session-Buddy (`mcp_pools.adapter.Adapter`)."""

    options = frozenset({"token_secret", "pool"})

    def errand(self, launch: Launch, doubtful: bool) -> _Errand:
        """See `FarPool.errand`."""
        return _Errand(launch, launch.worker, doubtful)

    @property
    def most(self) -> int:
        """What one of its pools runs at once, at most."""
        return min(self.spec.max_workers, WORKERS)

    @property
    def name_there(self) -> str:
        """The pool's name at the server."""
        return str(self.spec.options.get("pool", self.spec.name))

    async def look(self) -> None:
        """`PoolsError` `invalid_payload`: it is another kind of server."""
        if self.trouble is not None and (missing := TOOLS - await self.line.tools(LOOK_SECONDS)):
            raise PoolsError(
                "invalid_payload",
                f"The server at {self.line.url} is no Session-Buddy: it does not offer "
                f"{', '.join(sorted(missing))}.",
                "Name the MCP address of a Session-Buddy server.",
            )
        listed = _said(await self.line.call("list_pools", {}, seconds=LOOK_SECONDS))
        if not re.search(rf"^\s*- {re.escape(self.name_there)}: running=True\b", listed, re.MULTILINE):
            made = _said(
                await self.line.call("create_pool", {"pool_id": self.name_there}, seconds=LOOK_SECONDS)
            )
            if not made.startswith(_DONE):
                raise Refused("conflict", made)
        self.task_types = frozenset({"prompt"})

    async def outcome(self, errand: _Errand) -> Ended | Returned:
        """One call, which lasts as long as the prompt runs; see `FarPool.outcome`."""
        if errand.doubtful:
            message = "Its owner died while a Session-Buddy worker had it; it may have run."
            return errand.ended("interrupted", message, retryable=True)
        payload = json.loads(errand.launch.payload)
        if (beyond := _beyond(errand, payload)) is not None:
            return beyond
        self.sink(Started(errand.launch.attempt_id, time.time()))
        call = asyncio.create_task(self._asked(errand.launch, payload))
        called_off = asyncio.create_task(errand.called.wait())
        try:
            await asyncio.wait((call, called_off), return_when=asyncio.FIRST_COMPLETED)
            return await call if call.done() else errand.called_off(confirmed=False)
        except Lost as lost:
            return self._lost(errand, lost)
        except Refused as refused:
            words = {"message": refused.words}
            return errand.ended(
                "task_error", "Session-Buddy refused the prompt; details has its words.", words
            )
        finally:
            call.cancel()
            called_off.cancel()

    async def _asked(self, launch: Launch, payload: dict[str, Any]) -> Ended:
        """Have the prompt run, and judge the sentence."""
        began = time.monotonic()
        arguments = {
            "pool_id": self.name_there,
            "prompt": payload["prompt"],
            "context": {"cwd": payload.get("cwd"), "attempt_id": launch.attempt_id},
            "timeout": launch.timeout,
        }
        said = _said(
            await self.line.call(
                "execute_on_pool", arguments, seconds=launch.timeout + _GRACE_SECONDS, depth=launch.depth + 1
            )
        )
        if said.startswith(_DONE):
            worker = re.search(r" by worker (\S+)\s*$", said)
            result = {"text": said, "pool": self.name_there, "worker": worker and worker[1]}
            return Ended(launch.attempt_id, None, json.dumps(result, ensure_ascii=False).encode())
        late = time.monotonic() - began >= launch.timeout
        code = "timeout" if late else "task_error"
        message = f"Session-Buddy says that it failed ({code}); details has its words."
        return Ended(launch.attempt_id, code, None, message, details={"message": said})

    def _lost(self, errand: _Errand, lost: Lost) -> Ended | Returned:
        self.mark(f"pool_unreachable: {lost.why}")
        if not lost.sent:
            return errand.called_off() if errand.cancelled else errand.returned()
        message = "Session-Buddy did not answer; the prompt may have run, in part or in whole."
        return errand.ended("interrupted", message, {"confirmed": False}, retryable=True)

    async def call_off(self, errand: _Errand) -> None:
        """See `FarPool.call_off`. Nobody can be told: the call is given up."""
        errand.called.set()


def _beyond(errand: Errand, payload: dict[str, Any]) -> Ended | None:
    """The end of a prompt that asks for what this server cannot do."""
    if payload.get("worktree"):
        return errand.ended("unsupported", "Session-Buddy makes no worktrees. Leave out worktree.")
    return None


def _said(content: dict[str, Any]) -> str:
    """The sentence of an answer, however the server wraps it."""
    return str(content.get("result", content.get("text", "")))[:LONGEST_WORDS].strip()
