"""The ways to an MCP server (`mcp_pools.way`): over HTTP, or over the pipes of a program."""
