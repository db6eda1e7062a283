"""The contract of an engine: a cluster that runs launches, such as Dask or Ray.

An engine's library is heavy, blocks, keeps global state, and may end its process. So it lives
in a process of its own, the *link* (`mcp_pools.link`), one a pool, which speaks to the owner in
packets over a stream. What is here is known on both sides.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from mcp_pools.carrier import Outcome

Heard = Callable[[str, str, bytes], None]
"""Takes what a launch says: its attempt id, the kind and the data, as `mcp_pools.carrier.Say` does."""

_HEAD_BYTES: Final = 8


class Lost(Exception):
    """Nobody will ever tell the outcome of a launch that may have run; in words, why."""


class Unusable(Exception):
    """The engine can never be this pool: what is wrong, and what to do about it."""

    def __init__(self, message: str, next: str) -> None:
        super().__init__(message)
        self.message, self.next = message, next


class Engine(Protocol):
    """What a link needs of an engine. All on one event loop, which nothing may block."""

    def life(self, heard: Heard) -> AbstractAsyncContextManager[None]:
        """The connection, or the embedded cluster; on leaving, what it started ends if it is embedded.
        Raises `Unusable`; anything else means that the engine is not there now.
        """

    async def carry(self, facts: dict[str, Any], payload: bytes) -> Outcome | None:
        """Have a launch carried out (`mcp_pools.engine_worker.brief`), at most once, and see it through.

        `None`: it never ran and never will. Raises `Lost`.
        """

    async def adopt(self, attempt_id: str) -> Outcome | None:
        """See a launch through that an earlier link asked for; otherwise as `carry`. When it raises
        `Lost`, nothing of the launch runs any more, as far as the cluster can tell.
        """

    async def stop(self, attempt_id: str) -> None:
        """End a launch: `carry` returns when that is done, with `carrier.STOPPED`, or `None`."""

    async def capacity(self) -> int:
        """How many launches it can run at a time; raises when it is not there."""

    async def resize(self, workers: int) -> None:
        """An embedded cluster is wanted to have so many workers; a foreign one is left as it is."""


async def knock(host: str, port: int, seconds: float) -> None:
    """See whether somebody listens: an engine's own client may go on trying for minutes. Raises `OSError`."""
    async with asyncio.timeout(seconds):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()


async def receive(reader: asyncio.StreamReader) -> tuple[list[Any], bytes]:
    """The next packet: a header in JSON and a body. Raises `asyncio.IncompleteReadError` at the end."""
    sizes = await reader.readexactly(2 * _HEAD_BYTES)
    head = await reader.readexactly(int.from_bytes(sizes[:_HEAD_BYTES], "big"))
    body = await reader.readexactly(int.from_bytes(sizes[_HEAD_BYTES:], "big"))
    return json.loads(head), body


def send(writer: asyncio.StreamWriter, header: list[Any], body: bytes = b"") -> None:
    """Send a packet; one to somebody who has gone is lost without a word."""
    head = json.dumps(header, separators=(",", ":")).encode()
    sizes = len(head).to_bytes(_HEAD_BYTES, "big") + len(body).to_bytes(_HEAD_BYTES, "big")
    if not writer.is_closing():
        writer.write(sizes + head + body)
