"""Session-Buddy as a memory: a reflection each, tagged with the task's id.

It answers in prose. What it kept it calls "stored successfully"; anything else is a refusal. It does
not know a reflection again: one whose answer got lost is there twice, under the same tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from mcp_pools.memory import CALL_SECONDS, Memo

if TYPE_CHECKING:
    from mcp_pools.line import Line

_KEPT: Final = ("✅ Reflection stored successfully", "💾 Reflection stored successfully")
_NOTHING: Final = "🔍 No results found"
_LEAST_SCORE: Final = 0.3
"""Of 1. It demands 0.7 of reflections in any case."""


class SessionBuddy:
    """A Session-Buddy server (`mcp_pools.memory.Memory`)."""

    tools = frozenset({"store_reflection"})
    at_once = 1

    async def keep(self, line: Line, memos: Sequence[Memo]) -> dict[str, str]:
        """See `Memory.keep`."""
        refused = {}
        for memo in memos:
            arguments = {"content": memo.text, "tags": list(memo.tags)}
            said = _said(await line.call("store_reflection", arguments, seconds=CALL_SECONDS))
            if not said.startswith(_KEPT):
                refused[memo.id] = said
        return refused

    async def search(self, line: Line, query: str, limit: int) -> list[str]:
        """See `Memory.search`. Its full server looks for reflections with `progressive_search`, the
        small one with `quick_search`, which shows one.
        """
        from mcp_pools.line import Refused

        asked = {"query": query, "min_score": _LEAST_SCORE, "max_results": limit}
        try:
            answer = await line.call("progressive_search", asked, seconds=CALL_SECONDS)
        except Refused:  # it has no such tool
            said = _said(await line.call("quick_search", {"query": query}, seconds=CALL_SECONDS))
            found = said.partition("\n")[2].strip()  # behind the line that repeats the query
            return [] if not found or _NOTHING in said else [found]
        samples = answer.get("sample_results")
        if answer.get("success") is not True or not isinstance(samples, list):
            raise Refused("task_error", str(answer.get("error", "")))
        return [str(each) for each in samples[:limit]]


def _said(content: dict[str, Any]) -> str:
    """The sentence of an answer, however the server wraps it."""
    return str(content.get("result", content.get("text", ""))).strip()
