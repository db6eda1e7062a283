"""Events as log messages, over a session of the 2025 era."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client
from mcp_types import EmptyResult, LoggingMessageNotification, SetLevelRequest, SetLevelRequestParams
from transports import session_transport
from waiting import until

from mcp_pools import Router
from mcp_pools.event_messages import level_of
from mcp_pools.models import Caller
from mcp_pools.store import EventRow
from mcp_pools.tools import pool_execute

pytestmark = pytest.mark.anyio
FAILING: dict[str, Any] = {"task_type": "compute", "payload": {"expression": "1 / 0"}}
ECHO: dict[str, Any] = {"task_type": "echo", "payload": {}}


@asynccontextmanager
async def told(router: Router, level: Any, heard: list[Any]) -> Any:
    """A client that asked for a level, and hears what it is told."""

    async def hear(message: Any) -> None:
        if isinstance(message, LoggingMessageNotification):
            heard.append(message.params)

    transport = session_transport(router, {})
    async with Client(transport, mode="legacy", message_handler=hear) as client:
        asked = SetLevelRequest(params=SetLevelRequestParams(level=level))
        await client.session.send_request(asked, EmptyResult)
        yield client


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("pool.unhealthy", "error"),
        ("pool.degraded", "warning"),
        ("task.failed", "warning"),
        ("distribution.failed", "warning"),
        ("task.completed", "info"),
        ("pool.registered", "info"),
        ("task.started", "debug"),
    ],
)
def test_an_events_level_says_how_much_it_matters(kind: str, level: str) -> None:
    """By what happened, whatever it happened to."""
    assert level_of(EventRow(at=0.0, kind=kind)) == level


async def test_what_is_below_the_level_is_not_told(router: Router) -> None:
    """A failure is, and comes as the event that it is."""
    heard: list[Any] = []
    async with told(router, "warning", heard):
        await pool_execute(router, **ECHO)
        task = await pool_execute(router, **FAILING)
        await until(lambda: heard)
    [message] = heard
    assert (message.level, message.logger) == ("warning", "mcp-pools")
    assert (message.data["kind"], message.data["task_id"]) == ("task.failed", task.task_id)


async def test_only_what_the_caller_may_see_is_told(router: Router) -> None:
    """Events of another caller's tasks stay away; its own come."""
    heard: list[Any] = []
    ann, bob = (router.bound(Caller(name=name, kind="mcp", everything=False)) for name in ("ann", "bob"))
    async with told(ann, "debug", heard):
        await pool_execute(bob, **FAILING)
        own = await pool_execute(ann, **ECHO)
        await until(lambda: any(each.data["kind"] == "task.completed" for each in heard))
    assert {each.data["task_id"] for each in heard if each.data["task_id"]} == {own.task_id}
