"""The recorder of spans: OpenTelemetry's SDK, batches, OTLP over HTTP.

One tracer provider a process, for OpenTelemetry has room for one: the MCP SDK's spans of
requests come through it. Where they go is set while a router is open. Sampling, the limits of
spans, of batches and of the queue, where to and with which headers are the standard variables'
(`OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_EXPORTER_OTLP_*`, ...).

Handing a span over costs the event loop an object and an append; a full queue drops the
oldest. A thread exports, and nobody waits for it but `exporting` at its end, and that not long.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from logging import WARNING
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as LiveSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mcp_pools import __version__, tracing
from mcp_pools.errors import PoolsError
from mcp_pools.events import say
from mcp_pools.tracing import Context, Kind, Span

FLUSH_SECONDS: Final = 3.0
"""How long a router that closes waits for its last spans, or metrics, to be taken."""
QUEUE: Final = 8192
"""Spans that wait for export, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise."""
LONGEST_TEXT: Final = 256
"""Characters of a name or an attribute: some come from clients."""
NO_PACKAGE: Final = "OTLP needs a package: pip install 'mcp-pools[otlp]'"

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("mcp_pools", __version__)
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_OK: Final = Status()


class _Way(SpanProcessor):
    """Where this process's spans go just now: into batches, or nowhere."""

    def __init__(self) -> None:
        self.batches: BatchSpanProcessor | None = None
        self.routers = 0

    def on_start(self, span: LiveSpan, parent_context: otel_context.Context | None = None) -> None:
        """Cut names that come from clients."""
        if len(span.name) > LONGEST_TEXT:
            span.update_name(span.name[:LONGEST_TEXT])

    def on_end(self, span: ReadableSpan) -> None:
        """Put it into a batch."""
        if self.batches is not None:
            self.batches.on_end(span)


class OtelRecorder:
    """`tracing.Recorder` with OpenTelemetry."""

    def __init__(self, provider: TracerProvider, way: SpanProcessor) -> None:
        self._provider = provider
        self._way = way
        self._tracer = provider.get_tracer("mcp_pools", __version__)

    def here(self) -> Context:
        """See `Recorder.here`. The sampler decides about a trace that starts here."""
        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            ids = trace.format_trace_id(current.trace_id), trace.format_span_id(current.span_id)
            return Context(*ids, current.trace_flags.sampled)
        trace_id = self._provider.id_generator.generate_trace_id()
        decided = self._provider.sampler.should_sample(None, trace_id, tracing.TASK)
        return Context.root(trace.format_trace_id(trace_id), decided.decision is Decision.RECORD_AND_SAMPLE)

    def ids(self) -> tuple[str, str] | None:
        """See `Recorder.ids`."""
        span = trace.get_current_span()
        if not span.is_recording():
            return None
        context = span.get_span_context()
        return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)

    def note(self, key: str, value: str) -> None:
        """See `Recorder.note`."""
        trace.get_current_span().set_attribute(key, value)

    def record(self, span: Span) -> None:
        """See `Recorder.record`. Made whole at once: starting and ending it would cost several times that."""
        trace_id = int(span.context.trace_id, 16)
        own = SpanContext(trace_id, int(span.context.span_id, 16), False, _SAMPLED)
        parent = None
        if span.parent_id is not None:
            parent = SpanContext(trace_id, int(span.parent_id, 16), False, _SAMPLED)
        attributes = _short(
            span.attributes if span.error is None else {**span.attributes, tracing.ERROR: span.error}
        )
        self._way.on_end(
            ReadableSpan(
                span.name[:LONGEST_TEXT],
                own,
                parent,
                self._provider.resource,
                attributes,
                [Event(name, _short(said), _nanoseconds(at)) for name, at, said in span.events],
                kind=_KINDS[span.kind],
                status=_OK if span.error is None else Status(StatusCode.ERROR),
                start_time=_nanoseconds(span.started),
                end_time=_nanoseconds(span.ended),
                instrumentation_scope=_SCOPE,
            )
        )

    @contextmanager
    def call(self, tool: str, traceparent: object) -> Iterator[None]:
        """See `Recorder.call`: the span that the MCP SDK makes for its clients."""
        attributes = {
            "mcp.method.name": "tools/call",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool[:LONGEST_TEXT],
        }
        with self._tracer.start_as_current_span(
            f"tools/call {tool}",
            context=_conveyed(traceparent),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except PoolsError as refused:
                span.set_attribute(tracing.ERROR, refused.code)
                span.set_status(StatusCode.ERROR)
                raise

    @contextmanager
    def under(self, traceparent: object) -> Iterator[None]:
        """See `Recorder.under`."""
        context = _conveyed(traceparent)
        if context is None:
            yield
            return
        token = otel_context.attach(context)
        try:
            yield
        finally:
            otel_context.detach(token)


def _conveyed(traceparent: object) -> otel_context.Context | None:
    """OpenTelemetry's context for a traceparent; `None` when there is none."""
    if not isinstance(traceparent, str):
        return None
    context = _PROPAGATOR.extract({tracing.CONVEYED: traceparent})
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def _short(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes whose texts are cut, if any is too long: copying them would cost more than all the rest."""
    for value in attributes.values():
        if type(value) is str and len(value) > LONGEST_TEXT:
            return {key: _cut(value) for key, value in attributes.items()}
    return attributes


def _cut(value: Any) -> Any:
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def resource() -> Resource:
    """Who sends: `mcp-pools`, unless OpenTelemetry's variables give another name."""
    found = Resource.create({"service.version": __version__})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": "mcp-pools"}))
    return found


def unspoken(environ: Mapping[str, str], signal: str) -> str | None:
    """Why the protocol that is asked for, for `TRACES` or `METRICS`, is none of ours; `None`: it is."""
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in names if environ.get(name)), "http/protobuf")
    return None if protocol == "http/protobuf" else f"OTLP is spoken over http/protobuf here, not {protocol}."


