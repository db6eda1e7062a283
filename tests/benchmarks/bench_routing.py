"""What one routing decision costs, at 100 and at 10,000 pools, side by side.

Run: ``python tests/benchmarks/bench_routing.py``

A decision is one `choose` and the `change` that follows it, as the router makes them; in
the mixed row tasks of twelve types arrive, one in ten with a selector, and one pool in ten
is ill. Sizes alternate and the fastest of several rounds counts.
"""

import random
import time
from collections.abc import Callable

from mcp_pools.routing import ANY, Fleet, PoolLoad

SIZES = (100, 10_000)
DECISIONS = 20_000
ROUNDS = 7
TYPES = tuple(f"type-{i}" for i in range(12))


def build(size: int) -> Fleet:
    """A fleet of pools with differing loads; every tenth carries a label and every tenth is ill."""
    rng = random.Random(1)
    fleet = Fleet()
    for i in range(size):
        labels = {"gpu": "yes"} if i % 10 == 0 else {}
        fleet.put(PoolLoad(name=f"pool-{i:05}", capacity=8, busy=rng.randrange(8), types=ANY, labels=labels))
    return fleet


def plain(strategy: str) -> Callable[[Fleet, random.Random], None]:
    """Decisions of one strategy for one task type."""

    def run(fleet: Fleet, rng: random.Random) -> None:
        for turn in range(DECISIONS):
            name = fleet.choose(strategy, task_type="echo", rng=rng, affinity_key="k")
            fleet.change(name, busy=turn % 8)

    return run


def mixed(fleet: Fleet, rng: random.Random) -> None:
    """Least loaded for twelve task types, some with a selector, some pools ill."""
    for index, name in enumerate(fleet):
        fleet.change(name, healthy=index % 10 != 5)
    for turn in range(DECISIONS):
        selector = {"gpu": "yes"} if turn % 10 == 0 else None
        name = fleet.choose("least_loaded", task_type=TYPES[turn % 12], rng=rng, selector=selector)
        fleet.change(name, busy=turn % 8)


CASES = {name: plain(name) for name in ("least_loaded", "round_robin", "random", "affinity")} | {
    "least_loaded, mixed": mixed
}


def microseconds(case: Callable[[Fleet, random.Random], None], fleet: Fleet) -> float:
    """Microseconds a decision took in one round."""
    started = time.perf_counter()
    case(fleet, random.Random(2))
    return (time.perf_counter() - started) / DECISIONS * 1e6


def main() -> None:
    """Measure every case and print one table."""
    print(f"{'decision':<22}" + "".join(f"{f'{size} pools':>14}" for size in SIZES) + f"{'ratio':>8}")
    for label, case in CASES.items():
        fleets = {size: build(size) for size in SIZES}
        best = dict.fromkeys(SIZES, float("inf"))
        for fleet in fleets.values():
            case(fleet, random.Random(3))  # builds the indexes
        for _ in range(ROUNDS):
            for size, fleet in fleets.items():
                best[size] = min(best[size], microseconds(case, fleet))
        small, large = (best[size] for size in SIZES)
        print(f"{label:<22}{small:>11.2f} µs{large:>11.2f} µs{large / small:>7.2f}x")


if __name__ == "__main__":
    main()
