"""Telling clients that what they read has changed, in both protocol eras.

What has changed is read off the event log, which the store writes in the same commit as the
change; a commit wakes whoever watches. An address is told of at most once a second. What
happens to the parts of a distribution is logged with the distribution, now and then and at
its end, and so are those who watch a part told.

The 2025 era subscribes address by address, for as long as the connection lasts; the 2026 era
opens a stream (`subscriptions/listen`) with all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from mcp_pools.errors import PoolsError
from mcp_pools.resources import found, no_resource
from mcp_pools.store import EventRow

if TYPE_CHECKING:
    from mcp_pools.router import Router
    from mcp_pools.server import Session

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 1.0
"""Between two notifications of one address."""
MOST_ADDRESSES: Final = 1000
"""Of one connection, or one stream."""
MOST_STREAMS: Final = 1000
_ROWS: Final = 1000


class Ending(Protocol):
    """Something that ends with its connection."""

    async def end(self) -> None:
        """The connection is over."""


Kept = TypeVar("Kept", bound=Ending)


async def topic(router: Router, uri: str) -> str:
    """What an event must touch for the resource at `uri` to have changed.

    Raises:
        PoolsError: there is no such pool or task.
        MCPError: the address leads nowhere.
    """
    at = found(uri)
    if at is None:
        raise no_resource(uri)
    _, variables = at
    if "name" in variables:
        return f"pool {router.registry.pool(variables['name']).name}"
    if "task_id" in variables:
        whole = await router.task(variables["task_id"], limit=1)
        part_of = getattr(whole, "distribution_id", None)
        return f"task {part_of or variables['task_id']}"
    return uri


def touched(event: EventRow) -> set[str]:
    """The topics of an event."""
    topics = {"pools://events", "pools://pools"}
    topics.update(f"pool {name}" for name in (event.pool, *event.data.get("pools", ())) if name)
    topics.update(f"task {id}" for id in (event.task_id, event.data.get("distribution_id")) if id)
    return topics


async def last_event(router: Router) -> int:
    """The place of the newest event."""
    latest = await router.registry.store.latest_events(1)
    return latest[-1][0] if latest else 0


async def changes(router: Router, watched: Mapping[str, str], after: int) -> AsyncIterator[list[str]]:
    """The addresses whose topic events behind `after` touch, at most once every `PAUSE_SECONDS`.

    `watched`: each address and its topic; it may change meanwhile.
    """
    store = router.registry.store
    while True:
        woken = store.next_commit()  # before looking: what comes in between is not missed
        topics: set[str] = set()
        while rows := await store.events(after, _ROWS):
            after = rows[-1][0]
            topics.update(*(touched(row) for _, row in rows))
        if changed := [uri for uri, its in watched.items() if its in topics]:
            yield changed
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.wait({woken})


class Listening:
    """Serves `subscriptions/listen`, the streams of the 2026 era."""

    def __init__(self) -> None:
        self._open: set[ListenHandler] = set()

    async def __call__(
        self, ctx: ServerRequestContext[Session], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """One stream, until its client ends it. Addresses that lead nowhere are not acknowledged."""
        router = ctx.lifespan_context.router
        if len(self._open) >= MOST_STREAMS:
            raise MCPError(
                INTERNAL_ERROR, f"There are {MOST_STREAMS} open streams. Close one, then try again."
            )
        after = await last_event(router)
        watched = await _topics(router, params.notifications.resource_subscriptions or ())
        wanted = params.notifications.model_copy(update={"resource_subscriptions": list(watched)})
        bus = InMemorySubscriptionBus()
        handler = ListenHandler(bus)
        self._open.add(handler)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_publish, router, watched, after, bus)
                result = await handler(ctx, params.model_copy(update={"notifications": wanted}))
                group.cancel_scope.cancel()
        finally:
            self._open.discard(handler)
        return result

    def close(self) -> None:
        """End every stream in good order: each says so to its client."""
        for handler in list(self._open):
            handler.close()


LISTENING: Final = Listening()


async def _topics(router: Router, uris: Iterable[str]) -> dict[str, str]:
    wanted = list(dict.fromkeys(uris))
    if len(wanted) > MOST_ADDRESSES:
        raise _too_many()
    watched = {}
    for uri in wanted:
        with suppress(PoolsError, MCPError):
            watched[uri] = await topic(router, uri)
    return watched


async def _publish(
    router: Router, watched: Mapping[str, str], after: int, bus: InMemorySubscriptionBus
) -> None:
    if not watched:
        return
    async for uris in changes(router, watched, after):
        for uri in uris:
            await bus.publish(ResourceUpdated(uri))


def _too_many() -> MCPError:
    return MCPError(INVALID_PARAMS, f"That is more than {MOST_ADDRESSES} resources. Watch pools://events.")


class _Subscribed:
    """What a connection of the 2025 era watches."""

    def __init__(self) -> None:
        self.watched: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, ctx: ServerRequestContext[Session], after: int) -> None:
        """Tell the client of changes from now on."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._tell(ctx, after))

    async def _tell(self, ctx: ServerRequestContext[Session], after: int) -> None:
        try:
            async for uris in changes(ctx.lifespan_context.router, self.watched, after):
                for uri in uris:
                    await ctx.session.send_resource_updated(uri)
        except Exception:
            log.exception("a client is not told of changes any more")

    async def end(self) -> None:
        """The connection is over."""
        if self._task is not None:
            self._task.cancel()


async def subscribe(ctx: ServerRequestContext[Session], params: SubscribeRequestParams) -> EmptyResult:
    """Tell this connection when the resource changes; `-32602` for an address that leads nowhere."""
    uri, router = str(params.uri), ctx.lifespan_context.router
    subscribed = _of(ctx)
    if len(subscribed.watched) >= MOST_ADDRESSES:
        raise _too_many()
    after = await last_event(router)
    try:
        subscribed.watched[uri] = await topic(router, uri)
    except PoolsError as refused:
        raise no_resource(uri, str(refused)) from None
    subscribed.start(ctx, after)
    return EmptyResult()


async def unsubscribe(ctx: ServerRequestContext[Session], params: UnsubscribeRequestParams) -> EmptyResult:
    """Tell this connection of it no more; nothing happens when it was not told."""
    _of(ctx).watched.pop(str(params.uri), None)
    return EmptyResult()


def _of(ctx: ServerRequestContext[Session]) -> _Subscribed:
    return of_connection(ctx, "mcp_pools.subscriptions", _Subscribed)


def of_connection(ctx: ServerRequestContext[Session], key: str, make: Callable[[], Kept]) -> Kept:
    """What is kept for as long as a connection of the 2025 era lasts; made when it is first asked for."""
    # The SDK hands handlers the connection's state and its end in no public way.
    connection: Any = ctx.session._connection
    if key not in connection.state:
        connection.state[key] = make()
        connection.exit_stack.push_async_callback(connection.state[key].end)
    kept: Kept = connection.state[key]
    return kept
