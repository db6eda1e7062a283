"""From one call to the payloads of many parts: `mcp_pools.intake`, with the real task types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools import Settings, plugins
from mcp_pools.distribution import split
from mcp_pools.errors import PoolsError
from mcp_pools.intake import Intake, new_id, new_ids
from mcp_pools.models import Caller

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
CALLER = Caller(cwd="/")


def intake_of(**keys: Any) -> Intake:
    """The intake of a configuration; it needs no home that exists."""
    settings = Settings(home="/nowhere", **keys)
    return Intake(settings, plugins.task_types(settings))


INTAKE = intake_of(allow={"hosts": ["*"]})


def chunked(payload: dict[str, Any], size: int, task_type: str = "compute", intake: Intake = INTAKE) -> Any:
    """A payload in chunks of a size."""
    return intake.chunks(intake.task_types[task_type], payload, CALLER, lambda items: split(items, size))


def filled(payload: dict[str, Any], task_type: str = "echo", intake: Intake = INTAKE) -> list[Any]:
    """A payload for each item."""
    parts = intake.filled_items(intake.task_types[task_type], payload, CALLER)
    assert parts.items == [None] * len(parts.payloads)
    return [json.loads(part) for part in parts.payloads]


def refused(code: str, work: Any, *given: Any, **named: Any) -> PoolsError:
    """How something is refused; it always says what to do next."""
    with pytest.raises(PoolsError) as refusal:
        work(*given, **named)
    assert refusal.value.code == code and refusal.value.next, refusal.value
    return refusal.value


# Ids.


@given(st.integers(0, 300))
def test_ids_made_together_are_different_and_sort_as_they_came(count: int) -> None:
    """Each begins with its kind; they are as long as a single one."""
    ids = new_ids("t", count)
    assert len(set(ids)) == count == len(ids) and sorted(ids) == ids
    assert {len(each) for each in ids} <= {len(new_id("t"))}
    assert all(each.startswith("t_") for each in ids)


def test_an_ids_random_part_is_its_own() -> None:
    """Nobody guesses one from another that was made with it."""
    tails = [each[-18:] for each in new_ids("d", 1000)]
    assert len(set(tails)) == 1000


# Chunks.


@given(items=st.lists(VALUES, min_size=1, max_size=30), size=st.integers(1, 40))
def test_chunks_hold_each_item_once_in_order_and_all_the_rest(items: list[Any], size: int) -> None:
    """What is beside the items is in every chunk; each says how many it holds."""
    payload = {"expression": "x * k", "variables": {"k": [2, {"é": None}]}, "items": items}
    parts = chunked(payload, size)
    whole = [json.loads(part) for part in parts.payloads]
    assert [item for part in whole for item in part["items"]] == items
    assert (
        [len(part["items"]) for part in whole] == parts.items == [len(run) for run in split(len(items), size)]
    )
    assert all({**part, "items": items} == payload for part in whole)


def test_chunks_are_judged_as_the_whole_would_be(home: Path) -> None:
    """Paths of every item, under the caller's roots, which are kept with them."""
    (home / "a.py").write_text("x = 1")
    (home / "b.py").write_text("y = 2")
    caller, kind = Caller(cwd=str(home)), INTAKE.task_types["analyze"]
    parts = INTAKE.chunks(kind, {"items": ["a.py", "b.py"]}, caller, lambda items: split(items, 1))
    real = str(home.resolve())
    assert [json.loads(part)["items"] for part in parts.payloads] == [[f"{real}/a.py"], [f"{real}/b.py"]]
    assert parts.roots == (real,)
    outside = {"items": ["a.py", "/etc/passwd"]}
    refusal = refused("not_allowed", INTAKE.chunks, kind, outside, caller, lambda items: split(items, 1))
    assert "/etc/passwd" in refusal.message


@pytest.mark.parametrize("items", [None, [], "abc", {"a": 1}])
def test_without_items_there_are_no_parts(items: Any) -> None:
    """Whether the type takes items or not."""
    payload = {"expression": "x"} | ({} if items is None else {"items": items})
    assert "'items'" in refused("invalid_payload", chunked, payload, 1).message
    assert "'items'" in refused("invalid_payload", filled, payload).message


def test_a_wrong_payload_is_refused_before_it_is_split() -> None:
    """With the field's name, once."""
    assert "expresion" in refused("invalid_payload", chunked, {"expresion": "x", "items": [1]}, 1).message
    assert (
        "not an expression"
        in refused("invalid_payload", chunked, {"expression": "x +", "items": [1]}, 1).message
    )


# An item each.


@given(items=st.lists(VALUES, min_size=1, max_size=10))
def test_a_type_that_takes_no_items_gets_each_by_itself(items: list[Any]) -> None:
    """Alone it is itself, in a text it is text; the items' key is gone."""
    payload = {"a": ["{item}", "<{item}>"], "b": {"{item}": 1}, "items": items}
    for item, part in zip(items, filled(payload), strict=True):
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False, separators=(",", ":"))
        assert part == {"a": [item, f"<{text}>"], "b": {"{item}": 1}}


