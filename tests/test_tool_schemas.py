"""What clients see of each tool, kept in files: a change shows in review.

Set MCP_POOLS_UPDATE_SNAPSHOTS=1 to write the files anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from transports import session_transport

from mcp_pools.models import Caller
from mcp_pools.tool import TOOLS

SNAPSHOTS = Path(__file__).parent / "snapshots" / "tools"
UPDATE = os.environ.get("MCP_POOLS_UPDATE_SNAPSHOTS") == "1"
TOKENS = 6_000
VERBS = re.compile("List|Show|Register|Fix|Close|Find|Run|Spread|Look|Cancel|Check|Count|Follow")
KEYS = ("name", "title", "description", "annotations", "inputSchema", "outputSchema", "_meta")


@pytest.fixture
async def listing(connect: Any) -> list[dict[str, Any]]:
    """The tools as they go over the wire."""
    async with connect() as client:
        listed = (await client.list_tools()).tools
    return [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in listed]


@pytest.mark.anyio
async def test_every_tool_matches_its_snapshot(listing: list[dict[str, Any]]) -> None:
    """In both eras; a tool that went leaves no file behind."""
    for each in listing:
        shown = {key: each[key] for key in KEYS if key in each}
        assert shown == each
        snapshot = anyio.Path(SNAPSHOTS / f"{each['name']}.json")
        if UPDATE:
            await snapshot.write_text(
                json.dumps(shown, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        assert json.loads(await snapshot.read_text(encoding="utf-8")) == shown, "see this module's docstring"
    stale = {path.stem for path in SNAPSHOTS.glob("*.json")} - set(TOOLS)
    assert not stale, f"no tools any more: {stale}"


@pytest.mark.anyio
async def test_the_listing_leaves_the_model_room(listing: list[dict[str, Any]]) -> None:
    """Every client pays for the listing in every conversation."""
    size = len(json.dumps({"tools": listing}, ensure_ascii=False, separators=(",", ":")))
    print(f"{len(listing)} tools: {size} characters, about {size // 4} tokens")
    assert size / 4 <= TOKENS


@pytest.mark.anyio
async def test_long_results_are_announced(listing: list[dict[str, Any]]) -> None:
    """A client that would cut earlier learns what a result may come to: the setting, in characters."""
    said = {each["name"]: each["_meta"] for each in listing if "_meta" in each}
    assert set(said) == {"pool_execute", "pool_distribute", "pool_task", "pool_search"}
    assert all(meta == {"anthropic/maxResultSizeChars": 40_000} for meta in said.values())


@pytest.mark.anyio
async def test_a_client_may_be_told_to_ask_by_itself(open_router: Any) -> None:
    """Only where we would ask; and then we do not, for one prompt is enough."""
    async with open_router(mcp_confirm="client") as router:
        bound = router.bound(Caller(kind="mcp"))
        async with Client(session_transport(bound, {})) as client:
            listed = (await client.list_tools()).tools
            await client.call_tool("pool_register", {"name": "extra", "type": "local"})
            closed = await client.call_tool("pool_close", {"name": "extra"})
    marked = {each.name for each in listed if (each.meta or {}).get("anthropic/requiresUserInteraction")}
    assert marked == {name for name, tool in TOOLS.items() if tool.question}
    assert marked >= {name for name, tool in TOOLS.items() if tool.effect == "destroy"}
    assert not closed.is_error


def test_descriptions_are_short_and_begin_with_what_the_tool_does() -> None:
    """Under 2 KB; the first sentence is one of what it does, and short enough to be all that is read."""
    for tool in TOOLS.values():
        assert len(tool.description.encode()) < 2048
        first = re.split(r"[.:;] ", " ".join(tool.description.split()))[0]
        assert VERBS.match(first) and len(first) <= 120, f"{tool.name}: {first}"
