"""`{item}`, `{item.key}` and other named placeholders in texts, filled with values. Pure; standard library
only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mcp_pools.errors import PoolsError


def fill_words(words: Sequence[str], item: Any) -> list[str]:
    """`words` with each `{item}` and `{item.key}` replaced; other braces stay as they are.

    Text goes in as it is, anything else as JSON; what was filled in is never looked at again.

    Raises:
        PoolsError: `invalid_payload` when the item has no such key, or holds what is no JSON.
    """
    values = {"item": item}
    return [_filled(word, values) for word in words]


def fill(value: Any, item: Any, *, whole: bool) -> Any:
    """A JSON value with the placeholders in its texts, at any depth, replaced as `fill_words` does.

    Args:
        whole: a text that is nothing but one placeholder becomes the item's value itself
            instead of its text.

    Raises:
        PoolsError: `invalid_payload` when the item has no such key, or holds what is no JSON.
    """
    return fill_named(value, {"item": item}, whole=whole)


def fill_named(value: Any, values: Mapping[str, Any], *, whole: bool) -> Any:
    """The same with several things by name: `{payload.key}`, `{task}`. Raises as `fill` does."""
    if isinstance(value, str):
        alone = _place(tuple(values)).fullmatch(value) if whole else None
        return _value(values, alone) if alone else _filled(value, values)
    if isinstance(value, dict):
        return {key: fill_named(part, values, whole=whole) for key, part in value.items()}
    if isinstance(value, list):
        return [fill_named(part, values, whole=whole) for part in value]
    return value


@cache
def _place(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\{{({'|'.join(map(re.escape, names))})((?:\.[^{{}}.]+)*)\}}")


def _filled(text: str, values: Mapping[str, Any]) -> str:
    if "{" not in text:
        return text
    return _place(tuple(values)).sub(lambda place: _as_text(_value(values, place), place[1]), text)


def _value(values: Mapping[str, Any], place: re.Match[str]) -> Any:
    name, keys = place[1], place[2]
    value = values[name]
    for key in keys.split(".")[1:]:
        if not isinstance(value, Mapping) or key not in value:
            raise PoolsError(
                "invalid_payload",
                f"The {name} {_shown(values[name])} has no {key!r}, which '{{{name}{keys}}}' asks for.",
                f"Give every {name} that key, or take the placeholder out.",
            )
        value = value[key]
    return value


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        message = f"The {name}'s {_shown(value)} cannot be written as JSON: {error}."
        raise PoolsError("invalid_payload", message, "Use finite numbers and valid text.") from None


def _shown(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 80 else text[:79] + "…"
