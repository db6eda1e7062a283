"""A chunk: a part of a distribution that holds several items, each with an outcome of its own. Pure.

1. A chunk has failed when all its items have; its error is then that of the first of them.
2. Another attempt runs only the items that failed, and those that succeeded keep their results.
3. When an attempt ends as a whole (its worker is lost, its time is over), or does not tell what
   became of each item, all items that it was to run have failed with that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mcp_pools.adapter import Ended
from mcp_pools.distribution import chunk_outcomes, item_error
from mcp_pools.states import NEVER_RETRIED
from mcp_pools.store import TaskRow

_OUTCOMES: Final = b'{"items":[{'
_DONE: Final = b'"result"'
_FAILED: Final = b'"error"'


def whole_chunk(row: TaskRow, ended: Ended) -> Ended:
    """The end of a chunk's attempt, with the outcomes of its earlier ones, judged by its items.

    Its code is `None` when it is to stand as it is. Cancelling leaves what is known.
    """
    if ended.code == "cancelled" or (ended.code is not None and row.result is None):
        return replace(ended, result=row.result)
    if row.result is None and _plainly_done(row, ended.result or b""):
        return ended
    outcomes = _merged(row, ended)
    failed = [item_error(each["error"]) for each in outcomes if each.get("error") is not None]
    again = row.attempt < row.max_attempts and any(each.code not in NEVER_RETRIED for each in failed)
    if not failed and row.result is None:
        return ended
    if not again and len(failed) < len(outcomes):
        return replace(ended, code=None, message="", result=_encoded(outcomes))
    worst = next((each for each in failed if each.code not in NEVER_RETRIED), failed[0])
    return replace(ended, code=worst.code, message=worst.message, result=_encoded(outcomes))


def failures(row: TaskRow) -> Mapping[str, int]:
    """Why a task that has ended failed, by code; of a chunk, why each of its items did.

    What was cancelled has not failed.
    """
    if row.items is None or row.result is None:
        code = None if row.error is None else str(json.loads(row.error)["code"])
        return {} if code is None or code == "cancelled" else {code: row.items or 1}
    if row.error is None and _FAILED not in row.result:
        return {}
    outcomes = json.loads(row.result)["items"]
    codes = (item_error(each["error"]).code for each in outcomes if each.get("error") is not None)
    return Counter(code for code in codes if code != "cancelled")


def still_to_do(payload: bytes, result: bytes) -> bytes:
    """A chunk's payload with only the items that failed."""
    whole = json.loads(payload)
    known = json.loads(result)["items"]
    pairs = zip(whole["items"], known, strict=True)
    items = [item for item, outcome in pairs if outcome.get("error") is not None]
    return json.dumps(whole | {"items": items}, ensure_ascii=False).encode()


def _plainly_done(row: TaskRow, result: bytes) -> bool:
    """Whether it begins as outcomes do and speaks of as many results as there are items and of no error.
    It then need not be read: large ones would hold the event loop up.
    """
    return result.startswith(_OUTCOMES) and result.count(_DONE) == row.items and _FAILED not in result


def _merged(row: TaskRow, ended: Ended) -> list[dict[str, Any]]:
    """The outcomes known before, those of failed items replaced by the new ones, in their order."""
    if row.result is None:
        return _told(row, ended, row.items or 0)
    known: list[dict[str, Any]] = json.loads(row.result)["items"]
    places = [at for at, outcome in enumerate(known) if outcome.get("error") is not None]
    for at, outcome in zip(places, _told(row, ended, len(places)), strict=True):
        known[at] = outcome
    return known


def _told(row: TaskRow, ended: Ended, items: int) -> list[dict[str, Any]]:
    """What became of the items of one attempt."""
    error: dict[str, Any] = {"code": ended.code, "message": ended.message}
    if ended.code is None:
        told = chunk_outcomes(json.loads(ended.result or b"null"), items)
        if told is not None:
            return told
        error["code"], error["message"] = "task_error", _untold(row.task_type, items)
    return [{"error": error | {"retryable": ended.retryable, "details": ended.details}}] * items


def _untold(task_type: str, items: int) -> str:
    return (
        f"{task_type!r} takes items, but did not return what became of each of {items}. "
        'It is to return {"items": [{"result": ...} or {"error": {"code", "message"}}, ...]}.'
    )


def _encoded(outcomes: list[dict[str, Any]]) -> bytes:
    return json.dumps({"items": outcomes}, ensure_ascii=False, separators=(",", ":")).encode()
