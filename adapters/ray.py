"""Pool type `ray`: launches are tasks of a Ray cluster, each in a process of its own there.

`endpoint` is `ray://host:10001` or, on a machine of the cluster, the address that `ray start` printed;
its workers need mcp-pools in the owner's version. Without one the pool has a cluster of its own on this
machine, which ends with it.

A launch runs once: Ray is told to repeat nothing. When the owner leaves or dies, what runs on a cluster
goes on, and the next owner takes it up: an actor there, the keeper, has what it said and how it ended.
"""

from __future__ import annotations

import importlib.util
from typing import ClassVar

from mcp_pools.engine_pool import EnginePool

if importlib.util.find_spec("ray") is None:  # only its link imports it, for it is heavy
    raise ModuleNotFoundError("No module named 'ray'", name="ray")


class RayPool(EnginePool):
    """A pool on a Ray cluster (`mcp_pools.adapter.Adapter`)."""

    engine: ClassVar[str] = "ray"
