"""A pool on its own, without a router: launches go in, all that it says is kept."""

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from mcp_pools.adapter import Ended, Launch, Printed, Returned, Surroundings
from mcp_pools.models import PoolSpec
from mcp_pools.worker_process import MARK

HERE = Path(__file__).parent
DEADLINE = 30.0


async def until(holds, seconds=DEADLINE):
    """Look again until `holds()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        await asyncio.sleep(0.002)
    return value


class Stage:
    """One pool and its record.

    Args:
        make: the pool type, called with a definition and its surroundings.
        directory: the pool's own.
        size: workers at least and at most.
    """

    def __init__(self, make, directory, *, size=(1, 2), memory=0, environment=None, **options):
        self._tag = os.urandom(4).hex()
        self.mark = f"stage-{self._tag}"
        """What the workers of this pool, and of no other in the world, are called."""
        spec = PoolSpec(name=self.mark, type="any", min_workers=size[0], max_workers=size[1], options=options)
        given = {"PATH": os.environ["PATH"], **(environment or {})}
        self.pool = make(spec, Surroundings(directory, given, memory))
        self.events = []
        self.launched = []
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def open(self, orphans=()):
        """The pool, running."""
        async with self.pool.run(self.events.append, orphans):
            yield self

    # Launching.

    def launch(self, slot, handler, payload=None, *, timeout=60.0, module="hostile"):
        """A launch in a slot; its attempt id."""
        number = next(self._numbers)
        launch = Launch(
            attempt_id=f"t_{self._tag}_{number}.1",
            task_id=f"t_{self._tag}_{number}",
            attempt=1,
            task_type=handler,
            handler=f"{module}:{handler}",
            payload=json.dumps(payload or {}).encode(),
            timeout=timeout,
            cwd="/",
            roots=(),
            depth=0,
            worker=slot.worker,
            seq=slot.seq,
        )
        self.launched.append(launch)
        self.pool.launch([launch])
        return launch.attempt_id

    async def start(self, handler, payload=None, **options):
        """A launch in the next slot that is free; its attempt id."""
        slots = await until(lambda: self.pool.reserve(1))
        return self.launch(slots[0], handler, payload, **options)

    async def run(self, handler, payload=None, **options):
        """A launch, carried out: its end."""
        return await self.end(await self.start(handler, payload, **options))

    async def carry_out(self, jobs):
        """Run `(handler, payload)` pairs as a router would: what comes back goes out again.

        Returns the attempt ids, each list that of one job's launches.
        """
        waiting, out, tried = list(enumerate(jobs)), {}, [[] for _ in jobs]
        seen = len(self.events)
        deadline = time.monotonic() + DEADLINE
        while waiting or out:
            assert time.monotonic() < deadline, f"{len(waiting)} wait, {len(out)} run"
            for slot in self.pool.reserve(len(waiting)) if waiting else ():
                number, job = waiting.pop(0)
                attempt_id = self.launch(slot, *job)
                tried[number].append(attempt_id)
                out[attempt_id] = (number, job)
            await asyncio.sleep(0)
            fresh, seen = self.events[seen:], len(self.events)
            for event in fresh:
                if isinstance(event, Returned):
                    waiting.append(out.pop(event.attempt_id))
                elif isinstance(event, Ended):
                    out.pop(event.attempt_id, None)
            if not fresh:
                await asyncio.sleep(0.001)
        return tried

    # What was said.

    def of(self, attempt_id, kind=object):
        """All that was said of a launch."""
        return [
            event
            for event in self.events
            if getattr(event, "attempt_id", None) == attempt_id and isinstance(event, kind)
        ]

    def ends(self, attempt_id):
        """The outcomes of a launch."""
        return self.of(attempt_id, Ended | Returned)

    def outcomes(self):
        """How many outcomes each launch has had."""
        return Counter(event.attempt_id for event in self.events if isinstance(event, Ended | Returned))

    async def end(self, attempt_id):
        """The outcome of a launch."""
        return (await until(lambda: self.ends(attempt_id)))[0]

    def printed(self, attempt_id):
        """The output of a launch."""
        return b"".join(event.data for event in self.of(attempt_id, Printed))

    def assert_one_outcome_each(self):
        """The contract's first promise."""
        expected = {launch.attempt_id: 1 for launch in self.launched}
        assert dict(self.outcomes()) == expected

    # Whom it runs on.

    def worker_ids(self):
        """Its workers."""
        return {worker.worker_id for worker in self.pool.workers}

    async def still(self, status="idle", count=None):
        """Wait until all workers (of which there are `count`) have this status."""

        def holds():
            rows = self.pool.workers
            return all(row.status == status for row in rows) and count in (None, len(rows))

        await until(holds)


def alive(pid):
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def carrying(*words):
    """The living processes whose environment has a value that starts with one of these words."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            for pair in (entry / "environ").read_text(errors="replace").split("\0"):
                name, _, value = pair.partition("=")
                if name in (MARK, "MCP_POOLS_ATTEMPT") and value.startswith(words):
                    found.append(int(entry.name))
                    break
    return [pid for pid in found if alive(pid)]


def children(pid):
    """The living children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split() if alive(int(child))]


def lines(path):
    """The marks in a file, each a run."""
    with suppress(FileNotFoundError):
        return Path(path).read_text().split()
    return []


def end(pid):
    """SIGKILL for a process this test started."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
