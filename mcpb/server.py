"""What the bundle's host starts: `mcp-pools serve`, over stdio."""

import sys

from mcp_pools.serve import main

sys.exit(main(sys.argv[1:]))
