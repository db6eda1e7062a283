"""A server with `worker_spawn` and `worker_execute`, such as Mahavishnu's: agents that take prompts.

Each place of the pool has a worker there, spawned when it is first needed. A worker takes one prompt at
a time, and one whose prompt was given up is closed: so nothing goes on in it, which its server confirms,
and the place gets a new one. What this owner spawned it closes when it leaves; the next one closes what
it could not, from the list in the pool's directory.

The option `worker_type` says which kind of worker is spawned. A worker has a directory of its own: the
prompt's `cwd` does not travel.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcp_pools.adapter import Ended, Returned
from mcp_pools.line import LONGEST_WORDS, Lost, Refused
from mcp_pools.one_call import ANSWER_SECONDS, Asked, OneCall, prompt_of

if TYPE_CHECKING:
    from mcp_pools.far_pool import FarPool

WORKER_TYPE: Final = "terminal-claude"
"""What is spawned when the pool does not say."""
SHORTEST, LONGEST = 30, 3600
"""Seconds between which a worker's timeout must be; a launch's own clock ends it sooner, or later not."""

_SPAWN_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 15.0
_CODES: Final = {"timeout": "timeout", "cancelled": "interrupted"}
"""By the status of what did not complete; any other is a `task_error`."""


class Workers(OneCall):
    """Workers of a server that spawns them (`mcp_pools.profile.Profile`)."""

    name = "workers"
    kind = "a server of workers"
    tools = frozenset({"worker_spawn", "worker_execute", "worker_close"})
    options = frozenset({"worker_type"})

    def __init__(self, pool: FarPool) -> None:
        super().__init__(pool)
        self._at: dict[str, str] = {}
        """By place, the id of its worker there."""
        self._kept = _Kept(pool.surroundings.directory / "workers")

    async def look(self) -> frozenset[str]:
        """See `Profile.look`. Workers that an earlier owner left are closed."""
        found = await super().look()
        left = self._kept.ids - set(self._at.values())
        await asyncio.gather(*map(self._close, left))
        return found

    async def answer(self, errand: Asked) -> Ended | Returned:
        """See `OneCall.answer`. A worker that is not there any more took nothing: there is a new one."""
        prompt = prompt_of(errand)["prompt"]
        worker = self._at.get(errand.place)
        if worker is not None:
            try:
                return await self._executed(errand, worker, prompt)
            except Refused as refused:
                if f"Worker not found: {worker}" not in refused.words:
                    await self._close(worker)
                    raise
                self._forget(worker)
        try:
            worker = await self._spawned(errand.place)
        except Lost as lost:  # the worker may be there, but it has no prompt
            raise Lost(lost.why, sent=False) from None
        return await self._executed(errand, worker, prompt)

    async def _spawned(self, place: str) -> str:
        type = str(self.pool.spec.options.get("worker_type", WORKER_TYPE))
        said = _answer(await self._call("worker_spawn", {"worker_type": type, "count": 1}, _SPAWN_SECONDS))
        ids = said.get("worker_ids") if isinstance(said, dict) else said
        if not isinstance(ids, list) or not ids:
            raise Refused("task_error", f"it spawned no worker: {json.dumps(said)[:LONGEST_WORDS]}")
        self._at[place] = worker = str(ids[0])
        self._kept.add(worker)
        return worker

    async def _executed(self, errand: Asked, worker: str, prompt: str) -> Ended:
        launch = errand.launch
        timeout = min(max(math.ceil(launch.timeout), SHORTEST), LONGEST)
        arguments = {"worker_id": worker, "prompt": prompt, "timeout": timeout}
        patience = launch.timeout + ANSWER_SECONDS
        said = _answer(await self._call("worker_execute", arguments, patience, errand))
        status = said.get("status") if isinstance(said, dict) else None
        if status == "completed":
            result = {"text": said.get("output") or "", **said}
            return Ended(launch.attempt_id, None, json.dumps(result, ensure_ascii=False).encode())
        await self.stopped(errand)
        code = _CODES.get(str(status), "task_error")
        words = str(said.get("error") if isinstance(said, dict) else said)[:LONGEST_WORDS]
        message = f"Its worker says that it did not complete ({code}); details has its words."
        return errand.ended(code, message, {"message": words, "worker": worker})

    async def _call(
        self, tool: str, arguments: dict[str, Any], seconds: float, errand: Asked | None = None
    ) -> dict[str, Any]:
        depth = 0 if errand is None else errand.launch.depth + 1
        heard = None if errand is None else errand.heard
        return await self.pool.line.call(tool, arguments, seconds=seconds, depth=depth, on_progress=heard)

    # Letting workers go.

    async def stopped(self, errand: Asked) -> bool:
        """See `OneCall.stopped`. The worker is closed; without one, nothing runs."""
        worker = self._at.get(errand.place)
        return worker is None or await self._close(worker)

    async def leave(self) -> None:
        """See `Profile.leave`."""
        await asyncio.gather(*map(self._close, list(self._at.values())))

    async def _close(self, worker: str) -> bool:
        """Whether the server said that it closed a worker. One that it did not is tried by the next owner."""
        self._at = {place: id for place, id in self._at.items() if id != worker}
        with suppress(Lost, Refused):
            asked = {"worker_id": worker, "force": True}
            said = _answer(await self._call("worker_close", asked, _CLOSE_SECONDS))
            self._kept.remove(worker)
            return isinstance(said, dict) and True in (said.get("closed"), said.get("success"))
        return False

    def _forget(self, worker: str) -> None:
        self._at = {place: id for place, id in self._at.items() if id != worker}
        self._kept.remove(worker)


class _Kept:
    """A file with the ids of the workers that were spawned and not closed, a line each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ids = set(file.read_text().split("\n")) - {""} if file.exists() else set()

    def add(self, worker: str) -> None:
        """One more."""
        self.ids.add(worker)
        self._write()

    def remove(self, worker: str) -> None:
        """One less."""
        self.ids.discard(worker)
        self._write()

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file.write_text("\n".join(sorted(self.ids)))


def _answer(content: dict[str, Any]) -> Any:
    """What a tool returned, however its server wraps it: as it is, under `result`, or as JSON in text."""
    if set(content) == {"result"}:
        return content["result"]
    if set(content) == {"text"}:
        with suppress(ValueError):
            return json.loads(content["text"])
    return content
