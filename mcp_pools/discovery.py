"""What could be a pool: the places that are named, asked all at once, and registered on request.

The asking has a thread and an event loop of its own: nothing that a peer, a name server or
an import costs can hold up the owner's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import anyio

from mcp_pools import plugins
from mcp_pools.addresses import host_and_port
from mcp_pools.ecosystem import Place, merged, named_here, place, printable, split_address
from mcp_pools.errors import PoolsError
from mcp_pools.models import Caller, Discovered, Discovery, Pool, PoolSpec
from mcp_pools.policy import Judge
from mcp_pools.registry import IMPLIED, Registry

if TYPE_CHECKING:
    from mcp_pools.settings import Settings

log = logging.getLogger(__name__)

PROBE_SECONDS: Final = 1.5
"""How long one place may take to answer, everything included."""
AT_ONCE: Final = 128
"""Places that are asked at the same time."""
MOST_PLACES: Final = 500
MOST_OFFERS: Final = 64
LONGEST_OFFER: Final = 64

_UNKNOWN: Final = "a pool can use it once options.tools maps task types to its tools"
_SPEAK_MCP: Final = frozenset({"mcp", "session-buddy"})
_PORTS: Final = {"dask": 8786, "ray": 6379}
_RAY_CLIENT_PORT: Final = 10001

Open = Callable[..., Awaitable[Pool]]
T = TypeVar("T")


class Answer(NamedTuple):
    """What came of asking a place. `trouble`: why it could not be a pool now; `kind`: what it is."""

    reachable: bool | None
    offers: list[str]
    trouble: str | None = None
    kind: str | None = None


class Finder:
    """Looks around on behalf of one caller; `open_pool` takes what `Router.register` takes."""

    def __init__(self, settings: Settings, registry: Registry, caller: Caller, open_pool: Open) -> None:
        self._settings = settings
        self._registry = registry
        self._caller = caller
        self._open_pool = open_pool
        self._types = plugins.adapter_names(settings.adapters)

    async def find(self, from_ecosystem: bool, auto_register: bool) -> Discovered:
        """All that is named, each asked whether it is there.

        Args:
            from_ecosystem: false leaves out what the configuration names.
            auto_register: open a pool for each that answered, if its type exists.
        """
        asked = await asyncio.to_thread(self._look, from_ecosystem)
        found = []
        for each, answer in asked:
            refused = await self._register(each, answer) if auto_register else None
            found.append(self._described(each, answer, refused))
        return Discovered(found=found)

    def _look(self, from_ecosystem: bool) -> list[tuple[Place, Answer]]:
        """Read and ask, in a thread of its own."""
        configured = self._configured() if from_ecosystem else ()
        places = merged([*configured, *named_here(os.environ, self._caller.cwd)])
        if len(places) > MOST_PLACES:
            log.warning("discover: %d places are named; the first %d are shown", len(places), MOST_PLACES)
        places = places[:MOST_PLACES]
        return list(zip(places, ask_all(places), strict=True))

    def _configured(self) -> Iterator[Place]:
        for entry in self._settings.ecosystem:
            yield place(entry.type, entry.name, entry.endpoint, "named in the configuration's ecosystem")
        if "session_buddy_pool_url" in self._settings.model_fields_set:
            url = self._settings.session_buddy_pool_url
            yield place("session-buddy", "session-buddy", url, "session_buddy_pool_url of the configuration")

    def _described(self, each: Place, answer: Answer, refused: str | None) -> Discovery:
        missing = None if each.type in self._types else f"pools of type {each.type} are not built yet"
        return Discovery(
            name=each.name,
            type=each.type,
            endpoint=each.endpoint,
            reachable=answer.reachable,
            offers=answer.offers,
            registered=self._is_registered(each),
            note="; ".join(filter(None, [each.source, answer.kind, answer.trouble, missing, refused])),
        )

    def _is_registered(self, each: Place) -> bool:
        """Whether a pool that could be of this type stands for this address, and this context."""
        types = _SPEAK_MCP if each.type in _SPEAK_MCP else {each.type}
        contexts = {None, "", each.context}
        specs = [pool.row.spec for pool in self._registry.pools.values() if not pool.draining]
        return each.endpoint is not None and any(
            spec.type in types
            and _plain(spec.endpoint) == _plain(each.endpoint)
            and (each.context is None or spec.options.get("context") in contexts)
            for spec in specs
        )

    async def _register(self, each: Place, answer: Answer) -> str | None:
        """Open a pool for what answered; the reason when it is refused."""
        fits = answer.reachable and not answer.trouble and each.type in self._types
        if not fits or each.endpoint is None or self._is_registered(each):
            return None
        try:
            if self._caller.kind == "mcp":  # nobody was asked, so the configuration must have said it
                self._allowed(each.type, each.endpoint)
            await self._open_pool(
                name=pool_name(each),
                type=each.type,
                endpoint=each.endpoint,
                min_workers=None,
                max_workers=None,
                **({} if each.context is None else {"options": {"context": each.context}}),
            )
        except PoolsError as refusal:
            return f"not registered: {refusal}"
        except Exception as failure:  # a plug-in's; the others are registered all the same
            log.exception("discover: a pool of type %s did not open", each.type)
            return f"not registered: its adapter raised {type(failure).__name__}"
        return None

    def _allowed(self, type: str, endpoint: str) -> None:
        """Refuse an address that the configuration does not allow, or the image that would run there."""
        judge = Judge(self._settings.allow, (), self._caller.cwd)
        judge.endpoint(endpoint)
        if type == "kubernetes":
            judge.image(PoolSpec(name="", type=type).container_image)


def _plain(endpoint: str | None) -> str | None:
    return endpoint and endpoint.rstrip("/")


def pool_name(each: Place) -> str:
    """A valid name for the pool of a place; the implied pool's is not for the taking."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", each.name).strip("-_.")[:64] or each.type
    return f"{each.type}-{name}" if name == IMPLIED else name


