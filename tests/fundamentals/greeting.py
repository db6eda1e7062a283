"""A task type of one's own: any marked function. Its parameters are the payload."""

from mcp_pools.task_type import task_type


@task_type(summary="Greet somebody")
def greet(name: str, times: int = 1) -> str:
    """Runs in a worker; whatever it prints is kept with the task."""
    print("greeting", name)
    return f"Hello, {name}! " * times
