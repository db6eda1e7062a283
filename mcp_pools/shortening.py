"""Results cut to what a model's context can take. Pure.

A result is measured as the compact JSON that goes over the wire; four characters count as
one token. One that is short enough stays as it is. Of a longer one

- a task keeps what it is, the beginning of a list or text as its result, and `result_uri`;
- a distribution keeps its first items, in their order, each whole;
- any other keeps the beginning of its longest lists, and a note says what is missing.

`next` (or the note) names the call that has the rest. Nothing that came from outside
is ever put into either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

CHARACTERS: Final = 4
"""Of a token: what English and JSON come to, about."""

_LONGEST_FIELD: Final = 500
"""Characters of a message, an error or labels in a result that is too long even without its lists."""
_LONGEST_SELECT: Final = 200
"""Characters of an expression that `next` repeats."""
_ROOM_FOR_NEXT: Final = 1000
"""Characters kept free for `next` and `result_uri`."""


@dataclass(frozen=True, slots=True)
class Shortened:
    """A result that fits, and what was left out of one that cannot say so itself (no `next`)."""

    result: dict[str, Any]
    note: str | None = None


def encoded(value: Any) -> str:
    """A value as it goes over the wire: compact JSON."""
    return to_json(value, inf_nan_mode="null").decode()


def shortened(result: dict[str, Any], tokens: int, arguments: Mapping[str, Any] | None = None) -> Shortened:
    """A tool's result within `tokens`; `arguments` are those of the call, for `next` to go on from.

    `tokens` must leave room for what a result is without its lists and texts: 1,000 do.
    """
    most = tokens * CHARACTERS
    if len(encoded(result)) <= most:
        return Shortened(result)
    asked = arguments or {}
    if "distribution_id" in result and "results" in result:
        return Shortened(_distribution(result, most, asked))
    if "task_id" in result and "result" in result:
        return Shortened(_task(result, most, asked))
    return _other(result, most)


def fitting(values: list[Any], most: int) -> int:
    """How many of the first `values` are, as a JSON list, at most `most` characters."""
    size = 2
    for count, value in enumerate(values):
        size += len(encoded(value)) + 1
        if size - 1 > most:
            return count
    return len(values)


def _task(task: dict[str, Any], most: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The result gives way first, then the output, then what is left."""
    kept = task | {"result": None, "output_tail": None}
    kept = kept if len(encoded(kept)) <= most // 2 else _clipped(kept)
    room = most - len(encoded(kept)) - _ROOM_FOR_NEXT
    kept["output_tail"] = _end(task["output_tail"], room // 2)
    room -= len(encoded(kept["output_tail"]))
    whole = task["result"]
    if len(encoded(whole)) <= room:
        return kept | {"result": whole}
    part = _beginning(whole, room)
    uri = f"pools://tasks/{task['task_id']}/result"
    return kept | {"result": part, "result_uri": uri, "next": _rest(task["task_id"], whole, part, asked)}


def _rest(task_id: str, whole: Any, part: Any, asked: Mapping[str, Any]) -> str:
    """The call that has what a task's result does not show."""
    selected, start = asked.get("select"), asked.get("offset") or 0
    if part:
        behind = start + len(part)
        limit = len(part)
        return f"pool_task({_arguments(task_id, selected)}, offset={behind}, limit={limit})"
    if isinstance(whole, list):  # its first item is too long by itself; `select` comes before `offset`
        return f"pool_task({_arguments(task_id, selected, f'[{start}]')})"
    return f"pool_task({_arguments(task_id, selected, _question(whole))})"


def _question(value: Any) -> str:
    """A JMESPath expression that shows what there is to select in a value that is too long."""
    return "keys(@)" if isinstance(value, dict) else "length(@)"


def _arguments(task_id: str, *selects: str | None) -> str:
    select = " | ".join(each for each in selects if each)
    if not select:
        return f'task_id="{task_id}"'
    said = json.dumps(select) if len(select) <= _LONGEST_SELECT else "(the same)"
    return f'task_id="{task_id}", select={said}'


def _distribution(whole: dict[str, Any], most: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The fold gives way when it takes more than half, then the last items."""
    kept = whole | {"results": [], "reduced": None}
    kept = kept if len(encoded(kept)) <= most // 2 else _clipped(kept)
    room = most - len(encoded(kept)) - _ROOM_FOR_NEXT
    said = []
    if len(encoded(whole["reduced"])) <= room // 2:
        kept["reduced"] = whole["reduced"]
        room -= len(encoded(kept["reduced"]))
    else:
        said.append(f"reduced was left out: read pools://tasks/{whole['distribution_id']}/result")
    items = whole["results"]
    count = fitting(items, room)
    kept["results"] = items[:count]
    if count < len(items):
        said.insert(0, _more_items(whole["distribution_id"], items, count, asked))
        if not count:
            kept["results"] = [_clip(items[0] | {"result": None}, _LONGEST_FIELD)]
    waits = [whole["next"]] if whole["next"] else []
    return kept | {"next": "; ".join(waits + said) or None}


def _more_items(distribution_id: str, items: list[Any], count: int, asked: Mapping[str, Any]) -> str:
    """The call that has the items behind the first `count`; when not even one fits, what asks about it."""
    start, selected = asked.get("offset") or 0, asked.get("select")
    if count:
        return f"pool_task({_arguments(distribution_id, selected)}, offset={start + count}, limit={count})"
    rest = f"pool_task({_arguments(distribution_id, selected)}, offset={start + 1})"
    question = _arguments(distribution_id, selected, _question(items[0]["result"]))
    first = f"pool_task({question}, offset={start}, limit=1)"
    long = len(encoded(items[0]["result"])) > _LONGEST_FIELD  # else it is the error that is
    return "; then ".join([first] * long + [rest] * (len(items) > 1))


def _other(result: dict[str, Any], most: int) -> Shortened:
    """Cut the longest list or mapping until all fits, then the texts."""
    kept, notes = dict(result), []
    most -= _ROOM_FOR_NEXT
    parts = {name: len(encoded(value)) for name, value in result.items() if isinstance(value, list | dict)}
    for name in sorted(parts, key=lambda name: -parts[name]):
        size = len(encoded(kept))
        if size <= most:
            break
        kept[name] = _first(result[name], most - (size - parts[name]))
        notes.append(f"{name} shows the first {len(kept[name])} of {len(result[name])}.")
    kept = kept if len(encoded(kept)) <= most else _clipped(kept)
    return Shortened(kept, " ".join(notes) or None)


def _first(value: Any, most: int) -> Any:
    """The first entries of a list or mapping; of a list at least one, however little of it fits."""
    if isinstance(value, dict):
        pairs = list(value.items())
        return dict(pairs[: fitting([{name: each} for name, each in pairs], most)])
    count = fitting(value, most)
    return value[:count] if count else [_clip(each, _LONGEST_FIELD) for each in value[:1]]


def _beginning(value: Any, most: int) -> Any:
    """As much of a result's beginning as `most` characters hold, or `None`: half an object is misread."""
    if isinstance(value, list):
        return value[: fitting(value, most)]
    return value[: _characters(value, most)] if isinstance(value, str) else None


def _characters(text: str, most: int) -> int:
    """How many of a text's first characters are, as JSON, at most `most` characters."""
    low, high = 0, max(0, min(len(text), most - 2))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(encoded(text[:middle])) <= most else (low, middle - 1)
    return low


def _end(text: str | None, most: int) -> str | None:
    """The end of a text."""
    if text is None or len(encoded(text)) <= most:
        return text
    count = _characters(text[::-1], most)
    return text[-count:] if count else ""


def _clipped(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields, none of them long."""
    return {name: _clip(value, _LONGEST_FIELD) for name, value in fields.items()}


def _clip(value: Any, most: int) -> Any:
    """A value within `most` characters: a text's beginning, the first entries of the rest."""
    if len(encoded(value)) <= most:
        return value
    if isinstance(value, dict):
        return _first({name: _clip(each, most // 2) for name, each in value.items()}, most)
    return _beginning(value, most)
