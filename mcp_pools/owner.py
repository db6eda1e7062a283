"""The process that owns a home: `python -m mcp_pools.owner --home DIR`.

It takes the lock, opens the router, listens on the socket, and gives each connection
the session its hello asks for. It leaves when nobody is connected and nothing is
unfinished for a while, when a newer client or one with another configuration may
replace it, and on SIGTERM; always in the same order: no new connections, sessions
end, the router closes (which flushes), the socket and `owner.json` go, and last, with
the process, the lock.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from mcp_pools import __version__
from mcp_pools.doors.connection import Connection
from mcp_pools.doors.hello import LEAVING, LONGEST_HELLO, Hello, Reply, newer
from mcp_pools.doors.owner_log import say, set_level, write_to_stderr
from mcp_pools.doors.sessions import Session, admit, product_sessions
from mcp_pools.errors import PoolsError, exit_code
from mcp_pools.home import Home

if TYPE_CHECKING:
    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

_HELLO_SECONDS: Final = 10.0
_FAREWELL_SECONDS: Final = 1.0
"""For what is still unwritten to a slow client when its session is over."""
_FIRST_CLIENT_SECONDS: Final = 2.0
"""Who started this owner looks for it in steps: it must find it, however short the idle time."""
_BACKLOG: Final = 128
_LOOK_SECONDS: Final = 1.0


class Works(Protocol):
    """What an owner must know of a router."""

    def unfinished(self) -> int:
        """Tasks that are queued, backing off or running."""

    def disowned(self) -> bool:
        """Whether another has taken its store over."""

    def leave(self) -> None:
        """Launch nothing more, and withdraw nothing for those whose calls end now."""


class Composition(NamedTuple):
    """The parts an owner is made of. `sessions` maps a hello's `kind` to what serves it."""

    open_router: Callable[[], AbstractAsyncContextManager[Any]]
    sessions: Mapping[str, Session]
    idle_seconds: float
    admit: Callable[[Hello], None] = lambda hello: None
    """Raises `PoolsError` for a hello that none of them can serve."""
    stays: bool = False
    """Whether somebody asked for this owner: it leaves when a signal ends it, and makes room for nobody."""


