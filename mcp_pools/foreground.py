"""`mcp-pools serve --http`: an owner in the foreground that serves HTTP beside its socket.

It owns the home as every owner does, for bridges and consoles, too. It never leaves by
itself and makes room for nobody: somebody asked for it. An idle owner that was there
before makes room for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from mcp_pools import serve
from mcp_pools.doors.http_address import Address, bound, listen
from mcp_pools.doors.owner_log import say, write_to_stderr
from mcp_pools.doors.tokens import tokens
from mcp_pools.errors import PoolsError, exit_code
from mcp_pools.home import Hello, Home, NoOwner, connect
from mcp_pools.owner import Composition, Owner, composed, refusal
from mcp_pools.selection import select_tools

if TYPE_CHECKING:
    import argparse
    import socket

    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

_LEAVING_SECONDS: Final = 15.0
"""For an idle owner to leave; it is gone in far less."""


def main(argv: list[str]) -> int:
    """Serve until a signal ends it; the exit status. What prevents it is one line on stderr."""
    given = serve.parser().parse_args(argv)
    write_to_stderr()
    try:
        _serve(given)
    except KeyboardInterrupt:
        return 130
    except Exception as failure:
        refused = refusal(failure)
        if refused.code == "interrupted":  # not foreseen: where it happened is worth more than a line
            say("owner.failed", message=refused.message)
            return 1
        print(f"mcp-pools: {refused}", file=sys.stderr, flush=True)
        return exit_code(refused.code)
    return 0


def _serve(given: argparse.Namespace) -> None:
    """Check everything that can be wrong before an owner that is there is asked to leave."""
    from mcp_pools.settings import load

    config = os.path.realpath(given.config) if given.config else None
    home = Home.default(config)
    settings = load(config_file=config, home=str(home.path))
    flags = {name: value for name, value in serve.flags(given).items() if value}
    select_tools(flags)
    address = Address.read(given.http)
    with listen(address, guarded=settings.auth.configured) as listening:
        tokens(settings, bound(address, listening))
        lock = take(home, config)
        try:
            composition = _composition(settings, bound(address, listening), listening, flags)
            asyncio.run(_own(Owner(home, composition, config)))
        finally:
            os.close(lock)


def take(home: Home, config: str | None) -> int:
    """The home's lock, from an idle owner if need be: a descriptor, to be kept open.

    Raises:
        PoolsError: `conflict`: somebody owns the home and does not leave.
    """
    home.create()
    lock = home.acquire_lock()
    if lock is not None:
        return lock
    _ask_to_leave(home, config)
    lock = home.acquire_lock(_LEAVING_SECONDS)
    if lock is None:
        raise _owned(home, "has just taken it")
    return lock


def _ask_to_leave(home: Home, config: str | None) -> None:
    """Returns when the owner is gone."""
    hello = Hello.here("console", config)._replace(replace=True)
    try:
        connect(home, hello, start=False, timeout=_LEAVING_SECONDS).close()
    except NoOwner:
        return
    except PoolsError as refused:
        if refused.code == "pool_unreachable":
            raise _owned(home, "does not answer") from refused
        raise
    raise _owned(home, "serves HTTP, has clients, or has unfinished tasks")


def _owned(home: Home, why: str) -> PoolsError:
    pid = (home.read_owner() or {}).get("pid", "unknown")
    return PoolsError(
        "conflict",
        f"{home.path} is owned by process {pid}, which {why}.",
        "Wait until it is idle, end that process, or set MCP_POOLS_HOME to another directory.",
    )


def _composition(
    settings: Settings, address: Address, listening: socket.socket, flags: dict[str, object]
) -> Composition:
    product = composed(settings)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Router]:
        from mcp_pools.doors.http_door import HttpDoor

        door = HttpDoor(listening, address, settings, flags)
        async with door.beside(product.open_router()) as router:
            print(f"Serving MCP at {address.url} from {settings.home}. Ctrl-C ends it.", flush=True)
            yield router

    return product._replace(open_router=opened, stays=True)


async def _own(owner: Owner) -> None:
    await owner.run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
