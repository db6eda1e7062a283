"""A chunk: a part of a distribution that holds several items, each with an outcome of its own. Pure.

1. A chunk has failed when all its items have; its error is then that of the first of them.
2. Another attempt runs only the items that failed, and those that succeeded keep their results.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from mcp_pools.adapter import Ended
from mcp_pools.distribution import chunk_outcomes
from mcp_pools.states import NEVER_RETRIED
from mcp_pools.store import TaskRow

_FAILED: Final = b'"error"'
"""Without these bytes in its result no item of a chunk has failed, so that it need not be read."""


def whole_chunk(row: TaskRow, ended: Ended) -> Ended:
    """The end of a chunk's attempt, with the outcomes of its earlier ones, judged by its items.

    Its code stays `None` when it is to stand as it is.
    """
    if ended.code is not None:
        return replace(ended, result=row.result)
    if row.result is None and _FAILED not in (ended.result or b""):
        return ended
    told = json.loads(ended.result or b"null")
    outcomes = chunk_outcomes(told, row.items or 0) if row.result is None else _merged(row.result, told)
    failed = [each["error"] for each in outcomes or () if each.get("error") is not None]
    if outcomes is None or not failed:
        return ended if row.result is None else replace(ended, result=_encoded(outcomes))
    again = row.attempt < row.max_attempts and any(each["code"] not in NEVER_RETRIED for each in failed)
    if not again and len(failed) < len(outcomes):
        return replace(ended, result=_encoded(outcomes))
    worst = next((each for each in failed if each["code"] not in NEVER_RETRIED), failed[0])
    return replace(ended, code=worst["code"], message=worst["message"], result=_encoded(outcomes))


def still_to_do(payload: bytes, result: bytes) -> bytes:
    """A chunk's payload with only the items that failed."""
    whole = json.loads(payload)
    known = json.loads(result)["items"]
    pairs = zip(whole["items"], known, strict=True)
    items = [item for item, outcome in pairs if outcome.get("error") is not None]
    return json.dumps(whole | {"items": items}, ensure_ascii=False).encode()


def _merged(before: bytes, told: Any) -> list[dict[str, Any]] | None:
    """The outcomes known before, those of failed items replaced by the new ones, in their order."""
    known: list[dict[str, Any]] = json.loads(before)["items"]
    places = [at for at, outcome in enumerate(known) if outcome.get("error") is not None]
    new = chunk_outcomes(told, len(places))
    if new is None:
        return None
    for at, outcome in zip(places, new, strict=True):
        known[at] = outcome
    return known


def _encoded(outcomes: list[dict[str, Any]] | None) -> bytes:
    return json.dumps({"items": outcomes}, ensure_ascii=False, separators=(",", ":")).encode()
