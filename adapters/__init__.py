"""Pool types: one module each, all behind the contract in `mcp_pools.adapter`."""
