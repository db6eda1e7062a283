"""Which tools one connection offers."""

from collections.abc import Mapping
from typing import Any, Final

import mcp_pools.tools  # noqa: F401 - fills TOOLS
from mcp_pools.errors import PoolsError, nearest
from mcp_pools.tool import TOOLS, Tool

_FLAGS: Final = frozenset({"read_only", "disable_destructive", "tools", "exclude_tools", "toolsets"})


def select_tools(flags: Mapping[str, Any]) -> dict[str, Tool]:
    """The tools one connection offers, in the order of `TOOLS`.

    `tools` and `toolsets` choose, together when both are given; `exclude_tools`,
    `read_only` and `disable_destructive` then take away.

    Raises:
        PoolsError: `invalid_payload`, for a flag, tool or toolset that does not exist: a
            mistyped restriction must not be ignored.
    """
    toolsets = {tool.toolset for tool in TOOLS.values()}
    _check_known("flag", flags, _FLAGS)
    chosen, sets = flags.get("tools"), flags.get("toolsets")
    excluded = flags.get("exclude_tools") or ()
    _check_known("tool", [*(chosen or ()), *excluded], TOOLS)
    _check_known("toolset", sets or (), toolsets)

    def offered(tool: Tool) -> bool:
        if tool.name in excluded or (flags.get("read_only") and tool.effect != "read"):
            return False
        if flags.get("disable_destructive") and tool.effect == "destroy":
            return False
        unnarrowed = chosen is None and sets is None
        return unnarrowed or tool.name in (chosen or ()) or tool.toolset in (sets or ())

    return {name: tool for name, tool in TOOLS.items() if offered(tool)}


def _check_known(kind: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise PoolsError("invalid_payload", f"There is no {kind} {name!r}.", nearest(str(name), known))
