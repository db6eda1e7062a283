"""Akosha as a memory: its own ids are the tasks', so that it has none twice.

It stores texts with their embeddings, and makes those itself when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from mcp_pools.memory import CALL_SECONDS, Memo

if TYPE_CHECKING:
    from mcp_pools.line import Line

_SOURCE: Final = "mcp-pools"
_THERE: Final = "duplicate key"
"""What its database says of an id that it has."""
_LONGEST_QUERY: Final = 1000
_MADE_UP: Final = "Mock result for: "
"""How its search begins the one hit it makes up for any query, until it is built."""


class Akosha:
    """An Akosha server (`mcp_pools.memory.Memory`)."""

    tools = frozenset({"generate_batch_embeddings", "batch_store_memories"})
    at_once = 32

    async def keep(self, line: Line, memos: Sequence[Memo]) -> dict[str, str]:
        """See `Memory.keep`."""
        texts = {"texts": [memo.text for memo in memos]}
        made = await line.call("generate_batch_embeddings", texts, seconds=CALL_SECONDS)
        embeddings = made.get("embeddings")
        if not isinstance(embeddings, list) or len(embeddings) != len(memos):
            return dict.fromkeys((memo.id for memo in memos), "it made no embeddings")
        given = [_memory(memo, embedding) for memo, embedding in zip(memos, embeddings, strict=True)]
        answer = await line.call("batch_store_memories", {"memories": given}, seconds=CALL_SECONDS)
        return _refused(answer, [memo.id for memo in memos])

    async def search(self, line: Line, query: str, limit: int) -> list[str]:
        """See `Memory.search`."""
        from mcp_pools.line import Refused

        asked = {"query": query.strip()[:_LONGEST_QUERY], "limit": limit}
        answer = await line.call("search_all_systems", asked, seconds=CALL_SECONDS)
        results = answer.get("results")
        if not isinstance(results, list):
            raise Refused("task_error", str(answer)[:200])
        texts = [str(each["content"]) for each in results if isinstance(each, dict) and "content" in each]
        return [text for text in texts if text != f"{_MADE_UP}{asked['query']}"][:limit]


def _memory(memo: Memo, embedding: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(memo.at, UTC).isoformat()
    about = {"source": _SOURCE, "original_id": memo.id, "created_at": at, "type": "task_result"}
    return {"memory_id": memo.id, "text": memo.text, "embedding": embedding, "metadata": about}


def _refused(answer: dict[str, Any], ids: Sequence[str]) -> dict[str, str]:
    """Which it has not, and why. An answer of another shape took none."""
    errors = answer.get("errors")
    failed = answer.get("failed")
    listed = errors if isinstance(errors, list) else []
    said = {str(each.get("memory_id")): str(each.get("error")) for each in listed if isinstance(each, dict)}
    whole = answer.get("status") in ("completed", "partial", "failed") and failed == len(listed)
    if not whole or not said.keys() <= set(ids):
        return dict.fromkeys(ids, str(answer.get("error", "it does not say what it stored")))
    return {id: words for id, words in said.items() if _THERE not in words.casefold()}
