"""What tracing costs a no-op task: off, in traces that nobody samples, and in sampled ones; in one run.

    python tests/benchmarks/bench_tracing.py [--calls N] [--clients N] [--output FILE]

Spans are encoded for OTLP as they are for a collector, then dropped. Read the ratios.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_core import PAYLOAD, latencies, rate, scratch
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from mcp_pools import Router, Settings, otlp, tracing
from mcp_pools.tools import pool_execute, pool_register

MODES = ("off", "unsampled", "sampled")


class Encoded(SpanExporter):
    """Encodes, counts and drops."""

    spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


@contextlib.contextmanager
def in_mode(mode: str, recorder: tracing.Recorder | None) -> Any:
    """Record nothing, or under a client's context that is sampled or not."""
    tracing.record_with(None if mode == "off" else recorder)
    assert recorder is not None
    flags = "01" if mode == "sampled" else "00"
    with recorder.under(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"):
        yield
    tracing.record_with(recorder)
    batches = otlp._provider()[1].batches
    assert batches is not None
    batches.force_flush()  # what one mode leaves to be exported is not the next one's cost


async def compare(calls: int, clients: int) -> dict[str, Any]:
    """All in turns, so that what else the machine does meets all."""
    alone: dict[str, list[float]] = {mode: [] for mode in MODES}
    many: dict[str, list[float]] = {mode: [] for mode in MODES}
    exporter = Encoded()
    with scratch() as home:
        async with otlp.exporting(exporter), Router.open(Settings(home=home)) as router:
            recorder = tracing._recorder
            await pool_register(router, name="bench", type="local", max_workers=2)

            async def call() -> None:
                task = await pool_execute(router, task_type="echo", payload=PAYLOAD)
                assert task.status == "completed", task

            await latencies(call, 200)
            for _ in range(5):
                for mode in MODES:
                    with in_mode(mode, recorder):
                        alone[mode] += await latencies(call, calls // 5)
                        many[mode].append(await rate(call, clients, calls // clients))
    p50 = {mode: statistics.median(seconds) * 1e3 for mode, seconds in alone.items()}
    rates = {mode: statistics.median(each) for mode, each in many.items()}
    return {
        "p50_ms": {mode: round(value, 3) for mode, value in p50.items()},
        "p50_ratio": {mode: round(p50[mode] / p50["off"], 3) for mode in MODES},
        f"per_second_{clients}_clients": {mode: round(value) for mode, value in rates.items()},
        "rate_ratio": {mode: round(rates[mode] / rates["off"], 3) for mode in MODES},
        "spans_exported": exporter.spans,
    }


def main() -> None:
    """Measure, print, and write the same to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    report = asyncio.run(compare(given.calls, given.clients))
    print(json.dumps(report, indent=2))
    if given.output:
        given.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
