"""`{item}` and `{item.key}` in texts, filled with an item's values. Pure; standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_pools.errors import PoolsError

_PLACE = re.compile(r"\{item((?:\.[^{}.]+)*)\}")


def fill_words(words: Sequence[str], item: Any) -> list[str]:
    """`words` with each `{item}` and `{item.key}` replaced; other braces stay as they are.

    Text goes in as it is, anything else as JSON; what was filled in is never looked at again.

    Raises:
        PoolsError: `invalid_payload` when the item has no such key, or holds what is no JSON.
    """
    return [_filled(word, item) for word in words]


def fill(value: Any, item: Any, *, whole: bool) -> Any:
    """A JSON value with the placeholders in its texts, at any depth, replaced as `fill_words` does.

    Args:
        whole: a text that is nothing but one placeholder becomes the item's value itself
            instead of its text.

    Raises:
        PoolsError: `invalid_payload` when the item has no such key, or holds what is no JSON.
    """
    if isinstance(value, str):
        alone = _PLACE.fullmatch(value) if whole else None
        return _value(item, alone[1]) if alone else _filled(value, item)
    if isinstance(value, dict):
        return {key: fill(part, item, whole=whole) for key, part in value.items()}
    if isinstance(value, list):
        return [fill(part, item, whole=whole) for part in value]
    return value


def _filled(text: str, item: Any) -> str:
    if "{item" not in text:
        return text
    return _PLACE.sub(lambda place: _as_text(_value(item, place[1])), text)


def _value(item: Any, keys: str) -> Any:
    value = item
    for key in keys.split(".")[1:]:
        if not isinstance(value, Mapping) or key not in value:
            raise PoolsError(
                "invalid_payload",
                f"The item {_shown(item)} has no {key!r}, which '{{item{keys}}}' asks for.",
                "Give every item that key, or take the placeholder out.",
            )
        value = value[key]
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        message = f"The item's {_shown(value)} cannot be written as JSON: {error}."
        raise PoolsError("invalid_payload", message, "Use finite numbers and valid text.") from None


def _shown(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 80 else text[:79] + "…"
