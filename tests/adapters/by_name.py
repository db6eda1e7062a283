"""The suite of all pool types for those whose launches are tasks of another mcp-pools.

No handler's name travels, so a launch of these tests goes to the peer's task type `hostile`.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

from conformance import Conformance

from mcp_pools.adapter import Ended, Progressed

HERE = Path(__file__).parent


def surroundings_of(home, **keys):
    """What a server in `home` is started with."""
    more = {f"MCP_POOLS_{key.upper()}": value for key, value in keys.items()}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("MCP_POOLS_")},
        "MCP_POOLS_HOME": str(home),
        "MCP_POOLS_TASK_MODULES": '["peer_types"]',
        "PYTHONPATH": str(HERE),
        **more,
    }


def by_name(launch):
    """The launch as a task of type `hostile`."""
    payload = {"handler": launch.handler, "payload": json.loads(launch.payload)}
    return replace(launch, task_type="hostile", payload=json.dumps(payload).encode())


class Federated(Conformance):
    """What is another way with a peer between."""

    ahead = 1
    burst = 100
    """Each is some calls over HTTP."""

    def words(self, ended):
        """What a peer says stands in the details alone."""
        return ended.details["message"]

    async def test_progress_and_output_arrive_in_order_before_the_end(self, stage) -> None:
        """A peer tells the latest progress, not each: it grows to the last. All output is there."""
        async with stage().open() as pool:
            attempt = await pool.start("steps", {"count": 50})
            await pool.end(attempt)
            done = [event.done for event in pool.of(attempt, Progressed)]
            assert done == sorted(done) and done[-1] == 50
            assert pool.printed(attempt).decode() == "".join(f"{number}," for number in range(50))
            assert isinstance(pool.of(attempt)[-1], Ended)
