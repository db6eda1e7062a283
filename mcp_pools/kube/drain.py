"""What a pod does before it goes: `python -m mcp_pools.kube.drain` waits until nothing runs or waits in it.

By then the pod's owner has heard that it is to go, and sends nothing more. Kubernetes ends the wait
when the grace period is over.
"""

from __future__ import annotations

import time
from typing import Final

from mcp_pools.client import Client, SocketTransport, Unreachable
from mcp_pools.doors.hello import Hello
from mcp_pools.errors import PoolsError
from mcp_pools.home import Home, connect

_QUIET_SECONDS: Final = 5.0
"""How long there must be nothing: what was sent before the word got round may still come, and results
are still fetched."""
_LOOK_SECONDS: Final = 0.5


def main() -> int:
    """Wait; the exit status. A pod whose server is gone has nothing to wait for."""
    try:
        client = Client(
            SocketTransport(connect(Home.default(None), Hello.here("console", None), start=False))
        )
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_SECONDS:
            time.sleep(_LOOK_SECONDS)
            if _works(client):
                quiet_since = time.monotonic()
    except (PoolsError, Unreachable):
        return 0
    return 0


def _works(client: Client) -> bool:
    found, refused = client.call("pool_list", {})
    return not refused and any(pool["workers"]["busy"] or pool["queue_size"] for pool in found["pools"])


if __name__ == "__main__":
    raise SystemExit(main())
