"""A process that keeps tasks and says which ones are kept, until it is killed.

`python committer.py IMPLEMENTATION HOME`: prints the id of each task whose commit resolved.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from stores.conformance import a_task, keep
from stores.implementations import IMPLEMENTATIONS

from mcp_pools.store import Accept

LANES = 20
"""How many commits are under way at a time."""


async def main(name: str, home: Path) -> None:
    """Keep tasks for ever."""
    store = IMPLEMENTATIONS[name](home)
    await store.open()
    numbers = itertools.count()

    async def lane() -> None:
        for number in numbers:
            size = 10_000 if number % 5 == 0 else 10
            row = a_task(f"t_{number:08}", payload=b"x" * size)
            if await keep(store, Accept(row)):
                print(row.task_id, size, flush=True)

    await asyncio.gather(*(lane() for _ in range(LANES)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
