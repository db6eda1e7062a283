"""The handlers of `hostile` as servers of these tests run them: on the event loop, and they can be ended."""

import asyncio
import json
import os

import hostile


async def echo(payload, _heard):
    """The payload, and a mark if one is asked for."""
    return hostile.echo(payload, None)


async def wait(payload, _heard):
    """Mark, and wait until the file `until` is there; mark `stopped` when ended before that."""
    if "to" in payload:
        hostile.mark(payload)
    try:
        while not os.path.exists(payload["until"]):
            await asyncio.sleep(0.002)
    except asyncio.CancelledError:
        if "to" in payload:
            hostile.mark({**payload, "word": "stopped"})
        raise
    return {"waited": True}


async def steps(payload, heard):
    """Progress, in turns."""
    for number in range(payload["count"]):
        await heard(number + 1, payload["count"], f"step {number}")
    return {"steps": payload["count"]}


async def fail(payload, _heard):
    """An ordinary failure."""
    raise ValueError(payload.get("words", "no"))


async def spin(_payload, _heard):
    """Never ends by itself."""
    await asyncio.Event().wait()


HANDLERS = {f"hostile:{each.__name__}": each for each in (echo, wait, steps, fail, spin)}


async def handled(handler, payload, heard=None):
    """Run one; raises `ValueError` with the kind and text of whatever it raised."""
    try:
        return await HANDLERS[handler](payload, heard)
    except (ValueError, KeyError) as failure:
        raise ValueError(f"{type(failure).__name__}: {failure}") from failure


async def asked(prompt):
    """What a prompt of these tests says: JSON with a handler and its payload."""
    said = json.loads(prompt)
    return await handled(said["handler"], said["payload"])
