"""A tool's answer to an MCP client: the whole result when it is short, else as much as fits.

The console and Python always get the whole. What pages by a cursor is cut so that the
cursor goes on exactly behind what is shown: nothing is lost between two calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_pools.history import behind
from mcp_pools.shortening import Shortened, shortened
from mcp_pools.tool import Tool

if TYPE_CHECKING:
    from mcp_pools.router import Router


async def answer(tool: Tool, router: Router, arguments: dict[str, Any]) -> Shortened:
    """Run a tool; its result within the setting `mcp_result_tokens`.

    Raises:
        PoolsError: the call was refused.
    """
    tokens = router.settings.mcp_result_tokens
    whole = await tool.invoke(router, arguments)
    short = shortened(whole, tokens, arguments)
    if short.result is whole:
        return short
    if tool.name == "pool_search":
        return await _shorter_page(tool, router, arguments, short)
    if tool.name == "pool_watch":
        return _cut_events(short)
    return short


async def _shorter_page(tool: Tool, router: Router, arguments: dict[str, Any], cut: Shortened) -> Shortened:
    """The page again with as many tasks as fit: only the store knows the cursor behind them."""
    fewer = arguments | {"limit": len(cut.result["tasks"])}
    page = await tool.invoke(router, fewer)
    return Shortened(shortened(page, router.settings.mcp_result_tokens, fewer).result)


def _cut_events(cut: Shortened) -> Shortened:
    """The cursor goes back to the last event that is shown."""
    events = cut.result["events"]
    if not events:
        return cut
    cursor = behind(cut.result["cursor"], events[-1]["cursor"])
    return Shortened(cut.result | {"cursor": cursor}, cut.note)
