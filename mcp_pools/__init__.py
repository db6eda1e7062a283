"""mcp-pools: durable tasks on pools of workers, for agents and people."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_pools.router import Router
    from mcp_pools.settings import Settings

__version__ = "0.1.0"
__all__ = ["Router", "Settings", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the public names only when somebody asks: the console starts without them."""
    if name == "Router":
        from mcp_pools.router import Router

        return Router
    if name == "Settings":
        from mcp_pools.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
