"""Cutting results: whatever they hold, they fit, and `next` leads through all of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_pools.present import part_of
from mcp_pools.shortening import CHARACTERS, encoded, fitting, shortened

TOKENS = 1000
MOST = TOKENS * CHARACTERS

texts = st.text(max_size=20) | st.integers(0, 9000).map(lambda size: "é\x00x" * size)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.integers(0, 3000).map(lambda count: [{"n": each} for each in range(count)])
    ),
    max_leaves=8,
)
errors = st.none() | st.fixed_dictionaries(
    {"code": st.just("task_error"), "message": texts, "details": st.dictionaries(texts, values, max_size=3)}
)


def task(result: Any, **fields: Any) -> dict[str, Any]:
    """A task as it goes over the wire, as far as it matters here."""
    ended = {"task_id": "t_1", "status": "completed", "result": result, "result_uri": None}
    return {**ended, "output_tail": None, "error": None, "next": None, **fields}


def distribution(results: list[Any], reduced: Any = None, **fields: Any) -> dict[str, Any]:
    """A distribution as it goes over the wire, as far as it matters here."""
    items = [
        {"index": at, "task_id": "t_1", "result": each, "error": None} for at, each in enumerate(results)
    ]
    whole = {"distribution_id": "d_1", "total": len(items), "pools": {"local": len(items)}, "next": None}
    return {**whole, "results": items, "reduced": reduced, "error": None, **fields}


@given(values, st.none() | texts, errors)
@settings(deadline=None)
def test_every_task_fits(result: Any, output: str | None, error: Any) -> None:
    """Whatever it returned and printed, however it failed; one that is short stays as it is."""
    whole = task(result, output_tail=output, error=error)
    short = shortened(whole, TOKENS).result
    assert len(encoded(short)) <= MOST
    assert short.keys() == whole.keys()
    assert (short is whole) == (len(encoded(whole)) <= MOST)
    if short["result"] != result:
        assert short["result_uri"] == "pools://tasks/t_1/result" and short["next"].startswith("pool_task(")


@given(st.lists(values, max_size=40), values, st.dictionaries(texts, st.integers(), max_size=4))
@settings(deadline=None)
def test_every_distribution_fits(results: list[Any], reduced: Any, pools: dict[str, int]) -> None:
    """The items that are shown are the first ones, in order, each whole."""
    whole = distribution(results, reduced, pools=pools)
    short = shortened(whole, TOKENS).result
    assert len(encoded(short)) <= MOST
    shown = short["results"]
    assert shown == whole["results"][: len(shown)] or (len(shown) == 1 and shown[0].get("result") is None)
    assert len(shown) == len(results) or "pool_task(" in short["next"]
    assert short["next"] != ""
    assert short["reduced"] == reduced or "pools://tasks/d_1/result" in short["next"]


@given(st.dictionaries(st.sampled_from("abcde"), values, max_size=5))
@settings(deadline=None)
def test_everything_else_fits(result: dict[str, Any]) -> None:
    """Lists of rows, mappings from names to rows, and what no tool returns."""
    short = shortened(result, TOKENS)
    assert len(encoded(short.result)) <= MOST
    assert short.note is None or short.result != result


@pytest.mark.parametrize("whole", [list(range(5000)), "aé\n" * 5000], ids=["list", "text"])
def test_next_leads_through_a_long_result(whole: Any) -> None:
    """Following `offset` and `limit` gives every piece once."""
    pieces, arguments = [], {}
    while True:
        part = part_of(whole, select=None, offset=arguments.get("offset", 0), limit=None)
        short = shortened(task(part), TOKENS, arguments).result
        pieces.append(short["result"])
        if short["next"] is None:
            break
        offset, limit = re.findall(r'^pool_task\(task_id="t_1", offset=(\d+), limit=(\d+)\)$', short["next"])[
            0
        ]
        assert int(limit) == len(short["result"])
        arguments = {"offset": int(offset)}
    assert len(pieces) > 2
    assert [each for piece in pieces for each in piece] == list(whole)


@pytest.mark.parametrize(
    ("result", "arguments", "select"),
    [
        ({"a": "x" * MOST}, {}, "keys(@)"),
        ({"a": "x" * MOST}, {"select": "b"}, "b | keys(@)"),
        ([{"a": "x" * MOST}], {}, "[0]"),
        ([{"a": "x" * MOST}], {"select": "b", "offset": 7}, "b | [7]"),
    ],
)
def test_what_cannot_be_cut_is_left_out_and_asked_about(result: Any, arguments: Any, select: str) -> None:
    """`next` selects a part; it is an expression that the tool understands."""
    short = shortened(task(result), TOKENS, arguments).result
    assert not short["result"]
    assert short["next"] == f'pool_task(task_id="t_1", select="{select}")'
    assert part_of({"b": {"c": 1}, "d": 2}, select=select, offset=0, limit=None) in (["c"], ["b", "d"], None)


def test_a_distribution_that_runs_says_how_to_wait_first() -> None:
    """Waiting makes sense before reading on."""
    wait = 'pool_task(task_id="d_1", wait_seconds=30)'
    short = shortened(distribution(["x" * 100] * 100, next=wait), TOKENS, {"offset": 5}).result
    shown = len(short["results"])
    assert short["next"] == f'{wait}; pool_task(task_id="d_1", offset={5 + shown}, limit={shown})'


def test_one_item_that_is_too_long_is_asked_about() -> None:
    """It stands in its place without its result."""
    short = shortened(distribution([{"a": "x" * MOST}, 1]), TOKENS).result
    assert [(each["index"], each["result"]) for each in short["results"]] == [(0, None)]
    assert short["next"] == (
        'pool_task(task_id="d_1", select="keys(@)", offset=0, limit=1); then '
        'pool_task(task_id="d_1", offset=1)'
    )


def test_one_error_that_is_too_long_does_not_stop_reading_on() -> None:
    """There is nothing to select in an error."""
    whole = distribution([None, 1])
    whole["results"][0]["error"] = {"code": "task_error", "message": "x" * MOST}
    short = shortened(whole, TOKENS).result
    assert short["results"][0]["error"]["message"] and short["next"] == 'pool_task(task_id="d_1", offset=1)'


def test_a_fold_that_is_too_long_is_left_out_before_the_items() -> None:
    """`concat` says the same as the items do."""
    short = shortened(distribution(["x" * 100] * 5, reduced=["x" * 100] * 500), TOKENS).result
    assert len(short["results"]) == 5 and short["reduced"] is None
    assert short["next"] == "reduced was left out: read pools://tasks/d_1/result"


def test_a_list_of_pools_says_how_much_it_shows() -> None:
    """What has no `next` gets a note."""
    pools = [{"name": f"p{at}", "labels": {"x": "y" * 20}} for at in range(500)]
    short = shortened({"pools": pools, "total": 500}, TOKENS)
    count = len(short.result["pools"])
    assert short.result["pools"] == pools[:count] and 0 < count < 500
    assert short.note == f"pools shows the first {count} of 500."


@given(st.lists(values, max_size=10), st.integers(2, 200))
@settings(deadline=None)
def test_fitting_counts_what_a_list_holds(entries: list[Any], most: int) -> None:
    """As many as fit, and one more would not."""
    count = fitting(entries, most)
    assert len(encoded(entries[:count])) <= most or not count
    assert count == len(entries) or len(encoded(entries[: count + 1])) > most
