"""Ways from a client to a server that need no process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.shared.memory import create_client_server_memory_streams

from mcp_pools.server import serve_session


@asynccontextmanager
async def session_transport(router: Any, flags: dict[str, Any]) -> AsyncIterator[Any]:
    """The client's streams to a session of its own, which ends with the client."""
    async with create_client_server_memory_streams() as (client, server), anyio.create_task_group() as group:
        group.start_soon(serve_session, router, *server, flags)
        yield client
        await client[1].aclose()
        await client[0].aclose()