def test_where_a_type_wants_text_an_item_is_its_text() -> None:
    """A number for a URL's last part is no reason to refuse it."""
    payload = {"url": "https://example.org/", "json": {"n": "{item.n}"}, "method": "POST"}
    found = filled(payload | {"items": [{"n": 1}, {"n": [2]}]}, "http")
    assert [part["json"] for part in found] == [{"n": 1}, {"n": [2]}]
    found = filled({"url": "{item}", "items": ["https://example.org/a"]}, "http")
    assert found[0]["url"] == "https://example.org/a"
    asked = {"function": "m:f", "kwargs": {"n": "{item}"}, "items": [7, None]}
    intake = intake_of(allow={"python": ["*"]})
    assert [part["kwargs"] for part in filled(asked, "python", intake)] == [{"n": 7}, {"n": None}]
    allowing = intake_of(allow={"commands": ["*"]})
    found = filled({"argv": ["true", "{item}", "-{item}"], "items": [7, [1, "é"]]}, "command", allowing)
    assert [part["argv"][1:] for part in found] == [["7", "-7"], ['[1,"é"]', '-[1,"é"]']]


def test_each_item_is_judged_by_itself() -> None:
    """What one of them makes of the payload is not allowed because another's was; it is named."""
    intake = intake_of(allow={"commands": ["true *", "true"]})
    payload = {"argv": ["{item.program}", "x"], "items": [{"program": "true"}, {"program": "ls"}]}
    refusal = refused("not_allowed", filled, payload, "command", intake)
    assert refusal.message.startswith("Item 1: ") and "ls" in refusal.message


def test_an_item_that_does_not_fit_is_named() -> None:
    """A key it lacks, or a value its type cannot take."""
    refusal = refused("invalid_payload", filled, {"x": "{item.a}", "items": [{"a": 1}, {"b": 2}]})
    assert refusal.message.startswith("Item 1: ") and "'a'" in refusal.message
    refusal = refused("invalid_payload", filled, {"seconds": "{item}", "items": [0, 1.5, "soon"]}, "sleep")
    assert refusal.message.startswith("Item 2: ") and "seconds" in refusal.message
    refusal = refused("invalid_payload", filled, {"seconds": "{item}", "items": [{"s": 1}]}, "sleep")
    assert refusal.message.startswith("Item 0: ") and "'s': 1" in refusal.message


def test_no_item_brings_in_a_secret() -> None:
    """Neither a plain one under whatever key, nor one that is not in the configuration."""
    url = {"url": "https://example.org/"}
    for payload in (
        {"headers": {"authorization": "{item}"}, "items": ["hush"]},
        {"headers": "{item}", "items": [{"authorization": "hush"}]},
        {"json": {"x": "{item.token}"}, "items": [{"token": "hush"}]},
    ):
        refusal = refused("invalid_payload", filled, url | payload, "http")
        assert "$secret" in refusal.next and "hush" not in str(refusal)
    intake = intake_of(allow={"hosts": ["*"]}, secrets={"MINE": {"env": "MINE"}})
    for payload in (
        {"headers": {"authorization": {"$secret": "{item}"}}, "items": ["MINE"]},
        {"json": {"x": "{item}"}, "items": [{"$secret": "OTHER"}]},
    ):
        refused("not_allowed", filled, url | payload, "http", intake)
    known = {"json": {"x": "{item}"}, "items": [{"$secret": "MINE"}]}
    assert filled({**url, **known, "method": "POST"}, "http", intake)[0]["json"] == {"x": {"$secret": "MINE"}}


# One for all.


def test_a_broadcast_is_the_payload_as_it_is() -> None:
    """With its items, with its braces; judged once."""
    payload = {"items": [1, 2], "text": "{item}"}
    parts = INTAKE.whole(INTAKE.task_types["echo"], payload, CALLER)
    assert [json.loads(part) for part in parts.payloads] == [payload] and parts.items == [None]
    refused("not_allowed", INTAKE.whole, INTAKE.task_types["command"], {"argv": ["true"]}, CALLER)


# Sizes.


def test_parts_that_are_too_large_together_are_refused() -> None:
    """Though each of them is small; as one chunk they would fit."""
    intake = intake_of(max_payload_bytes=2000)
    payload = {"expression": "x", "variables": {"k": "v" * 500}, "items": [1, 2, 3, 4]}
    assert len(chunked(payload, 4, intake=intake).payloads) == 1
    refusal = refused("invalid_payload", chunked, payload, 1, intake=intake)
    assert "together" in refusal.message and "2000" in refusal.message
    refusal = refused("invalid_payload", filled, {"a": "v" * 900, "items": [1, 2, 3]}, "echo", intake)
    assert "together" in refusal.message


def deep(levels: int) -> Any:
    """Lists in lists."""
    whole: Any = []
    for _ in range(levels):
        whole = [whole]
    return whole


@pytest.mark.parametrize("items", [["\ud800"], [deep(100_000)], [object()]])
def test_items_that_json_cannot_hold_are_refused(items: list[Any]) -> None:
    """Calls from Python come with anything."""
    refused("invalid_payload", chunked, {"expression": "x", "items": items}, 1)
    refused("invalid_payload", filled, {"x": "{item}", "items": items})
    refused("invalid_payload", filled, {"x": "<{item}>", "items": items})
