"""Pool type `dask`: launches are tasks of a Dask cluster, each in a process of its own there.

`endpoint` is the scheduler's address (`tcp://host:8786`, `tls://…` with the certificates of Dask's own
configuration); its workers need mcp-pools in the owner's version. Without one the pool has a cluster of
its own on this machine, with a worker process for each launch at a time, which ends with it.

A launch runs once: Dask would run it again when its worker dies, and then it ends with `worker_lost`.
When the owner leaves or dies, what runs on a cluster goes on; the next owner takes it up. What it is
to report lies at the scheduler, which keeps it in memory: when that dies, it is lost.
"""

from __future__ import annotations

import importlib.util
from typing import ClassVar

from mcp_pools.engine_pool import EnginePool

if importlib.util.find_spec("distributed") is None:  # only its link imports it, for it is heavy
    raise ModuleNotFoundError("No module named 'distributed'", name="distributed")


class DaskPool(EnginePool):
    """A pool on a Dask cluster (`mcp_pools.adapter.Adapter`)."""

    engine: ClassVar[str] = "dask"
