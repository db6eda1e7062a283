"""What stands in braces, and what is filled in for it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.errors import PoolsError
from mcp_pools.filling import fill, fill_words

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ITEM = {"a": {"b": "x", "": "nothing"}, "n": 7, "none": None, "list": [1, "é"], "to": "{item.n}"}


def as_text(value: Any) -> str:
    """How a value stands within a text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# A placeholder alone.


@given(VALUES)
def test_a_placeholder_alone_becomes_the_item_itself(item: Any) -> None:
    """Of any type; where text is wanted, its text."""
    assert fill("{item}", item, whole=True) == item
    assert type(fill("{item}", item, whole=True)) is type(item)
    assert fill("{item}", item, whole=False) == as_text(item)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{item.n}", 7),
        ("{item.none}", None),
        ("{item.list}", [1, "é"]),
        ("{item.a}", {"b": "x", "": "nothing"}),
        ("{item.a.b}", "x"),
        ("{item.to}", "{item.n}"),
    ],
)
def test_so_does_a_value_by_its_keys(text: str, value: Any) -> None:
    """At any depth; what was filled in is never looked at again."""
    assert fill(text, ITEM, whole=True) == value
    assert fill(text, ITEM, whole=False) == as_text(value)


@given(VALUES)
def test_a_placeholder_among_other_text_becomes_text(item: Any) -> None:
    """Also when only a blank or a line end stands beside it, or another placeholder."""
    text = as_text(item)
    for before, after in (("<", ">"), ("", " "), ("\n", ""), ("", "\n")):
        assert fill(f"{before}{{item}}{after}", item, whole=True) == f"{before}{text}{after}"
    assert fill("{item}{item}", item, whole=True) == text * 2


# Anywhere in a payload.


def test_texts_are_filled_at_any_depth_and_keys_are_not_touched() -> None:
    """Numbers, true, false and null neither; the template stays as it was."""
    template = {"{item}": ["{item.n}", {"{item.n}": ["-{item.n}-", 1, None, True, 1.5]}], "x": {}}
    before = json.dumps(template)
    assert fill(template, ITEM, whole=True) == {
        "{item}": [7, {"{item.n}": ["-7-", 1, None, True, 1.5]}],
        "x": {},
    }
    assert fill(template, ITEM, whole=False) == {
        "{item}": ["7", {"{item.n}": ["-7-", 1, None, True, 1.5]}],
        "x": {},
    }
    assert json.dumps(template) == before


@given(template=VALUES, item=VALUES)
def test_without_a_placeholder_nothing_changes(template: Any, item: Any) -> None:
    """Whatever the payload and the item."""
    if "{item" not in json.dumps(template):
        assert fill(template, item, whole=True) == template == fill(template, item, whole=False)


@pytest.mark.parametrize(
    "text",
    [
        "{items}",
        "{item.}",
        "{item..a}",
        "{item.a.}",
        "{ item }",
        "{item }",
        "{Item}",
        "{item[0]}",
        "{item:>5}",
        "{item!r}",
        "{item",
        "item}",
        "{}",
        "{0}",
        "$item ${item_id} %(item)s",
        "{itemise.a}",
    ],
)
def test_other_braces_stay_as_they_are(text: str) -> None:
    """They are the program's own."""
    assert fill(text, ITEM, whole=True) == text == fill(text, ITEM, whole=False)
    assert fill_words([text], ITEM) == [text]


def test_braces_around_a_placeholder_stay() -> None:
    """Only the innermost ones are its own."""
    assert fill("{{item.n}}", ITEM, whole=True) == "{7}"
    assert fill('{"n": {item.n}}', ITEM, whole=True) == '{"n": 7}'
    assert fill("{item.a.{item.n}}", ITEM, whole=True) == "{item.a.7}"


def test_keys_are_any_text_without_dots_and_braces() -> None:
    """Blanks, signs, other alphabets."""
    item = {"a b": 1, "é-/$": {"日本": 2}, "0": 3}
    assert fill(["{item.a b}", "{item.é-/$.日本}", "{item.0}"], item, whole=True) == [1, 2, 3]


# Keys that are not there.


@pytest.mark.parametrize(
    ("text", "item", "key"),
    [
        ("{item.x}", {}, "x"),
        ("a {item.a.x} b", {"a": {"b": 1}}, "x"),
        ("{item.a.b.c}", {"a": {"b": 1}}, "c"),
        ("{item.a}", "text", "a"),
        ("{item.0}", [1, 2], "0"),
        ("{item.a}", None, "a"),
    ],
)
def test_a_missing_key_is_named_with_its_item(text: str, item: Any, key: str) -> None:
    """Whether the placeholder stands alone or not; texts and lists have no keys."""
    for whole in (True, False):
        with pytest.raises(PoolsError) as refused:
            fill([1, {"deep": text}], item, whole=whole)
        assert refused.value.code == "invalid_payload" and refused.value.next
        assert repr(key) in refused.value.message and repr(item) in refused.value.message
        assert "{item." in refused.value.message


def test_a_long_item_is_shown_in_part() -> None:
    """A message stays a line."""
    with pytest.raises(PoolsError) as refused:
        fill("{item.x}", {"a": "long " * 1000}, whole=True)
    assert len(refused.value.message) < 200 and "…" in refused.value.message


@pytest.mark.parametrize("item", [float("nan"), [float("inf")], object(), {1, 2}])
def test_what_is_no_json_is_no_text(item: Any) -> None:
    """Calls from Python come with anything."""
    with pytest.raises(PoolsError, match="cannot be written as JSON") as refused:
        fill("<{item}>", item, whole=True)
    assert refused.value.code == "invalid_payload"
