"""Waiting for something to hold, with a deadline. No test sleeps for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 20.0
"""Seconds after which what should hold counts as not holding; far more than it ever takes."""


async def until(holds: Callable[[], Any], what: str = "") -> Any:
    """The first true value of `holds()`, which may be a coroutine function."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = holds()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"it never held: {what or holds}"
        await asyncio.sleep(0.002)
