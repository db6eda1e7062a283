"""An owner's log: its stderr, which is `owner.log` when it is detached. How it looks: `logs`."""

from __future__ import annotations

from mcp_pools.events import say

__all__ = ["say", "set_level", "write_to_stderr"]


def write_to_stderr() -> None:
    """Send all that this process logs to its stderr."""
    from mcp_pools.logs import write_to

    write_to()


def set_level(level: str) -> None:
    """From which level on it is written: `log_level`."""
    from mcp_pools import logs

    logs.set_level(level)
