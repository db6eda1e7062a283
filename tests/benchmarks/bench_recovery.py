"""How long 10,000 queued tasks wait after SIGKILL of the process that owns their home.

Run: ``python tests/benchmarks/bench_recovery.py [TASKS]``

One owner accepts the tasks (its only worker is busy) and is killed. The clock runs from the
kill: until `Router.open` returns, until the first task completes, until all have. Then: none
lost, none run twice.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CHAOS = Path(__file__).parent.parent / "chaos"
TASKS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000

OWNER = """
import asyncio, os, sys
from mcp_pools import Router, Settings
from mcp_pools.tools import pool_execute

async def main(home, marks, count):
    options = {"task_modules": ["appending"], "pool_default_max_workers": 1, "max_queue": count + 1}
    async with Router.open(Settings(home=home, **options)) as router:
        await pool_execute(router, task_type="sleep", payload={"seconds": 600}, wait=False)
        numbers = iter(range(count))
        async def caller():
            for number in numbers:
                await pool_execute(router, task_type="append", payload={"to": marks}, wait=False)
        await asyncio.gather(*(caller() for _ in range(64)))
        print("accepted", flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def killed_owner(home: Path, marks: Path) -> float:
    """A home whose owner accepted everything and was killed; when that was."""
    command = [sys.executable, "-c", OWNER, str(home), str(marks), str(TASKS)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"accepted\n"
        print(f"accepted {TASKS} tasks in {time.perf_counter() - started:.2f} s, start included")
        owner.send_signal(signal.SIGKILL)
        return time.perf_counter()


async def recover(home: Path, marks: Path, killed: float) -> None:
    """Open the home again and see the work through."""
    from mcp_pools import Router, Settings

    settings = Settings(
        home=home, task_modules=["appending"], pool_default_max_workers=2, max_queue=TASKS + 1
    )
    async with Router.open(settings) as router:
        print(f"Router.open returned   {time.perf_counter() - killed:6.3f} s after the kill")
        while not marks.exists():
            await asyncio.sleep(0.001)
        print(f"first task ran         {time.perf_counter() - killed:6.3f} s")
        while router.unfinished() > TASKS - 1:
            await asyncio.sleep(0.001)
        print(f"first task completed   {time.perf_counter() - killed:6.3f} s")
        while router.unfinished():
            await asyncio.sleep(0.005)
        print(f"all completed          {time.perf_counter() - killed:6.3f} s")
    ran = Counter(marks.read_text().split())
    print(f"run: {len(ran)} of {TASKS}; most runs of one: {max(ran.values())}")
    assert len(ran) == TASKS and max(ran.values()) == 1


def main() -> None:
    """One kill, one recovery."""
    os.environ["PYTHONPATH"] = str(CHAOS)
    sys.path.insert(0, str(CHAOS))
    with tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp") as directory:
        home, marks = Path(directory, "home"), Path(directory, "marks")
        killed = killed_owner(home, marks)
        asyncio.run(recover(home, marks, killed))


if __name__ == "__main__":
    main()
