"""The way to a server that is a program: it speaks over its pipes, and lives as long as the connection.

Only a definition in the configuration can name a program. It is started without a shell, with the
variables that children get and those of the option `env`, in the pool's directory, where its standard
error is kept, too (`stderr.log`, the first of each life). It is told to end by the end of its input, then by
signals to its process group; when we die, its input ends as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from mcp_pools.delegate import speaking
from mcp_pools.way import CALL, DEPTH_META, MOST_ANSWER_BYTES

if TYPE_CHECKING:
    from mcp import Client

_OPENING_SECONDS: Final = 30.0
"""A program may have much to load."""
_END_SECONDS: Final = 2.0
"""How long it may take to end after each sign to do so."""
_STDERR_BYTES: Final = 1 << 16


class OverStdio:
    """A program that serves MCP (`mcp_pools.way.Way`).

    Args:
        argv: the program and its arguments.
        environment: all its variables; reading them may block, and raises `PoolsError`.
        directory: where it runs.
    """

    where = "the other end of its pipes"
    opening_seconds = _OPENING_SECONDS

    def __init__(
        self, argv: Sequence[str], environment: Callable[[], Mapping[str, str]], directory: Path
    ) -> None:
        self._argv = argv
        self._environment = environment
        self._directory = directory

    @asynccontextmanager
    async def opened(self, ended: Callable[[], None]) -> AsyncIterator[Client]:
        """See `Way.opened`. `ended` is called when the program closes its output."""
        async with self._running() as process:
            try:
                async with speaking(_pipes(process, ended)) as client:
                    yield client
            except Exception:
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _END_SECONDS)
                _say(f"its program ended with status {process.returncode}", process.returncode is not None)
                raise

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Process]:
        environment = await asyncio.to_thread(self._environment)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
                limit=MOST_ANSWER_BYTES,
            )
        except (OSError, ValueError) as failure:
            why = getattr(failure, "strerror", None) or type(failure).__name__
            _say(f"its program does not start: {why}")
            raise
        noting = asyncio.create_task(_noted(process, self._directory / "stderr.log"))
        try:
            yield process
        finally:
            await _end(process)
            noting.cancel()


def _say(why: str, known: bool = True) -> None:
    """Note why there is no connection."""
    if known and (call := CALL.get()) is not None:
        call.why, call.status = why, 0


async def _noted(process: Process, file: Path) -> None:
    """Keep the first of what the program says beside the protocol, and read on: it must not block."""
    assert process.stderr is not None
    room = _STDERR_BYTES
    with file.open("wb", buffering=0) as log:
        while data := await process.stderr.read(1 << 14):
            log.write(data[:room])
            room -= min(room, len(data))


async def _end(process: Process) -> None:
    """End it and all of its process group: by the end of its input, by SIGTERM, by SIGKILL."""
    assert process.stdin is not None
    process.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_SECONDS)
            break
    with suppress(ProcessLookupError):  # it may have left some behind
        os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def _pipes(process: Process, ended: Callable[[], None]) -> AsyncIterator[Any]:
    """The program's output and input, as the SDK's streams of messages."""
    assert process.stdin is not None
    incoming, outgoing = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    reading = asyncio.create_task(_read(process, incoming, ended))
    try:
        yield outgoing, _Input(process.stdin)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        outgoing.close()


async def _read(
    process: Process, incoming: MemoryObjectSendStream[SessionMessage | Exception], ended: Callable[[], None]
) -> None:
    """Pass on a message a line until the output ends, or is none of a server any more."""
    assert process.stdout is not None
    try:
        async with incoming:
            while line := await process.stdout.readline():
                await incoming.send(_message(line))
    except (ValueError, anyio.BrokenResourceError):  # a line longer than any answer; nobody listens
        pass
    finally:
        ended()


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as wrong:
        return wrong


class _Input:
    """The program's input. Each request says how deep it is, as the header does over HTTP."""

    def __init__(self, pipe: asyncio.StreamWriter) -> None:
        self._pipe = pipe

    async def send(self, item: SessionMessage, /) -> None:
        """Write a message."""
        said = item.message.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if (call := CALL.get()) is not None:
            call.sent, call.status = True, 200
            if call.depth and said.get("method") == "tools/call":
                said["params"].setdefault("_meta", {})[DEPTH_META] = call.depth
        try:
            self._pipe.write(json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
            await self._pipe.drain()
        except OSError:
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        """The end of what is written."""
        self._pipe.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `aclose`."""
        await self.aclose()
