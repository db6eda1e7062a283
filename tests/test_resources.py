"""Resources and their subscriptions, through the SDK's own client, in both protocol eras."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ResourceUpdatedNotification
from transports import session_transport
from waiting import until

from mcp_pools.resources import KINDS, found
from mcp_pools.store import EventRow
from mcp_pools.subscriptions import touched
from mcp_pools.tools import pool_distribute, pool_execute, pool_list, pool_task

pytestmark = [
    pytest.mark.anyio,
    # The SDK's client warns of what the 2026 era has dropped; those who speak the 2025 era use it.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

LONG = {"task_type": "long-text", "payload": {"size": 200_000}}


async def read(client: Any, uri: str) -> Any:
    """The JSON behind an address."""
    [contents] = (await client.read_resource(uri, cache_mode="refresh")).contents
    assert contents.mime_type == "application/json" and str(contents.uri) == uri
    return json.loads(contents.text)


async def test_resources_and_templates_are_listed(connect: Any) -> None:
    """Each with a title, a description, a type, and how long the list may be kept."""
    async with connect() as client:
        listing = await client.list_resources()
        templates = (await client.list_resource_templates()).resource_templates
        assert client.server_capabilities.resources.subscribe
    listed = [str(each.uri) for each in listing.resources] + [each.uri_template for each in templates]
    assert listed == [kind.uri for kind in KINDS]
    assert all(each.title and each.description for each in (*listing.resources, *templates))
    assert all(each.mime_type == "application/json" for each in (*listing.resources, *templates))


async def test_pools_events_and_task_types_are_read(connect: Any, router: Any) -> None:
    """What the tools answer, without what they say beside it."""
    await pool_execute(router, task_type="echo", payload={"x": 1})
    async with connect() as client:
        pools = await read(client, "pools://pools")
        assert [each["name"] for each in pools["pools"]] == ["local"] and pools["total"] == 1
        assert (await read(client, "pools://pools/local"))["worker_rows"]
        events = await read(client, "pools://events")
        assert [each["kind"] for each in events["events"]][-1] == "task.completed" and "pools" not in events
        types = {each["name"]: each for each in (await read(client, "pools://task-types"))["task_types"]}
        assert types["echo"]["summary"] and types["sleep"]["schema"]["properties"]["seconds"]


async def test_a_long_result_is_cut_and_its_address_has_the_whole(connect: Any, router: Any) -> None:
    """The tool's answer leads there, and the task's own resource is cut, too."""
    async with connect() as client:
        task = (await client.call_tool("pool_execute", LONG)).structured_content
        assert 0 < len(task["result"]) < 40_000 and task["next"].startswith("pool_task(")
        assert await read(client, task["result_uri"]) == "x" * 200_000
        whole = await read(client, f"pools://tasks/{task['task_id']}")
        assert whole["result_uri"] == task["result_uri"] and len(whole["result"]) < 40_000
    assert len((await pool_task(router, task["task_id"])).result) == 200_000


async def test_a_distribution_is_a_task_too(connect: Any, router: Any) -> None:
    """By its id: as it stands, and all its results."""
    spread = await pool_distribute(router, task_type="echo", payload={"x": "{item}", "items": [1, 2]})
    async with connect() as client:
        uri = f"pools://tasks/{spread.distribution_id}"
        assert (await read(client, uri))["succeeded"] == 2
        result = await read(client, f"{uri}/result")
    assert [each["result"] for each in result["results"]] == [{"x": 1}, {"x": 2}]
    assert result["reduced"] is None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("pools://pool", "Known: pools://pools"),
        ("file:///etc/passwd", "Known: pools://pools"),
        ("pools://pools/nowhere", "nowhere"),
        ("pools://tasks/t_none", "pool_search"),
        ("pools://tasks/t_none/result", "pool_search"),
        (f"pools://tasks/{'x' * 5000}", "There is no resource"),
    ],
)
async def test_what_leads_nowhere_is_refused(connect: Any, uri: str, words: str) -> None:
    """With the code for it, and what to do."""
    async with connect() as client:
        with pytest.raises(MCPError, match=words) as refused:
            await client.read_resource(uri)
    assert refused.value.error.code == INVALID_PARAMS and refused.value.error.data["uri"] == uri[:1000]


async def test_a_task_without_a_result_says_so(connect: Any, router: Any, gate: Any) -> None:
    """Null would be a result."""
    task = await pool_execute(router, **gate.task, wait=False)
    async with connect() as client:
        with pytest.raises(MCPError, match="has no result"):
            await client.read_resource(f"pools://tasks/{task.task_id}/result")
    gate.open()


async def test_pages_and_events_are_cut_where_their_cursors_go_on(open_router: Any) -> None:
    """Following `next_cursor` and `cursor` shows everything once, however little fits."""
    async with open_router(mcp_result_tokens=1000) as router:
        ids = [(await pool_execute(router, task_type="echo", payload={"x": at})).task_id for at in range(12)]
        async with Client(session_transport(router, {})) as client:

            async def pages(tool: str, rows: str, cursor_key: str, **arguments: Any) -> AsyncIterator[Any]:
                cursor = None
                while True:
                    call = await client.call_tool(tool, arguments | ({"cursor": cursor} if cursor else {}))
                    assert len(call.content[0].text) <= 4000
                    cursor = call.structured_content[cursor_key]
                    yield call.structured_content[rows]
                    if not cursor or not call.structured_content[rows]:
                        break

            found = [page async for page in pages("pool_search", "tasks", "next_cursor", limit=12)]
            events = [page async for page in pages("pool_watch", "events", "cursor")]
    assert [task["task_id"] for page in found for task in page] == ids[::-1] and len(found) > 1
    places = [event["cursor"] for page in events for event in page]
    assert places == list(range(places[0], places[-1] + 1)) and len(places) >= 24 and len(events) > 1


async def test_many_items_stay_in_budget(connect: Any, router: Any) -> None:
    """A long distribution is cut behind whole items, and `next` reads on."""
    payload = {"x": "{item}", "items": ["é" * 200] * 300}
    async with connect() as client:
        call = await client.call_tool("pool_distribute", {"task_type": "echo", "payload": payload})
        first = call.structured_content
        shown = len(first["results"])
        assert len(call.content[0].text) <= 40_000 and 0 < shown < 300 and first["total"] == 300
        assert (
            f'pool_task(task_id="{first["distribution_id"]}", offset={shown}, limit={shown})' in first["next"]
        )
        rest = {"task_id": first["distribution_id"], "offset": shown, "limit": shown}
        more = (await client.call_tool("pool_task", rest)).structured_content
    assert more["results"][0]["index"] == shown


# Subscriptions.


@pytest.fixture
def watch(router: Any, request: pytest.FixtureRequest) -> Any:
    """`async with watch(era, uris) as (client, seen)`: `seen` grows with what the client is told."""

    @asynccontextmanager
    async def watching(era: str, *uris: str) -> AsyncIterator[tuple[Any, list[str]]]:
        seen: list[str] = []

        async def on_message(message: Any) -> None:
            if isinstance(message, ResourceUpdatedNotification):
                seen.append(str(message.params.uri))

        async def pump(subscription: Any) -> None:
            async for event in subscription:
                seen.append(event.uri)

        transport = session_transport(router, {})
        if era == "legacy":
            async with Client(transport, mode=era, message_handler=on_message) as client:
                for uri in uris:
                    await client.subscribe_resource(uri)
                yield client, seen
            return
        async with (
            Client(transport, mode=era) as client,
            client.listen(resource_subscriptions=uris) as stream,
            anyio.create_task_group() as group,
        ):
            group.start_soon(pump, stream)
            yield client, seen
            group.cancel_scope.cancel()

    return watching


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_a_task_that_ends_is_told_of(watch: Any, router: Any, gate: Any, era: str) -> None:
    """Those who watch the task, its pool and the pools hear of it; those of another do not."""
    task = await pool_execute(router, **gate.task, wait=False)
    other = await pool_execute(router, task_type="echo", payload={})
    await gate.entered()
    await until(lambda: _started(router), "it is logged")
    uris = [f"pools://tasks/{task.task_id}", "pools://pools/local", "pools://pools", "pools://events"]
    async with watch(era, *uris, f"pools://tasks/{other.task_id}") as (_, seen):
        gate.open()
        await until(lambda: set(seen) >= set(uris), "everybody is told")
    assert f"pools://tasks/{other.task_id}" not in set(seen)


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_a_part_is_told_of_with_its_distribution(watch: Any, router: Any, gate: Any, era: str) -> None:
    """The parts have no events of their own."""
    payload = {**gate.task["payload"], "items": [1]}
    spread = await pool_distribute(router, task_type="hold", payload=payload, wait=False)
    part = spread.results[0].task_id
    uris = [f"pools://tasks/{spread.distribution_id}/result", f"pools://tasks/{part}"]
    async with watch(era, *uris) as (_, seen):
        gate.open()
        await until(lambda: set(seen) >= set(uris), "both are told")


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_at_most_one_notification_a_second(watch: Any, router: Any, era: str) -> None:
    """However much happens."""
    began = time.monotonic()
    async with watch(era, "pools://events") as (_, seen):
        while len(seen) < 3:
            await pool_execute(router, task_type="echo", payload={})
    assert len(seen) <= time.monotonic() - began + 1


async def test_subscribing_to_nothing_is_refused(router: Any) -> None:
    """In the 2025 era by an error; a stream of the 2026 era does not acknowledge it."""
    async with Client(session_transport(router, {}), mode="legacy") as client:
        with pytest.raises(MCPError, match="pool_search") as refused:
            await client.subscribe_resource("pools://tasks/t_none")
        assert refused.value.error.code == INVALID_PARAMS
    uris = ["pools://tasks/t_none", "pools://pools", "http://elsewhere"]
    async with (
        Client(session_transport(router, {})) as client,
        client.listen(resource_subscriptions=uris) as stream,
    ):
        assert stream.honored.resource_subscriptions == ["pools://pools"]


async def test_who_unsubscribes_is_left_alone(watch: Any, router: Any) -> None:
    """The other subscription of the connection goes on."""
    async with watch("legacy", "pools://events", "pools://pools") as (client, seen):
        await client.unsubscribe_resource("pools://events")
        await client.unsubscribe_resource("pools://pools/local")  # never subscribed to
        await pool_execute(router, task_type="echo", payload={})
        await until(lambda: seen)
    assert set(seen) == {"pools://pools"}


async def test_nothing_is_left_when_a_client_goes(watch: Any, router: Any) -> None:
    """Whoever watched for it has ended."""
    before = len(asyncio.all_tasks())
    for era in ("legacy", "auto"):
        async with watch(era, "pools://pools"):
            assert len(asyncio.all_tasks()) > before
        await until(lambda: len(asyncio.all_tasks()) <= before, "the watchers ended")


def test_addresses_are_matched_as_templates() -> None:
    """Names come back as they were before they were put into an address."""
    kind, variables = found("pools://tasks/t_1/result") or pytest.fail()
    assert kind.name == "result" and variables == {"task_id": "t_1"}
    assert (found("pools://pools/a%2Eb") or pytest.fail())[1] == {"name": "a.b"}
    assert found("pools://tasks/a/b/result") is None


def test_an_event_of_a_distribution_touches_its_pools() -> None:
    """Where its items ended."""
    event = EventRow(at=0, kind="distribution.progress", data={"distribution_id": "d", "pools": {"a": {}}})
    assert touched(event) == {"pools://events", "pools://pools", "pool a", "task d"}


async def _started(router: Any) -> bool:
    """Whether a worker is busy."""
    return any(pool.workers.busy for pool in (await pool_list(router)).pools)
