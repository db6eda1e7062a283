"""What tells somebody outside of a home what happens in it: at least once, from a durable place
in its event log, and without holding up the owner that leaves.

The event log is the buffer: memory holds one batch. What its retention takes first is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from abc import ABC, abstractmethod
from logging import WARNING
from pathlib import Path
from typing import Final

from mcp_pools.events import say
from mcp_pools.store import Store

FAREWELL_SECONDS: Final = 2.0
"""How long an owner that leaves stays for what is left."""


class Position:
    """How far a receiver is, in a file: {"store", "receiver", "cursor"}; of another one it says nothing.

    Args:
        news: what is told, the first word of the events that say what goes wrong.
    """

    def __init__(self, file: Path, store: str, url: str, news: str) -> None:
        self._file = file
        self._news = news
        # The URL may hold a password, and the file only has to know whether it is still the same.
        self._of = {"store": store, "receiver": hashlib.sha256(url.encode()).hexdigest()[:16]}
        self.store = store
        self.cursor = self._read()

    def _read(self) -> int | None:
        try:
            kept = json.loads(self._file.read_bytes())
            return int(kept["cursor"]) if self._of.items() <= kept.items() else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    async def begin(self, log: Store) -> None:
        """A receiver that is new begins with what happens from now on."""
        if self.cursor is None:
            newest = await log.latest_events(1)
            self.move(newest[-1][0] if newest else 0)

    def move(self, cursor: int) -> None:
        """The receiver has all up to here. Should this get lost, it gets some of them again."""
        self.cursor = cursor
        written = self._file.with_suffix(".new")
        try:
            written.write_text(json.dumps({**self._of, "cursor": cursor}))
            os.replace(written, self._file)
        except OSError as failure:
            say(f"{self._news}.position_lost", WARNING, message=f"{self._file}: {failure.strerror}")

    def note_gap(self, first: int) -> None:
        """Say how many events are gone between the last one that was told and the `first` there is."""
        behind = (self.cursor or 0) + 1
        if first > behind:
            message = "The event log did not keep them until the receiver took them."
            say(f"{self._news}.dropped", WARNING, message=message, dropped=first - behind)
            self.cursor = first - 1  # said once, however often these are sent


class Follower(ABC):
    """Work that goes on beside an owner's, and ends soon after it leaves.

    Args:
        news: as of `Position`.
    """

    def __init__(self, news: str) -> None:
        self._news = news
        self.leaving = asyncio.Event()

    @abstractmethod
    async def run(self) -> None:
        """Tell what there is and what comes, until the owner leaves."""

    async def end(self, work: asyncio.Task[None]) -> None:
        """The owner leaves: one more try for what is left. `work` is what runs `run`."""
        self.leaving.set()
        _, unfinished = await asyncio.wait({work}, timeout=FAREWELL_SECONDS)
        work.cancel()
        (failure,) = await asyncio.gather(work, return_exceptions=True)
        if isinstance(failure, Exception):
            say(f"{self._news}.off", WARNING, message=f"{type(failure).__name__}: {failure}")
        if unfinished:
            say(f"{self._news}.left", message="The next owner sends what the receiver has not taken yet.")

    async def pause(self, seconds: float) -> None:
        """Wait; not when the owner leaves."""
        try:
            await asyncio.wait_for(self.leaving.wait(), seconds)
        except TimeoutError:
            return
