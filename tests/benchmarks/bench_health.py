"""Checking the health of many slow pools, one after the other and as `pool_health` does.

python tests/benchmarks/bench_health.py [--pools N] [--seconds S]
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence

from mcp_pools import Router, Settings
from mcp_pools.adapter import Slot
from mcp_pools.models import Health, PoolSpec, Worker
from mcp_pools.pool import LivePool
from mcp_pools.store import PoolRow
from mcp_pools.tools import pool_health


class Slow:
    """An adapter whose pool takes a while to say that it is well."""

    workers: Sequence[Worker] = ()

    def __init__(self, spec: PoolSpec, seconds: float) -> None:
        self.spec = spec
        self._seconds = seconds

    def reserve(self, wanted: int) -> Sequence[Slot]:
        """Nothing runs here."""
        return ()

    async def health(self) -> tuple[Health, str | None]:
        """Well, after a while."""
        await asyncio.sleep(self._seconds)
        return "healthy", None


async def measure(count: int, seconds: float) -> dict[str, float]:
    """Seconds of both ways."""
    with tempfile.TemporaryDirectory() as home:
        async with Router.open(Settings(home=home)) as router:
            for number in range(count):
                spec = PoolSpec(name=f"slow-{number}", type="slow")
                pool = LivePool(PoolRow(pool_id=str(number), spec=spec), Slow(spec, seconds))  # type: ignore[arg-type]
                router.registry.pools[spec.name] = pool
            started = time.perf_counter()
            report = await pool_health(router)
            together = time.perf_counter() - started
            assert len(report.pools) == count + 1 and report.status == "healthy"
            started = time.perf_counter()
            for pool in list(router.registry.pools.values()):
                await pool.check()
            apart = time.perf_counter() - started
            for number in range(count):
                del router.registry.pools[f"slow-{number}"]
    return {
        "pool_health_s": round(together, 3),
        "sequential_s": round(apart, 3),
        "ratio": round(apart / together, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.1)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.pools, given.seconds)), indent=2))


if __name__ == "__main__":
    main()