@cache
def _provider() -> tuple[TracerProvider, _Way]:
    """This process's own tracer provider; also OpenTelemetry's, unless somebody has set another."""
    limits = SpanLimits()
    if limits.max_span_attribute_length is None:
        limits = SpanLimits(max_span_attribute_length=LONGEST_TEXT)
    provider = TracerProvider(resource=resource(), shutdown_on_exit=False, span_limits=limits)
    way = _Way()
    provider.add_span_processor(way)
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    return provider, way


def _exporter(environ: Mapping[str, str]) -> SpanExporter | None:
    """The standard exporter; `None`, and a line in the log, when it cannot be had."""
    if (why := unspoken(environ, "TRACES")) is not None:
        say("traces.off", WARNING, message=why)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        say("traces.off", WARNING, message=NO_PACKAGE)
        return None
    return OTLPSpanExporter()


@asynccontextmanager
async def exporting(exporter: SpanExporter | None = None) -> AsyncIterator[None]:
    """Record in this block. Several blocks of one process share the way of the first.

    Args:
        exporter: where spans go; none: where the standard variables say.
    """
    provider, way = _provider()
    if way.batches is None:
        exporter = exporter or _exporter(os.environ)
        if exporter is None:
            yield
            return
        size = None if os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") else QUEUE
        way.batches = BatchSpanProcessor(exporter, max_queue_size=size)
        tracing.record_with(OtelRecorder(provider, way))
    way.routers += 1
    try:
        yield
    finally:
        way.routers -= 1
        if not way.routers:
            batches, way.batches = way.batches, None
            tracing.record_with(None)
            await _ended(batches)


async def _ended(batches: BatchSpanProcessor) -> None:
    """Export what is left, for a while: a collector that does not answer holds nobody up."""
    ended = threading.Event()

    def end() -> None:
        batches.force_flush()
        ended.set()
        batches.shutdown()  # type: ignore[no-untyped-call]

    threading.Thread(target=end, name="last-spans", daemon=True).start()
    until = time.monotonic() + FLUSH_SECONDS
    while not ended.is_set() and time.monotonic() < until:
        await asyncio.sleep(0.005)
    if not ended.is_set():
        say("traces.lost", WARNING, message="The collector did not take the last spans in time.")
        threading.Thread(target=batches.span_exporter.shutdown, daemon=True).start()
