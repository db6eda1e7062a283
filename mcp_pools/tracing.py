"""Traces: the names of spans and of their attributes, and whether anybody records them.

A task keeps the W3C `traceparent` that it was asked for under, so its trace goes on after a
restart. The ids of its own spans follow from its own id: whoever sees one of them end, this
owner or the next, records it under the same id, and its children, also those in another
process, can name it before it is recorded.

Standard library only. While nobody records, everything here is one comparison with `None`;
`otlp` is the recorder, and is imported only when the environment asks for it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Literal, NamedTuple, Protocol

TASK: Final = "task"
"""`task TYPE`: from the task's acceptance to its end on disk."""
SUBMIT: Final = "submit"
"""From a checked request to a task on disk; its event `routed` says by which strategy to which pool."""
QUEUE: Final = "queue"
"""The wait for a slot; once an attempt."""
ATTEMPT: Final = "attempt"
"""From the slot to the verdict."""
RUN: Final = "run"
"""`run TYPE`: the handler, in its worker's process and by its worker's clock."""
COMMIT: Final = "commit"
"""A change on its way to the disk."""
DISTRIBUTION: Final = "distribution"
"""`distribution TYPE`: from its acceptance to its end on disk, its fold included."""

TASK_ID: Final = "mcp_pools.task.id"
TASK_TYPE: Final = "mcp_pools.task.type"
STATUS: Final = "mcp_pools.task.status"
DISTRIBUTION_ID: Final = "mcp_pools.distribution.id"
ITEMS: Final = "mcp_pools.distribution.items"
POOL: Final = "mcp_pools.pool.name"
POOL_TYPE: Final = "mcp_pools.pool.type"
STRATEGY: Final = "mcp_pools.routing.strategy"
ATTEMPT_NUMBER: Final = "mcp_pools.attempt.number"
WORKER: Final = "mcp_pools.worker.id"
CHANGE: Final = "mcp_pools.commit.change"
ERROR: Final = "error.type"
PID: Final = "process.pid"

MOST_PARTS: Final = 64
"""Parts of a distribution that are traced: the first ones."""

CONVEYED: Final = "traceparent"
"""The key in `_meta` and the HTTP header."""
VARIABLE: Final = "TRACEPARENT"
"""The environment variable of the same content."""

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_NOBODY: Final = "0" * 16
"""The parent's id in a context that starts a trace."""

Kind = Literal["internal", "producer", "consumer"]


class Context(NamedTuple):
    """Where in which trace something happens: what a `traceparent` says."""

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def read(cls, traceparent: object) -> Context | None:
        """The context in a text from outside; `None` when it is none."""
        found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
        if found is None:
            return None
        return cls(found[1], found[2], bool(int(found[3], 16) & 1))

    @classmethod
    def root(cls, trace_id: str, sampled: bool) -> Context:
        """The context of what has no parent."""
        return cls(trace_id, _NOBODY, sampled)

    @property
    def parent_id(self) -> str | None:
        """The id of the span that is the parent of what happens here."""
        return None if self.span_id == _NOBODY else self.span_id

    def below(self, name: str) -> Context:
        """The context of what happens inside the span of that name."""
        return self._replace(span_id=span_id(name))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


class Span(NamedTuple):
    """A span that is over. Times are Unix seconds; `error` is a code, never a message."""

    name: str
    context: Context
    """Its own."""
    parent_id: str | None
    started: float
    ended: float
    attributes: Mapping[str, Any]
    error: str | None = None
    kind: Kind = "internal"
    events: tuple[tuple[str, float, Mapping[str, Any]], ...] = ()
    """(name, when, attributes)."""


class Recorder(Protocol):
    """Takes spans, and knows the one that the present call happens in. Never raises, never waits."""

    def here(self) -> Context:
        """The context of the present call; the start of a trace outside of one."""

    def ids(self) -> tuple[str, str] | None:
        """The trace and the span of the present call while it goes on; else `None`."""

    def note(self, key: str, value: str) -> None:
        """Say something of the present call."""

    def record(self, span: Span) -> None:
        """Take a span of a sampled trace."""

    def call(self, tool: str, traceparent: object) -> AbstractContextManager[None]:
        """The span of a tool's call by a client that speaks no MCP."""

    def under(self, traceparent: object) -> AbstractContextManager[None]:
        """Let what happens in the block belong to a context from outside."""


_recorder: Recorder | None = None


def record_with(recorder: Recorder | None) -> None:
    """From now on this process's spans go to `recorder`; `None`: nowhere."""
    global _recorder
    _recorder = recorder


def recording() -> bool:
    """Whether anybody records."""
    return _recorder is not None


def span_id(name: str) -> str:
    """The id of a span that exists once, by what it is of: always the same."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def here() -> str | None:
    """The traceparent of what is asked for in the present call; `None` while nobody records."""
    return None if _recorder is None else str(_recorder.here())


def ids() -> tuple[str, str] | None:
    """The trace and the span of the present call, if it is in one that goes on."""
    return None if _recorder is None else _recorder.ids()


def note(key: str, value: str) -> None:
    """Say something of the present call's span."""
    if _recorder is not None:
        _recorder.note(key, value)


def record(span: Span) -> None:
    """Hand a span to whoever records."""
    if _recorder is not None:
        _recorder.record(span)


def call(tool: str, meta: object) -> AbstractContextManager[None]:
    """A span for a tool's call whose `_meta` may convey a context."""
    if _recorder is None:
        return nullcontext()
    return _recorder.call(tool, meta.get(CONVEYED) if isinstance(meta, Mapping) else None)


def under(traceparent: object) -> AbstractContextManager[None]:
    """Let what happens in the block belong to a context from outside, if it is one."""
    return nullcontext() if _recorder is None else _recorder.under(traceparent)


def run_of(trace: str | None, attempt_id: str) -> str | None:
    """What whoever runs an attempt goes on with, if its task is traced at all."""
    context = Context.read(trace)
    if context is None:
        return None
    if context.sampled:
        return str(context.below(f"{attempt_id} {RUN}"))
    return None if context.parent_id is None else trace


def part_of(trace: str | None, distribution_id: str) -> str | None:
    """What the parts of a distribution go on with."""
    context = Context.read(trace)
    return str(context.below(distribution_id)) if context is not None and context.sampled else trace


def is_kept(trace: str | None) -> bool:
    """Whether a task's trace must outlive its owner: it is sampled."""
    context = Context.read(trace)
    return context is not None and context.sampled


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether OpenTelemetry's variables ask for traces to be exported."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in endpoints))
