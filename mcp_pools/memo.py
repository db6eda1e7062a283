"""What is written of a task or a distribution that ended, for a memory. Pure.

The same of it that can be searched for here (`searchable`): nothing under headers, env and
stdin, nothing under keys that look like secrets; and what looks like a secret is masked.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from mcp_pools.memory import Memo
from mcp_pools.redaction import redacted_text
from mcp_pools.searchable import values
from mcp_pools.store import DistributionRow, EventRow, TaskRow

MOST_PAYLOAD, MOST_RESULT, MOST_ERROR, MOST_OUTPUT = 2000, 4000, 500, 500
"""Characters. Akosha takes 10,000 in all."""
_TAG: Final = "mcp-pools"


def of_task(place: int, row: TaskRow) -> Memo:
    """What is written of a task."""
    at = row.finished_at or row.created_at
    where = f" on pool {row.pool}" if row.pool else ""
    parts = [
        f"Task {row.task_id}: {row.task_type} {row.status}{where}, {_moment(at)} ({_TAG}).",
        _part("Payload", values(row.payload), MOST_PAYLOAD),
        _part("Result", values(row.result), MOST_RESULT),
        _part("Error", values(row.error), MOST_ERROR),
        _part("Output", [row.output_tail or ""], MOST_OUTPUT, end=True),
    ]
    tags = [_TAG, row.task_type, row.status, *([row.pool] if row.pool else []), row.task_id]
    return Memo(place, row.task_id, at, _joined(parts), tuple(tags))


def of_distribution(place: int, row: DistributionRow, event: EventRow) -> Memo:
    """What is written of a distribution: one memo with its counts and its fold, whatever it had of parts."""
    counts = [f"{event.data[status]} {status}" for status in _COUNTED if event.data.get(status)]
    parts = [
        f"Distribution {row.distribution_id}: {row.task_type} {row.status}, "
        f"{_moment(event.at)} ({_TAG}, {row.strategy}).",
        _part("Items", [f"{row.total}: {', '.join(counts) or 'none ended'}"], MOST_ERROR),
        _part("Result", values(row.reduced), MOST_RESULT),
        _part("Error", values(row.error), MOST_ERROR),
    ]
    tags = (_TAG, row.task_type, row.status, row.distribution_id)
    return Memo(place, row.distribution_id, event.at, _joined(parts), tags)


_COUNTED: Final = ("completed", "failed", "cancelled", "timed_out")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _part(title: str, texts: Iterable[str], most: int, *, end: bool = False) -> str:
    text = redacted_text("\n".join(filter(None, texts))[: 4 * most]).strip()
    return f"{title}: {text[-most:] if end else text[:most]}" if text else ""


def _joined(parts: Iterable[str]) -> str:
    """One text that every server takes: no NUL, nothing that is no Unicode text."""
    text = "\n".join(filter(None, parts)).replace("\0", " ")
    return text.encode(errors="replace").decode()
