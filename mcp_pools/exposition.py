"""What is counted and how things stand, for Prometheus and for OpenTelemetry collectors.

Counters and gauges are OpenTelemetry's observable instruments; its histograms can only be
recorded into, one by one, so those are added to what its readers collect, as the data points
they are. Importing this costs the SDK, 80 ms: whoever serves or sends metrics does.

How things stand is read on the event loop; writing it down, which takes longer, is not done there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from logging import WARNING
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter, ObservableGauge
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from prometheus_client import CollectorRegistry, generate_latest

from mcp_pools import __version__, telemetry
from mcp_pools.events import say
from mcp_pools.otlp import FLUSH_SECONDS, NO_PACKAGE, resource, unspoken
from mcp_pools.telemetry import METRICS, MOST_SERIES, Distribution, Labels, Metric

if TYPE_CHECKING:
    from mcp_pools.router import Router

_LIMITS: Final[Any] = dict.fromkeys((ObservableCounter, ObservableGauge), 4 * MOST_SERIES)
_LOOK_SECONDS: Final = 5.0
_HEALTH: Final = {"healthy": 2.0, "degraded": 1.0, "unhealthy": 0.0}
_STATES: Final = ("starting", "idle", "busy", "stopping")

Series = Mapping[Labels, float]


def standing(router: Router) -> dict[Metric, dict[Labels, float]]:
    """Every gauge, as things stand now. On the event loop's thread."""
    gauges: dict[Metric, dict[Labels, float]] = {each: {} for each in METRICS if each.kind == "gauge"}
    now = time.time()
    for pool in router.registry.pools.values():
        name, kind = pool.name, pool.row.spec.type
        workers = [] if pool.adapter is None else list(pool.adapter.workers)
        by_status = gauges[telemetry.POOLS]
        by_status[(pool.status,)] = by_status.get((pool.status,), 0) + 1
        gauges[telemetry.POOL_STATUS][name, kind] = _HEALTH[pool.health]
        gauges[telemetry.BREAKER][(name,)] = float(pool.health == "unhealthy")
        for state in _STATES:
            number = sum(worker.status == state for worker in workers)
            gauges[telemetry.WORKERS][name, kind, state] = number
        gauges[telemetry.QUEUE_SIZE][(name,)] = pool.queued
        gauges[telemetry.OLDEST_QUEUED][(name,)] = pool.queue.oldest(now)
        gauges[telemetry.POOL_MEMORY][(name,)] = sum(worker.memory_bytes or 0 for worker in workers)
    return gauges


class Exposition:
    """The metrics of one router.

    Args:
        otlp: send them to a collector, too, as OpenTelemetry's environment variables say.
    """

    def __init__(self, router: Router, *, otlp: bool = False) -> None:
        self._router = router
        self._meters = router.registry.meters
        self._gauges: Mapping[Metric, Series] = standing(router)
        self._started = time.time_ns()
        self._registry = CollectorRegistry()
        readers: list[MetricReader] = [_ForPrometheus(self, self._registry)]
        self._looking: asyncio.Task[None] | None = None
        if otlp and (sending := _otlp(self)) is not None:
            readers.append(sending)
            self._looking = asyncio.create_task(self._look())
        self._provider = MeterProvider(readers, resource=resource(), shutdown_on_exit=False)
        self._instruments()

    def _instruments(self) -> None:
        meter = self._provider.get_meter("mcp_pools", __version__)
        for metric in METRICS:
            if metric.kind == "counter":
                name = metric.name.removesuffix("_total")  # which the exporter adds
                meter.create_observable_counter(name, [self._counted(metric)], description=metric.help)
            elif metric.kind == "gauge":
                meter.create_observable_gauge(metric.name, [self._stood(metric)], description=metric.help)

    def _counted(self, metric: Metric) -> Any:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            series = dict(self._meters.counters[metric].series)
            return _observed(metric, series or ({(): 0.0} if not metric.labels else {}))

        return observe

    def _stood(self, metric: Metric) -> Any:
        return lambda options: _observed(metric, self._gauges[metric])

    async def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        self._gauges = standing(self._router)
        return await asyncio.to_thread(generate_latest, self._registry)

    async def _look(self) -> None:
        """See how things stand, for a reader that asks from a thread of its own."""
        while True:
            self._gauges = standing(self._router)
            await asyncio.sleep(_LOOK_SECONDS)

    def histograms(self) -> list[MetricData]:
        """The histograms, as OpenTelemetry's own would be collected."""
        now = time.time_ns()
        return [
            MetricData(
                name=metric.name,
                description=metric.help,
                unit="",
                data=HistogramData(
                    [self._point(metric, labels, each, now) for labels, each in list(found.series.items())],
                    AggregationTemporality.CUMULATIVE,
                ),
            )
            for metric, found in self._meters.histograms.items()
            if found.series
        ]

    def _point(self, metric: Metric, labels: Labels, found: Distribution, now: int) -> HistogramDataPoint:
        counts = list(found.counts)  # a copy, for the event loop goes on counting
        unknown: Any = None
        return HistogramDataPoint(
            attributes=dict(zip(metric.labels, labels, strict=True)),
            start_time_unix_nano=self._started,
            time_unix_nano=now,
            count=sum(counts),
            sum=found.sum,
            bucket_counts=counts,
            explicit_bounds=list(metric.buckets),
            min=unknown,
            max=unknown,
        )

    async def aclose(self) -> None:
        """Send what is left, and end. A collector that does not answer is given up after a while."""
        if self._looking is not None:
            self._looking.cancel()
            self._gauges = standing(self._router)
        await asyncio.to_thread(self._provider.shutdown, FLUSH_SECONDS * 1000)


def _observed(metric: Metric, series: Series) -> list[Observation]:
    return [
        Observation(value, dict(zip(metric.labels, labels, strict=True))) for labels, value in series.items()
    ]


def _with_histograms(data: MetricsData, exposition: Exposition) -> MetricsData:
    """What a reader has collected, and the histograms."""
    [resource] = data.resource_metrics
    [scope] = resource.scope_metrics  # a second one of the same name would replace it at a collector
    metrics = [*scope.metrics, *exposition.histograms()]
    whole = ScopeMetrics(scope.scope, metrics, scope.schema_url)
    return MetricsData([ResourceMetrics(resource.resource, [whole], resource.schema_url)])


class _ForPrometheus(PrometheusMetricReader):
    def __init__(self, exposition: Exposition, registry: CollectorRegistry) -> None:
        self._exposition = exposition
        super().__init__(
            disable_target_info=True, scope_info_enabled=False, registry=registry, cardinality_limits=_LIMITS
        )

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any
    ) -> None:
        super()._receive_metrics(_with_histograms(metrics_data, self._exposition), timeout_millis, **more)


def _otlp(exposition: Exposition) -> MetricReader | None:
    """What sends metrics to a collector; `None`, and a line in the log, when it cannot."""
    why = unspoken(os.environ, "METRICS")
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        class _ForCollectors(PeriodicExportingMetricReader):
            def _receive_metrics(
                self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any
            ) -> None:
                super()._receive_metrics(_with_histograms(metrics_data, exposition), timeout_millis, **more)

        if why is None:
            return _ForCollectors(OTLPMetricExporter())
    except ImportError:
        why = NO_PACKAGE
    except ValueError as wrong:  # a variable of OpenTelemetry's that it does not forgive
        why = str(wrong)
    say("metrics.off", WARNING, message=why)
    return None
