"""`mcp-pools serve` for a home whose owners are stand-ins: `standin_bridge.py HOME`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from standin import StandInHome

from mcp_pools import bridge

if __name__ == "__main__":
    raise SystemExit(bridge.run(StandInHome(sys.argv[1])))
