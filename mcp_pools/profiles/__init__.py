"""The kinds of MCP servers that a pool may stand for (`mcp_pools.profile`)."""
