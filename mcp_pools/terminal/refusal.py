"""Words for a call that was refused."""

from __future__ import annotations

import re
from typing import Any

from mcp_pools.errors import exit_code
from mcp_pools.terminal.output import complain
from mcp_pools.tool import TOOLS


def refuse(data: dict[str, Any]) -> int:
    """Say why a call was refused; the exit status of its code."""
    error = data.get("error", {})
    complain(f"{error.get('message', 'refused')} {as_commands(str(error.get('next') or ''))}")
    return exit_code(str(error.get("code", "")))


def as_commands(words: str) -> str:
    """Name commands where the text names tools: a reader in a terminal has no `pool_get`."""

    def command(found: re.Match[str]) -> str:
        tool = TOOLS.get(found[1])
        return f"'mcp-pools {tool.command}'" if tool else found[0]

    return re.sub(r"[`']?\b(pool_[a-z]+)\b(?!\()[`']?", command, words)
