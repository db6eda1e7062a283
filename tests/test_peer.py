"""A client counts as gone when its stream has ended and its last call is answered."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from mcp_pools.doors.peer import OpenCalls, PeerReader, PeerWriter

pytestmark = pytest.mark.anyio


def request(method: str, number: int | str = 7) -> SessionMessage:
    return SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=number, method=method))


def answer(number: int | str = 7) -> SessionMessage:
    return SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=number, result={}))


def cancelled(number: Any) -> SessionMessage:
    note = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": number})
    return SessionMessage(note)


async def ends(*messages: SessionMessage, then: list[SessionMessage], broken: bool = False) -> bool:
    """Whether the stream ends, once `messages` came in and `then` was sent."""
    client, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](10)
    outgoing, taken = anyio.create_memory_object_stream[SessionMessage](10)
    calls = OpenCalls()
    reader, writer = PeerReader(incoming, calls), PeerWriter(outgoing, calls)
    for message in messages:
        client.send_nowait(message)
    client.close()
    if broken:
        taken.close()
    ended = False
    async with reader, writer, taken, anyio.create_task_group() as group:

        async def read() -> None:
            nonlocal ended
            assert [item async for item in reader] == list(messages)
            ended = True

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert ended is False or not then
        for message in then:
            try:
                await writer.send(message)
            except anyio.BrokenResourceError:
                assert broken
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    return ended


async def test_without_calls_the_end_is_the_end() -> None:
    """Other requests, such as a subscription, hold nothing back."""
    assert await ends(request("subscriptions/listen"), then=[])


async def test_an_open_call_holds_the_end_back() -> None:
    """Until it is answered, and its answer alone counts."""
    assert not await ends(request("tools/call"), then=[])
    assert not await ends(request("tools/call"), then=[answer(8)])
    assert await ends(request("tools/call"), then=[answer()])
    assert not await ends(request("tools/call", 1), request("tools/call", 2), then=[answer(1)])


async def test_an_answer_that_cannot_be_delivered_counts() -> None:
    """A client that is wholly gone must not keep its session."""
    assert await ends(request("tools/call"), then=[answer()], broken=True)


@pytest.mark.parametrize("number", [7, "7"])
async def test_a_cancelled_call_is_not_waited_for(number: Any) -> None:
    """Nobody answers it. Ids match as the SDK matches them."""
    assert await ends(request("tools/call"), cancelled(number), then=[])


@pytest.mark.parametrize("number", [None, [7], {}])
async def test_a_malformed_cancellation_is_nothing(number: Any) -> None:
    """It neither closes a call nor breaks the stream."""
    assert await ends(request("tools/call"), cancelled(number), then=[answer()])
