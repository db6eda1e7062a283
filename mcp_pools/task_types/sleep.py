"""`sleep`: occupy a worker for a while, saying how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

STEP_SECONDS = 0.5
"""How often progress is reported."""


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Sleep for `payload["seconds"]`; returns `{"slept": seconds}`."""
    seconds = float(payload["seconds"])
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        context.progress(round(passed, 3), seconds)
        time.sleep(min(STEP_SECONDS, seconds - passed))
    context.progress(seconds, seconds)
    return {"slept": seconds}
