"""Every metric, declared once, and the cheapest way to count it.

A record of OpenTelemetry's own instruments costs ten microseconds, and a task makes seven: so
here they are counted in plain dictionaries, for a third of a microsecond each, and handed to
OpenTelemetry when somebody looks (`exposition`). Everything runs on the event loop's thread.

Labels are bounded: pools, types, statuses and codes are names that the router knows, never ids
or what a client made up; beyond `MOST_SERIES` what is new counts under `other`.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]

MOST_SERIES: Final = 2000
OTHER: Final = "other"

_TASK_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_ROUTING_SECONDS: Final = (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2)
_COMMIT_SECONDS: Final = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0)
_TOOL_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 45.0)


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric: its name at Prometheus, what it is labelled by, what it says."""

    name: str
    kind: Kind
    labels: Labels
    help: str
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's, in seconds; the last one, infinity, is not named."""


def _gauge(name: str, labels: str, help: str) -> Metric:
    return Metric(f"mcp_pools_{name}", "gauge", tuple(labels.split()), help)


def _counter(name: str, labels: str, help: str) -> Metric:
    return Metric(f"mcp_pools_{name}_total", "counter", tuple(labels.split()), help)


def _seconds(name: str, labels: str, help: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(f"mcp_pools_{name}_seconds", "histogram", tuple(labels.split()), help, buckets)


POOLS: Final = _gauge("pools", "status", "Pools by status.")
POOL_STATUS: Final = _gauge(
    "pool_status", "pool pool_type", "Health of a pool: 2 healthy, 1 degraded, 0 unhealthy."
)
WORKERS: Final = _gauge("workers", "pool pool_type state", "Workers of a pool by state.")
QUEUE_SIZE: Final = _gauge("queue_size", "pool", "Tasks that wait on a pool.")
OLDEST_QUEUED: Final = _gauge(
    "oldest_queued_seconds", "pool", "How long the longest waiting task has waited."
)
POOL_MEMORY: Final = _gauge("pool_memory_bytes", "pool", "Memory of a pool's workers.")
BREAKER: Final = _gauge("breaker_state", "pool", "1 while a pool is unhealthy and passed over, else 0.")

SUBMITTED: Final = _counter("tasks_submitted", "pool task_type", "Tasks accepted, by the pool chosen first.")
TASKS: Final = _counter("tasks", "pool pool_type task_type status", "Tasks that ended, by status.")
ERRORS: Final = _counter("errors", "pool code", "Tasks that failed, and items of chunks, by error code.")
RETRIES: Final = _counter("retries", "pool", "Attempts that failed and are made again.")
DECISIONS: Final = _counter("routing_decisions", "strategy pool", "Tasks placed on a pool, by strategy.")
SCALING: Final = _counter("scaling_events", "pool direction", "Workers that a pool gained or lost.")
FENCED: Final = _counter("fenced_writes", "", "Words of an older attempt, or about a task that had ended.")

DURATION: Final = _seconds(
    "task_duration", "pool task_type", "Seconds that the last attempt of a task ran.", _TASK_SECONDS
)
QUEUE_SECONDS: Final = _seconds(
    "task_queue", "pool", "Seconds that a task waited for its first attempt.", _TASK_SECONDS
)
ROUTING_SECONDS: Final = _seconds("routing_duration", "", "Seconds that choosing took.", _ROUTING_SECONDS)
COMMIT_SECONDS: Final = _seconds(
    "store_commit", "", "Seconds from a change to its being on disk.", _COMMIT_SECONDS
)
TOOL_SECONDS: Final = _seconds(
    "tool_duration", "tool outcome", "Seconds that a tool's call took.", _TOOL_SECONDS
)

METRICS: Final = (
    *(POOLS, POOL_STATUS, WORKERS, QUEUE_SIZE, OLDEST_QUEUED, POOL_MEMORY, BREAKER),
    *(SUBMITTED, TASKS, ERRORS, RETRIES, DECISIONS, SCALING, FENCED),
    *(DURATION, QUEUE_SECONDS, ROUTING_SECONDS, COMMIT_SECONDS, TOOL_SECONDS),
)


class Counter:
    """A metric that only grows."""

    __slots__ = ("series",)

    def __init__(self) -> None:
        self.series: dict[Labels, float] = {}
        """By the values of its labels."""

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count."""
        series = self.series
        if labels in series:
            series[labels] += amount
        elif len(series) < MOST_SERIES:
            series[labels] = amount
        else:
            rest = (OTHER,) * len(labels)
            series[rest] = series.get(rest, 0) + amount


class Distribution:
    """What one series of a histogram holds: how many were in each bucket, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.sum = 0.0


class Histogram:
    """A metric of how long things took."""

    __slots__ = ("bounds", "series")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.series: dict[Labels, Distribution] = {}

    def observe(self, labels: Labels, seconds: float) -> None:
        """Take one in."""
        found = self.series.get(labels)
        if found is None:
            found = self._new(labels)
        found.counts[bisect_left(self.bounds, seconds)] += 1
        found.sum += seconds

    def _new(self, labels: Labels) -> Distribution:
        if len(self.series) >= MOST_SERIES:
            labels = (OTHER,) * len(labels)
        return self.series.setdefault(labels, Distribution(len(self.bounds)))


class Meters:
    """The counters and histograms of one router, since it opened."""

    def __init__(self) -> None:
        self.counters = {metric: Counter() for metric in METRICS if metric.kind == "counter"}
        self.histograms = {
            metric: Histogram(metric.buckets) for metric in METRICS if metric.kind == "histogram"
        }

    def add(self, metric: Metric, *labels: str, amount: float = 1) -> None:
        """Count in a counter."""
        self.counters[metric].add(labels, amount)

    def total(self, metric: Metric) -> float:
        """All that a counter has counted."""
        return sum(self.counters[metric].series.values())

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Take a duration into a histogram; clocks that went back count as no time."""
        self.histograms[metric].observe(labels, max(seconds, 0.0))


class Uncounted(Meters):
    """Of a router that counts nothing."""

    def add(self, metric: Metric, *labels: str, amount: float = 1) -> None:
        """Nothing."""

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Nothing."""


def wants_otlp(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether OpenTelemetry's variables ask for metrics to be sent."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_METRICS_EXPORTER", "").strip().lower()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in endpoints))
