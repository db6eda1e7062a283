"""What there is of a kind, and each change of it: list, then watch from there, for ever.

One loop serves all objects that carry a pool's label. A watch ends whenever the server
likes; it goes on from the last version heard (bookmarks included). When that is too old (410
Gone), or the server was away, everything is listed again, so that nothing is missed.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Final

from mcp_pools.errors import PoolsError
from mcp_pools.kube.api import Api, ApiError, Object

WATCH_SECONDS: Final = 280
"""How long one watch is asked to last."""
_MOST_PAUSE_SECONDS: Final = 5.0


class Informer:
    """Keeps hearing of the objects of one kind.

    Args:
        select: the label or field selector, as parameters of the request.
        listed: hears everything there is, each time it is listed.
        changed: hears `ADDED`, `MODIFIED` or `DELETED`, and the object.
    """

    def __init__(
        self,
        api: Api,
        kind: str,
        select: Mapping[str, str],
        listed: Callable[[list[Object]], None],
        changed: Callable[[str, Object], None],
    ) -> None:
        self._api = api
        self._kind = kind
        self._select = dict(select)
        self._listed = listed
        self._changed = changed
        self._version = ""
        self.failure: str | None = None
        """Why nothing is heard just now; `None` while all is well."""

    async def list(self) -> None:
        """List once; raises `ApiError`."""
        found = await self._api.list(self._kind, **self._select)
        self._version = found["metadata"]["resourceVersion"]
        self._listed(found.get("items") or [])

    async def run(self) -> None:
        """Watch, and list again where that is needed, until cancelled."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self.list()
                self.failure = None
                await self._watch()
                failures = 0
            except (ApiError, PoolsError) as error:
                failures += 1
                self.failure = str(error)
                if not isinstance(error, ApiError) or error.status not in (0, 429):
                    self._version = ""
                pause = getattr(error, "pause", None) or 0.05 * 2 ** min(failures, 7)
                await asyncio.sleep(min(pause, _MOST_PAUSE_SECONDS) * random.uniform(0.8, 1.2))  # noqa: S311

    async def _watch(self) -> None:
        """One watch, to its end."""
        parameters = {
            **self._select,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async with self._api.lines(self._api.path(self._kind), **parameters) as lines:
            async for line in lines:
                self._heard(line)

    def _heard(self, line: bytes) -> None:
        try:
            event = json.loads(line)
            kind, thing = event["type"], event["object"]
        except (ValueError, KeyError, TypeError):
            raise ApiError(0, "Broken", "A watch broke off in the middle of a line.") from None
        if kind == "ERROR":
            status = int(thing.get("code") or 500)
            raise ApiError(status, thing.get("reason") or "", thing.get("message") or "a watch failed")
        self._version = thing["metadata"]["resourceVersion"]
        if kind != "BOOKMARK":
            self._changed(kind, thing)
