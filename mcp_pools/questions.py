"""What a person is asked before something is lost or reached: tools name these as their `question`.

Each says what is at stake, with the numbers of the moment, or `None` when nothing is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_pools.router import Router


def closing(router: Router, arguments: dict[str, Any]) -> str | None:
    """Before a pool is closed."""
    pool = router.registry.pools.get(arguments["name"])
    if pool is None:
        return None
    runs, waits = len(pool.running), len(pool.queue)
    patience = arguments.get("drain_timeout", 30)
    ends = "is cancelled at once" if arguments.get("force") else f"is cancelled after {patience:g} s"
    return (
        f"Close the pool {pool.name!r} for good? {runs} running: what does not finish {ends}. "
        f"{waits} waiting: they move to other pools, or are cancelled where none fits."
    )


def cancelling(router: Router, arguments: dict[str, Any]) -> str | None:
    """Before a distribution is cancelled; a task by itself is nobody's loss but its own."""
    whole = router.distributor.living.get(arguments["task_id"])
    if whole is None:
        return None
    done, total = whole.counts.total(), whole.row.total
    return (
        f"Cancel the distribution {whole.distribution_id} of {whole.row.task_type!r}? "
        f"{total - done} of {total} items have not ended: what runs is stopped, what waits never starts."
    )


def registering(router: Router, arguments: dict[str, Any]) -> str | None:
    """Before work may leave this machine, unless the configuration allows the place."""
    from mcp_pools import plugins  # which a console command need not import

    type = plugins.ALIASES.get(arguments["type"], arguments["type"])
    if type == "local" or _allowed(router, type, arguments):
        return None
    where = arguments.get("endpoint") or "its default place"
    image = f", in the image {arguments['container_image']!r}" if arguments.get("container_image") else ""
    secret = (arguments.get("options") or {}).get("token_secret")
    shown = f", which is shown the secret {secret!r}" if secret else ""
    return (
        f"Register the pool {arguments['name']!r} of type {type!r} at {where}{image}{shown}? "
        "Tasks, with their payloads, will leave this machine."
    )


def _allowed(router: Router, type: str, arguments: dict[str, Any]) -> bool:
    """Whether the configuration has said yes: to the image of a cluster, to the address of all else."""
    from mcp_pools.errors import PoolsError
    from mcp_pools.policy import Judge

    judge = Judge(router.settings.allow, (), router.caller.cwd)
    image, endpoint = arguments.get("container_image"), arguments.get("endpoint")
    try:
        if type == "kubernetes" and image:
            judge.image(image)
        if endpoint:
            judge.endpoint(endpoint)
    except PoolsError:
        return False
    return bool(endpoint or (type == "kubernetes" and image))