class Owner:
    """One home's owner, from the opened router to the last connection."""

    def __init__(self, home: Home, composition: Composition, config: str | None = None) -> None:
        self._home = home
        self._composition = composition
        self._config = config
        self._connections: dict[Connection, asyncio.Task[None]] = {}
        self._clients: set[Connection] = set()
        self._leaving = asyncio.Event()
        self._stirred = asyncio.Event()

    async def run(self) -> None:
        """Serve until there is a reason to leave.

        Raises:
            PoolsError: the router or the socket could not be opened.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._leave, signal.Signals(number).name)
        async with self._composition.open_router() as self._router:
            server = await self._listen()
            reasons = [self._leave_when_idle(), self._leave_when_disowned()]
            waiting = [asyncio.create_task(reason) for reason in reasons]
            try:
                await self._leaving.wait()
            finally:
                for each in waiting:
                    each.cancel()
                server.close()
                self._router.leave()
                await self._end_sessions()
        self._home.forget_owner()

    async def _listen(self) -> asyncio.Server:
        home = self._home
        home.prepare_socket_directory()
        home.forget_owner()
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            door.bind(str(home.socket))
        except OSError as failure:
            raise home.refused(failure) from failure
        finally:
            os.umask(mask)
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Connection(self._welcome), sock=door, backlog=_BACKLOG)
        home.write_owner(self._config)
        say("owner.listening", socket=str(home.socket), config=self._config, version=__version__)
        return server

    # Connections

    def _welcome(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection, None))

    async def _serve(self, connection: Connection) -> None:
        try:
            hello = await self._hello(connection)
            if hello is not None:
                await self._session(connection, hello)
        except Exception:
            say("session.failed")
        finally:
            connection.end()
            await connection.ended(_FAREWELL_SECONDS)

    async def _hello(self, connection: Connection) -> Hello | None:
        """The hello of a connection that may come in, answered; `None` when it may not."""
        if connection.uid != os.geteuid():
            say("connection.refused", uid=connection.uid)
            return None
        try:
            line = await asyncio.wait_for(connection.take(), _HELLO_SECONDS)
            hello = Hello.read(line[: LONGEST_HELLO + 1])
        except (ValueError, TypeError, TimeoutError) as problem:
            why = f"Version {__version__} does not understand this hello: {problem}."
            connection.send(Reply(ok=False, code="conflict", message=why).line())
            return None
        reply = self._judge(hello)
        connection.send(reply.line())
        if reply.code == LEAVING:
            self._leave(reply.message)
        return hello if reply.ok else None

    def _judge(self, hello: Hello) -> Reply:
        """The one place that decides whether a client comes in, or this owner makes room."""
        if self._leaving.is_set():
            return Reply(ok=False, code=LEAVING, message="This owner is leaving.")
        idle = not self._composition.stays and not self._others() and not self._router.unfinished()
        if hello.config is not None and hello.config != self._config:
            if idle:
                return Reply(ok=False, code=LEAVING, message=f"replaced by one with {hello.config}")
            return self._conflict(hello.config)
        if idle and (hello.replace or newer(hello.version, __version__)):
            return Reply(ok=False, code=LEAVING, message=f"replaced by version {hello.version}")
        if hello.kind not in self._composition.sessions:
            return Reply(ok=False, code="unsupported", message=f"There is no session of kind {hello.kind!r}.")
        try:
            self._composition.admit(hello)
        except PoolsError as refused:
            return Reply(ok=False, code=refused.code, message=refused.message, next=refused.next)
        return Reply(ok=True, version=__version__, pid=os.getpid())

    def _others(self) -> int:
        # One that hung up a moment ago is no reason to refuse the next: commands follow each other fast.
        return sum(not client.gone for client in self._clients)

    def _conflict(self, wanted: str) -> Reply:
        present = self._config or "the default configuration"
        way_out = f"end process {os.getpid()}" if self._composition.stays else "wait until it is idle"
        return Reply(
            ok=False,
            code="conflict",
            message=f"{self._home.path} is owned with {present}, not with {wanted}, "
            f"and has {self._others()} other clients and {self._router.unfinished()} unfinished tasks.",
            next=f"Leave out --config, {way_out}, or set MCP_POOLS_HOME to another directory.",
        )

    async def _session(self, connection: Connection, hello: Hello) -> None:
        connection.welcome()
        self._clients.add(connection)
        self._stirred.set()
        say("session.opened", kind=hello.kind, client=hello.version)
        try:
            await self._composition.sessions[hello.kind](self._router, connection, hello)
        finally:
            self._clients.discard(connection)
            self._stirred.set()
            say("session.closed", kind=hello.kind)

    async def _end_sessions(self) -> None:
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Leaving

    def _leave(self, why: str) -> None:
        if not self._leaving.is_set():
            say("owner.leaving", why=why)
            self._leaving.set()

    async def _leave_when_idle(self) -> None:
        """Leave after `idle_seconds` in a row without connections and unfinished tasks."""
        if self._composition.stays:
            return
        seconds = self._composition.idle_seconds
        since = time.monotonic() + max(0.0, _FIRST_CLIENT_SECONDS - seconds)
        while True:
            self._stirred.clear()
            if self._clients:
                await self._stirred.wait()
                since = time.monotonic()
            elif self._router.unfinished():
                await self._pause(min(1.0, seconds))
                since = time.monotonic()
            elif (left := since + seconds - time.monotonic()) > 0:
                # In steps: a task may come and end without a connection, by a retry that backs off.
                await self._pause(min(1.0, left))
            else:
                self._leave("idle")
                return

    async def _leave_when_disowned(self) -> None:
        """Leave when another has taken the store over: whoever starts this owner again is told who."""
        while not self._router.disowned():
            await asyncio.sleep(_LOOK_SECONDS)
        self._leave("another owner has taken its store over")

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stirred.wait(), seconds)
        except TimeoutError:
            return


def product(home: Home, config: str | None) -> Composition:
    """The real parts: the configured router, MCP and console sessions."""
    from mcp_pools.settings import load

    return composed(load(config_file=config, home=str(home.path)))


def composed(settings: Settings) -> Composition:
    """The real parts, configured."""
    set_level(settings.log_level)
    return Composition(
        open_router=lambda: _opened(settings),
        sessions=product_sessions(),
        idle_seconds=settings.owner_idle_seconds,
        admit=admit,
    )


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Router]:
    from mcp_pools.doors.metrics_door import metrics_out
    from mcp_pools.router import Router

    async with Router.open(settings, lock=False) as router, metrics_out(settings, router):
        yield router


def main(
    arguments: list[str] | None = None, compose: Callable[[Home, str | None], Composition] = product
) -> int:
    """Own a home until there is a reason to leave; the exit status.

    What went wrong is the last line on stderr, where a starter looks for it.
    """
    given = _parser().parse_args(arguments)
    write_to_stderr()
    home, config = Home(given.home), os.path.realpath(given.config) if given.config else None
    try:
        home.create()
        lock = home.acquire_lock()
        if lock is None:
            say("owner.unneeded", message=f"{home.path} has an owner")
            return 0
        composition = compose(home, config)
        if given.idle_seconds is not None:
            composition = composition._replace(idle_seconds=given.idle_seconds)
        asyncio.run(_own(home, composition, config))
    except Exception as failure:
        refused = refusal(failure)
        say("owner.failed", code=refused.code, message=refused.message, next=refused.next)
        return exit_code(refused.code)
    say("owner.left")
    return 0


async def _own(home: Home, composition: Composition, config: str | None) -> None:
    await Owner(home, composition, config).run()


def refusal(failure: BaseException) -> PoolsError:
    """The one error that says why: task groups wrap it, and a bug has none."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if isinstance(failure, PoolsError):
        return failure
    return PoolsError("interrupted", f"{type(failure).__name__}: {failure}", "See owner.log.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mcp_pools.owner", description="Own a home of mcp-pools.")
    parser.add_argument("--home", required=True, help="the state directory")
    parser.add_argument("--config", help="the configuration file")
    parser.add_argument("--idle-seconds", type=float, help="leave after this long without work")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
