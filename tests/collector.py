"""A real collector of traces and metrics: OTLP over HTTP on a port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(NamedTuple):
    """A span as it came over the wire; times in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    started: int
    ended: int
    attributes: dict[str, Any]
    service: str
    events: list[str]


class Collector(ThreadingHTTPServer):
    """Keeps every span it is sent, and the latest of every metric by its name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Seen] = []
        self.metrics: dict[str, Any] = {}

    @property
    def url(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_port}"

    def trace(self, trace_id: str) -> Trace:
        """What has come of one trace."""
        return Trace([span for span in self.spans if span.trace == trace_id])


class Trace(list[Seen]):
    """The spans of one trace."""

    def named(self, start: str) -> list[Seen]:
        """Those whose names start so, in the order of their starts."""
        return sorted((span for span in self if span.name.startswith(start)), key=lambda span: span.started)

    def one(self, start: str) -> Seen:
        """The only one whose name starts so."""
        [span] = self.named(start)
        return span

    def loose(self, known: str) -> list[str]:
        """Names of spans whose parent is neither here nor the span `known`."""
        ids = {span.id for span in self} | {known}
        return [span.name for span in self if span.parent not in ids]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/metrics":
            self._take_metrics(body)
        else:
            self._take_spans(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _take_metrics(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                self.server.metrics |= {metric.name: metric for metric in scope.metrics}

    def _take_spans(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.server.spans += [seen(span, str(named.get("service.name"))) for span in scope.spans]

    def log_message(self, format: str, *args: Any) -> None:
        pass


def seen(span: Any, service: str) -> Seen:
    """A span of the protocol in plain values."""
    return Seen(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.status.code == 2,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        attributes(span.attributes),
        service,
        [event.name for event in span.events],
    )


def attributes(pairs: Any) -> dict[str, Any]:
    """Attributes of the protocol in plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens for as long as the block lasts."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
