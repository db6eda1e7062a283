"""Memories for the tests: real MCP servers with the tools, arguments and answers of Session-Buddy and Akosha.

Each serves from a thread of this process, so that a test can say what goes wrong and see what was kept.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer

Fault = Callable[[str], "str | None"]
"""What is answered in place of keeping a text, if anything. It may raise, or hold the answer back."""


class MemoryServer:
    """What both have. `down`: the status of every HTTP answer, with a body that is no MCP."""

    def __init__(self) -> None:
        self.app = MCPServer(type(self).__name__, log_level="CRITICAL")
        self.reset()
        self.offer()
        self._mcp = self.app.streamable_http_app(stateless_http=True, json_response=True)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}/mcp"
        self._server = uvicorn.Server(uvicorn.Config(self._asgi, interface="asgi3", log_config=None))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._door]})
        self._thread.start()

    def reset(self) -> None:
        """Forget everything, for the next test."""
        self.fault: Fault = lambda text: None
        self.late: Fault = lambda text: None
        """Called once a text was kept, before the answer."""
        self.down: int | None = None
        self.requests = 0
        self.tokens: set[str] = set()
        self.kept: list[Any] = []
        self.tiers = False
        """Of Session-Buddy: whether it has made a skill of each reflection as well."""
        self.unfinished = False
        """Of Akosha: whether its search makes a hit up, as that of 2026 does."""

    def offer(self) -> None:
        """Register the tools."""
        raise NotImplementedError

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._mcp(scope, receive, send)
            return
        self.requests += 1
        self.tokens |= {value.decode() for name, value in scope["headers"] if name == b"authorization"}
        if self.down is None:
            await self._mcp(scope, receive, send)
            return
        kind = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": self.down, "headers": kind})
        await send({"type": "http.response.body", "body": b'{"jsonrpc": "garbage'})

    def close(self) -> None:
        """End at once."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._door.close()


class SessionBuddy(MemoryServer):
    """`store_reflection`, `quick_search` and, of the full server, `progressive_search`."""

    full = True

    def offer(self) -> None:
        """Register the tools."""
        self.app.tool()(self.store_reflection)
        self.app.tool()(self.quick_search)
        if self.full:
            self.app.tool()(self.progressive_search)

    @property
    def ids(self) -> list[str]:
        """Of each reflection, its last tag."""
        return [tags[-1] for _, tags in self.kept]

    def store_reflection(self, content: str, tags: list[str] | str | None = None) -> str:
        """Store an important insight or reflection for future reference."""
        if (said := self.fault(content)) is not None:
            return said
        assert isinstance(tags, list)
        self.kept.append((content, tags))
        if (said := self.late(content)) is not None:
            return said
        return f"✅ Reflection stored successfully with ID: 01K{len(self.kept)} (tags: {', '.join(tags)})"

    def quick_search(
        self, query: str, project: str | None = None, min_score: float = 0.7, limit: int = 5
    ) -> str:
        """Quick search that returns only the count and top result."""
        found = [content for content, _ in self.kept if query in content]
        if not found:
            return f"🔍 No results found for '{query}'"
        return (
            f"🔍 **{len(found)} results** for '{query}'\n\n**Top Result** (score: 0.9):\n{found[0][:200]}..."
        )

    def progressive_search(
        self,
        query: str,
        project: str | None = None,
        min_score: float = 0.6,
        max_results: int = 30,
        max_tiers: int = 4,
        enable_early_stop: bool = True,
    ) -> dict[str, Any]:
        """Execute multi-tier progressive search with early stopping."""
        if (said := self.fault(query)) is not None:
            return {"success": False, "error": said, "query": query}
        tiers = ("Learned skills", "Stored reflections") if self.tiers else ("Stored reflections",)
        kept = [content for content, _ in self.kept if query in content]
        found = [f"[{tier}] {content[:100]}..." for tier in tiers for content in kept]
        return {"success": True, "query": query, "total_results": len(found), "sample_results": found[:5]}


class SmallSessionBuddy(SessionBuddy):
    """The small server: no `progressive_search`."""

    full = False


class Akosha(MemoryServer):
    """`generate_batch_embeddings`, `batch_store_memories`, `search_all_systems`."""

    def offer(self) -> None:
        """Register the tools."""
        for tool in (self.generate_batch_embeddings, self.batch_store_memories, self.search_all_systems):
            self.app.tool()(tool)

    @property
    def ids(self) -> list[str]:
        """Of each memory, its id."""
        return [each["memory_id"] for each in self.kept]

    def generate_batch_embeddings(self, texts: list[str], batch_size: int = 32) -> dict[str, Any]:
        """Generate embeddings for multiple texts at once."""
        for text in texts:
            if not text or len(text) > 10_000 or "\0" in text:
                raise ValueError("Validation failed")
        vectors = [[float(len(text) % 7)] * 384 for text in texts]
        return {"count": len(vectors), "embedding_dim": 384, "embeddings": vectors, "mode": "fallback"}

    def batch_store_memories(self, memories: list[dict[str, Any]]) -> dict[str, Any]:
        """Store multiple memories in a single batch."""
        errors: list[dict[str, Any]] = []
        for each in memories:
            said = self.fault(each["text"])
            if each["memory_id"] in self.ids:
                said = f'Constraint Error: Duplicate key "conversation_id: {each["memory_id"]}" violates it.'
            if said is not None:
                errors.append({"memory_id": each["memory_id"], "error": said})
                continue
            assert len(each["embedding"]) == 384
            self.kept.append(each)
            self.late(each["text"])
        stored = len(memories) - len(errors)
        status = "completed" if not errors else "partial" if stored else "failed"
        return {
            "status": status,
            "total": len(memories),
            "stored": stored,
            "failed": len(errors),
            "errors": errors,
        }

    def search_all_systems(
        self, query: str, limit: int = 10, threshold: float = 0.7, system_id: str | None = None
    ) -> dict[str, Any]:
        """Search across all system memories using semantic similarity."""
        self.fault(query)
        if self.unfinished:
            made_up = {"system_id": "system-1", "content": f"Mock result for: {query}"}
            return {"query": query, "total_results": 1, "results": [made_up], "mode": "fallback"}
        found = [
            {"system_id": "mcp-pools", "conversation_id": each["memory_id"], "content": each["text"]}
            for each in self.kept
            if query in each["text"]
        ]
        return {"query": query, "total_results": len(found), "results": found[:limit], "mode": "fallback"}


@contextmanager
def silent_peer() -> Iterator[str]:
    """The URL of a peer that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield f"http://127.0.0.1:{door.getsockname()[1]}/mcp"


def text_of(kept: Any) -> str:
    """All that a memory was given, as JSON."""
    return json.dumps(kept, ensure_ascii=False)
