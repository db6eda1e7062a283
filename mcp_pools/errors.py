"""One family of errors: what happened, with the values, and what to do next.

Every refusal a tool, a store or an adapter raises is a `PoolsError` with one of the
codes below. The text reaches people and models alike, so it never holds a traceback
or text that came from outside.
"""

from collections.abc import Iterable
from typing import Any, Final

CODES: Final = frozenset(
    {
        "invalid_payload",
        "unknown_task_type",
        "unknown_pool",
        "unknown_task",
        "unsupported",
        "not_allowed",
        "insufficient_scope",
        "confirmation_required",
        "conflict",
        "queue_full",
        "task_error",
        "timeout",
        "worker_lost",
        "out_of_memory",
        "evicted",
        "image_pull",
        "unschedulable",
        "quota",
        "pool_unreachable",
        "result_too_large",
        "cancelled",
        "interrupted",
        "nesting_too_deep",
    }
)
"""Every `error.code` there is; the list is part of the outward contract."""

_NOT_FOUND: Final = frozenset({"unknown_pool", "unknown_task"})
_REFUSED_BY_STATE: Final = frozenset({"conflict", "queue_full"})


class PoolsError(Exception):
    """A refusal or a failure: `code`, `message` and the `next` step.

    Args:
        code: one of `CODES`.
        message: what is wrong, naming the values.
        next: what to do about it, as one imperative sentence.
        retryable: whether the same request may succeed later, unchanged.
        details: more facts for programs; JSON.
    """

    def __init__(
        self,
        code: str,
        message: str,
        next: str = "",
        *,
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        assert code in CODES, code
        super().__init__(code, message, next)
        self.code = code
        self.message = message
        self.next = next
        self.retryable = retryable
        self.details = details or {}

    def __str__(self) -> str:
        return f"{self.message} {self.next}".rstrip()


def exit_code(code: str) -> int:
    """The console's exit status for a refusal with `code` (contract §1)."""
    if code in _NOT_FOUND:
        return 3
    return 1 if code in _REFUSED_BY_STATE else 2


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` for a mistyped name, else the known names, else nothing."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names[:20])}." if names else ""


def explain(invalid: Any) -> str:
    """A pydantic `ValidationError` in one line: each field, what is wrong, what was given.

    Of a field that may be of several types, pydantic says what each of them misses; the
    names it gives to those types are no part of the field's.
    """
    wrong: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for error in invalid.errors(include_url=False)[:8]:
        path = [str(part) for part in error["loc"] if str(part).replace("_", "").isalnum()]
        where = ".".join(path) or "the payload"
        wrong.setdefault(where, []).append(error["msg"].lower())
        if error["type"] != "missing":
            shown = repr(error["input"])
            given[where] = f" (given: {shown[:80]}{'…' if len(shown) > 80 else ''})"
    return "; ".join(
        f"{where}: {' or '.join(dict.fromkeys(messages))}{given.get(where, '')}"
        for where, messages in wrong.items()
    )


def unknown_task(task_id: str) -> PoolsError:
    """There is no task and no distribution of this id."""
    return PoolsError(
        "unknown_task",
        f"There is no task {task_id[:80]!r}.",
        "Check the id, or find the task with pool_search; tasks are forgotten after retention_days.",
    )


def key_conflict(key: str, id: str) -> PoolsError:
    """An idempotency key stands for another request."""
    return PoolsError(
        "conflict",
        f"Idempotency key {key!r} is that of {id}, another request.",
        f'Look at that one with pool_task(task_id="{id}"), or use a new key.',
        details={"id": id},
    )
