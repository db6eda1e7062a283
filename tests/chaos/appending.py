"""A task type that leaves a line for each of its runs."""

import os
import time

from mcp_pools.task_type import task_type


@task_type(summary="Append the task's id to a file")
def append(to: str, seconds: float = 0.0, context=None) -> str:
    """One write with O_APPEND: a second run would be a second line."""
    descriptor = os.open(to, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{context.task_id}\n".encode())
    os.close(descriptor)
    if seconds:
        time.sleep(seconds)
    return context.task_id
