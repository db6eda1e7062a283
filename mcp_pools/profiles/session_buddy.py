"""Session-Buddy: a pool of three workers, which take prompts.

It tells in a sentence whether a worker took a prompt through; what the worker said stays there. The
sentence is the result, and the server cannot stop a worker.

The option `pool` names the server's pool; none: the name of ours. One that is not there is created.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any, Final

from mcp_pools.adapter import Ended
from mcp_pools.line import LONGEST_WORDS, Refused
from mcp_pools.one_call import ANSWER_SECONDS, Asked, OneCall, prompt_of
from mcp_pools.profile import LOOK_SECONDS

WORKERS: Final = 3
"""Of each of its pools."""

_DONE: Final = "✅"


class SessionBuddy(OneCall):
    """A pool of Session-Buddy (`mcp_pools.profile.Profile`)."""

    name = "session-buddy"
    kind = "Session-Buddy"
    tools = frozenset({"create_pool", "list_pools", "execute_on_pool"})
    options = frozenset({"pool"})
    grace_seconds = 5.0

    @property
    def most(self) -> int:
        """What one of its pools runs at once, at most."""
        return min(self.pool.spec.max_workers, WORKERS)

    @property
    def name_there(self) -> str:
        """The pool's name at the server."""
        return str(self.pool.spec.options.get("pool", self.pool.spec.name))

    async def look(self) -> frozenset[str]:
        """See `Profile.look`. The pool there is made when it is missing."""
        line = self.pool.line
        listed = _said(await line.call("list_pools", {}, seconds=LOOK_SECONDS))
        if not re.search(rf"^\s*- {re.escape(self.name_there)}: running=True\b", listed, re.MULTILINE):
            asked = {"pool_id": self.name_there}
            made = _said(await line.call("create_pool", asked, seconds=LOOK_SECONDS))
            if not made.startswith(_DONE):
                raise Refused("conflict", made)
        return frozenset({"prompt"})

    async def answer(self, errand: Asked) -> Ended:
        """See `OneCall.answer`: have the prompt run, and judge the sentence."""
        launch, payload, began = errand.launch, prompt_of(errand), time.monotonic()
        arguments = {
            "pool_id": self.name_there,
            "prompt": payload["prompt"],
            "context": {"cwd": payload.get("cwd"), "attempt_id": launch.attempt_id},
            "timeout": launch.timeout,
        }
        patience = launch.timeout + ANSWER_SECONDS
        said = _said(
            await self.pool.line.call("execute_on_pool", arguments, seconds=patience, depth=launch.depth + 1)
        )
        if said.startswith(_DONE):
            worker = re.search(r" by worker (\S+)\s*$", said)
            result = {"text": said, "pool": self.name_there, "worker": worker and worker[1]}
            return Ended(launch.attempt_id, None, json.dumps(result, ensure_ascii=False).encode())
        code = "timeout" if time.monotonic() - began >= launch.timeout else "task_error"
        message = f"Session-Buddy says that it failed ({code}); details has its words."
        return errand.ended(code, message, {"message": said})


def _said(content: dict[str, Any]) -> str:
    """The sentence of an answer, however the server wraps it."""
    return str(content.get("result", content.get("text", "")))[:LONGEST_WORDS].strip()
