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


@task_type(summary="Append each item to a file", takes_items=True)
def append_items(items: list[int], to: str, seconds: float = 0.0, hold: int = -1, context=None) -> dict:
    """A line for each item, ten times its value as its result; a first attempt never gets past `hold`."""
    told = []
    for item in items:
        descriptor = os.open(to, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{item}\n".encode())
        os.close(descriptor)
        time.sleep(600 if item == hold and context.attempt == 1 else seconds)
        told.append({"result": item * 10})
    return {"items": told}
