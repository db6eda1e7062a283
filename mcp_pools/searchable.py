"""What of a task can be found by its text, and how a query is read. Pure.

Values under `headers`, `env` and `stdin`, and under keys that look like secrets, are left
out at any depth, also in results and errors: what must not be kept twice is not indexed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, Final

from mcp_pools.secret import REFERENCE, looks_secret

LARGEST_JSON: Final = 1 << 18
"""Bytes. A larger payload or result is not indexed: reading it would hold everything else up."""

MOST_TEXT: Final = 1 << 16
"""Characters of one task that are indexed; the rest of a longer text is not found."""

MOST_WORDS: Final = 32
"""Words of a query that count."""

_PREFIX: Final = 3
_PRIVATE: Final = frozenset({"headers", "env", "stdin", REFERENCE})


def text_of(
    task_type: str, payload: bytes | None, error: bytes | None, result: bytes | None, output: str | None
) -> str:
    """The text of a task that is indexed, at most `MOST_TEXT` characters."""
    parts = [task_type, *values(payload), *values(error), output or "", *values(result)]
    return "\n".join(filter(None, parts))[:MOST_TEXT].replace("\0", " ")


def values(encoded: bytes | str | None) -> Iterator[str]:
    """The texts and numbers in JSON, but for private ones; nothing of what is no JSON or too large."""
    if encoded is None or len(encoded) > LARGEST_JSON:
        return
    try:
        yield from _values(json.loads(encoded))
    except (ValueError, RecursionError):
        return


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode(errors="replace").decode()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, list):
        for part in value:
            yield from _values(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if not _is_private(key):
                yield from _values(part)


@functools.lru_cache(4096)
def _is_private(key: str) -> bool:
    return key.casefold() in _PRIVATE or looks_secret(key)


def words(query: str) -> list[tuple[str, bool]]:
    """The words of a query that all must be found, and whether the beginning of a word is enough.

    That is so for the last one, from three letters on. What holds no letter and no digit is no word.
    """
    text = query.encode(errors="replace").decode().replace("\0", " ")
    found = [word for word in text.split() if any(map(str.isalnum, word))][:MOST_WORDS]
    return [(word, at == len(found) and len(word) >= _PREFIX) for at, word in enumerate(found, 1)]
