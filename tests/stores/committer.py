"""A process that keeps tasks or distributions and says which ones are kept, until it is killed.

`python committer.py IMPLEMENTATION HOME [distributions]`: prints the id of each task whose commit
resolved, and its payload's size; of each distribution, and how many parts it has.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from stores.conformance import a_task, keep
from stores.distribution_conformance import a_distribution
from stores.implementations import IMPLEMENTATIONS

from mcp_pools.store import Accept, AcceptDistribution

LANES = 20
"""How many commits are under way at a time."""


def a_change(what: str, number: int) -> tuple[Accept | AcceptDistribution, str, int]:
    """What to keep, its id, and its size."""
    if what == "tasks":
        size = 10_000 if number % 5 == 0 else 10
        row = a_task(f"t_{number:08}", payload=b"x" * size)
        return Accept(row), row.task_id, size
    parts, name = 1 + number % 60, f"d_{number:08}"
    rows = [
        a_task(f"t_{number:08}_{at:02}", payload=b"x" * (100 * at), distribution_id=name, part=at)
        for at in range(parts)
    ]
    return AcceptDistribution(a_distribution(name, total=parts), rows), name, parts


async def main(name: str, home: Path, what: str = "tasks") -> None:
    """Keep them for ever."""
    store = IMPLEMENTATIONS[name](home)
    await store.open()
    numbers = itertools.count()

    async def lane() -> None:
        for number in numbers:
            change, id, size = a_change(what, number)
            if await keep(store, change):
                print(id, size, flush=True)

    await asyncio.gather(*(lane() for _ in range(LANES)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