# Asking.


def ask_all(places: Iterable[Place]) -> list[Answer]:
    """Ask places, all at the same time, each address once. Blocks for about `PROBE_SECONDS`."""
    places = list(places)
    asked = {(each.type, each.endpoint): each for each in places if each.hands_off is None}
    if any(kind in _SPEAK_MCP for kind, _ in asked):
        from mcp_pools import profiles  # noqa: F401 - half a second that must not count as a peer's
    answers = dict(zip(asked, _on_a_loop_of_its_own(_ask_at_once(asked.values())), strict=True))
    return [
        Answer(None, [], each.hands_off) if each.hands_off else answers[each.type, each.endpoint]
        for each in places
    ]


def _on_a_loop_of_its_own(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(ThreadPoolExecutor(AT_ONCE, "discover"))
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()  # unlike `asyncio.run`, without waiting for names that are still looked up


async def _ask_at_once(places: Iterable[Place]) -> list[Answer]:
    free = asyncio.Semaphore(AT_ONCE)

    async def ask(each: Place) -> Answer:
        async with free:
            return await _ask(each)

    return await asyncio.gather(*map(ask, places))


async def _ask(each: Place) -> Answer:
    """Ask one place; whatever goes wrong is its answer."""
    assert each.endpoint is not None
    try:
        return await _conversation(each.type, each.endpoint)
    except PoolsError as error:
        return Answer(error.code == "insufficient_scope", [], error.message)
    except TimeoutError:
        return Answer(False, [], f"it did not answer within {PROBE_SECONDS:g} s")
    except (socket.gaierror, UnicodeError):  # no name server is asked for what cannot be a name
        return Answer(False, [], "its host does not resolve")
    except OSError:
        return Answer(False, [], "it takes no connection")
    except Exception as failure:
        log.exception("discover: a place of type %s could not be asked", each.type)
        return Answer(False, [], f"asking it raised {type(failure).__name__}")


async def _conversation(type: str, endpoint: str) -> Answer:
    """Of an MCP server its tools; of anything else whether it takes a connection."""
    host, port = peer(type, endpoint)
    if type in _SPEAK_MCP:
        from mcp_pools.delegate import tool_names

        names = await tool_names(endpoint, PROBE_SECONDS)
        return _recognised(type, names)
    with anyio.fail_after(PROBE_SECONDS):
        await (await anyio.connect_tcp(host, port)).aclose()
    return Answer(True, [])


def _recognised(type: str, names: list[str]) -> Answer:
    """What a server with these tools is, and whether a pool of that type may stand for it."""
    from mcp_pools.profiles import known_by

    offers = [printable(name, LONGEST_OFFER) for name in names[:MOST_OFFERS]]
    known = known_by(names)
    if known is None:
        return Answer(True, offers, _UNKNOWN)
    wrong = type == "session-buddy" and known.name != type
    return Answer(True, offers, "it is no Session-Buddy" if wrong else None, known.kind)


def peer(type: str, endpoint: str) -> tuple[str, int]:
    """Whom to connect to; raises `PoolsError` `invalid_payload` for what is no address of that type."""
    if type not in _PORTS:
        return _http_peer(endpoint)
    try:
        parts = split_address(endpoint)
        port = parts.port or (_RAY_CLIENT_PORT if parts.scheme == "ray" else _PORTS[type])
    except ValueError:
        parts, port = None, 0
    if parts is None or not parts.hostname:
        raise PoolsError("invalid_payload", f"its address is not one of a {type} cluster")
    return parts.hostname, port


def _http_peer(endpoint: str) -> tuple[str, int]:
    try:
        return host_and_port(endpoint)
    except PoolsError:  # which quotes the address
        raise PoolsError("invalid_payload", "its address is no http or https URL") from None
