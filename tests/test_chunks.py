"""Chunks of several items over several attempts: what runs again, what stays, what the whole is."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.adapter import Ended
from mcp_pools.chunks import still_to_do, whole_chunk
from mcp_pools.distribution import outcomes
from mcp_pools.states import NEVER_RETRIED, judge
from mcp_pools.store import TaskRow

NO: dict[str, Any] = {"error": {"code": "task_error", "message": "no"}}
NEVER: dict[str, Any] = {"error": {"code": "not_allowed", "message": "never"}}


def chunk(items: int, attempt: int = 1, most: int = 1, known: list[dict[str, Any]] | None = None) -> TaskRow:
    """A chunk at one of its attempts; `known` is what earlier ones made of its items."""
    payload = json.dumps({"expression": "x", "items": [f"é{at}" for at in range(items)]}).encode()
    return TaskRow(
        task_id="t_1",
        task_type="compute",
        caller="local",
        created_at=0.0,
        payload=payload,
        items=items,
        attempt=attempt,
        max_attempts=most,
        result=None if known is None else told(*known),
    )


def told(*each: Any) -> bytes:
    """What a type that takes items returns."""
    return json.dumps({"items": each}, separators=(",", ":"), ensure_ascii=False).encode()


def done(result: bytes | None) -> Ended:
    """An attempt that ran to its end."""
    return Ended("t_1.1", None, result)


def kept(ended: Ended) -> list[dict[str, Any]]:
    """The outcomes that an end keeps."""
    found: list[dict[str, Any]] = json.loads(ended.result or b"{}")["items"]
    return found


# One attempt.


@pytest.mark.parametrize(
    "each",
    [
        [{"result": 1}, {"result": [2]}],
        [{"result": {"error": None}}, {"result": 2}],
        [{"result": {"error": {"code": "task_error"}}}, {"result": "error"}],
        [{"result": '"error"'}, {"result": {"result": '"result"'}}],
        [{"result": 1, "error": None}, {"result": None}],
        [{}, {"result": None}],
        [{"value": 1}, {"value": 2}],
    ],
)
def test_a_chunk_all_of_whose_items_succeeded_stands_as_it_is(each: list[Any]) -> None:
    """Whatever their results look like: only an outcome's own `error` is a failure."""
    ended = done(told(*each))
    assert whole_chunk(chunk(2), ended) == ended
    assert [outcome.status for outcome in outcomes("completed", {"items": each}, None, 2)] == [
        "completed",
        "completed",
    ]


def test_a_chunk_with_one_success_has_not_failed() -> None:
    """The failures stand in their places."""
    each = [NO, {"result": 1}, NEVER]
    ended = whole_chunk(chunk(3), done(told(*each)))
    assert ended.code is None and kept(ended) == each


def test_a_chunk_fails_when_all_its_items_have() -> None:
    """With the error of the first; each keeps its own."""
    ended = whole_chunk(chunk(2), done(told(NEVER, NO)))
    assert (ended.code, ended.message, kept(ended)) == ("task_error", "no", [NEVER, NO])
    ended = whole_chunk(chunk(2), done(told(NEVER, NEVER)))
    assert (ended.code, ended.message) == ("not_allowed", "never")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("a bare text", "task_error", "a bare text"),
        ({"message": "no code"}, "task_error", "no code"),
        ({"code": "odd", "message": "a code of its own"}, "task_error", "a code of its own"),
        ({"code": ["odd"]}, "task_error", "It failed."),
        ({}, "task_error", "It failed."),
        (False, "task_error", "False"),
        ({"code": "timeout", "message": None}, "timeout", "It failed."),
    ],
)
def test_however_a_type_tells_of_an_error_it_is_one(error: Any, code: str, message: str) -> None:
    """A user's own type may write what it likes."""
    ended = whole_chunk(chunk(1), done(told({"error": error})))
    assert (ended.code, ended.message) == (code, message)
    assert kept(ended) == [{"error": error}]


@pytest.mark.parametrize(
    "result",
    [
        None,
        b"null",
        b"7",
        b"[]",
        b"{}",
        b'[{"result":1},{"result":2}]',
        b'{"items":null}',
        b'{"items":{}}',
        b'{"items":[]}',
        told({"result": 1}),
        told({"result": 1}, {"result": 2}, {"result": 3}),
        told({"result": 1}, 2),
        told(1, 2),
        told({"result": 1}, None),
        told("error", NO),
        told(NO, NO, NO),
    ],
)
def test_a_type_that_does_not_tell_of_each_item_has_failed_them_all(result: bytes | None) -> None:
    """They are not taken for successes; the error says what is to be returned."""
    ended = whole_chunk(chunk(2), done(result))
    assert ended.code == "task_error"
    assert "'compute'" in ended.message and "each of 2" in ended.message and '"items"' in ended.message
    found = outcomes("failed", json.loads(ended.result or b""), None, 2)
    assert [outcome.status for outcome in found] == ["failed", "failed"]
    assert {(outcome.error or {})["message"] for outcome in found} == {ended.message}


@pytest.mark.parametrize("code", ["worker_lost", "timeout", "task_error", "cancelled", "interrupted"])
def test_an_attempt_that_ended_as_a_whole_ends_a_chunk_so(code: str) -> None:
    """When nothing is known of its items."""
    ended = Ended("t_1.1", code, message="it did", retryable=True, details={"n": 1})
    assert whole_chunk(chunk(2), ended) == ended


# Several attempts.


def test_only_what_failed_runs_again() -> None:
    """The rest of the payload stays; so does the order."""
    row = chunk(4, attempt=1, most=2)
    ended = whole_chunk(row, done(told({"result": 0}, NO, {"result": 2}, NO)))
    assert (ended.code, ended.message) == ("task_error", "no")
    again = json.loads(still_to_do(row.payload, ended.result or b""))
    assert again == {"expression": "x", "items": ["é1", "é3"]}


def test_results_keep_their_place() -> None:
    """What a later attempt makes of an item replaces what an earlier one made of it."""
    row = chunk(4, attempt=2, most=2, known=[{"result": 0}, NO, {"result": 2}, NO])
    ended = whole_chunk(row, done(told({"result": 1}, NEVER)))
    assert ended.code is None
    assert kept(ended) == [{"result": 0}, {"result": 1}, {"result": 2}, NEVER]
    ended = whole_chunk(row, done(told({"result": 1}, {"result": 3})))
    assert ended.code is None and kept(ended) == [{"result": at} for at in range(4)]


@pytest.mark.parametrize("code", sorted(NEVER_RETRIED))
def test_what_another_attempt_would_only_repeat_is_not_tried_again(code: str) -> None:
    """A chunk whose failures are all such stands, though it has attempts left."""
    never = {"error": {"code": code, "message": "never"}}
    row = chunk(2, attempt=1, most=9)
    assert whole_chunk(row, done(told({"result": 1}, never))).code is None
    ended = whole_chunk(row, done(told(never, never)))
    assert ended.code == code
    verdict = judge(ended.code, attempt=1, max_attempts=9, cancelling=False)
    assert verdict.move in ("fail", "cancel")


def test_one_failure_worth_another_attempt_is_enough() -> None:
    """The chunk's code is then that one's, so that it is tried again."""
    ended = whole_chunk(chunk(3, attempt=1, most=2), done(told(NEVER, {"result": 1}, NO)))
    assert (ended.code, ended.message) == ("task_error", "no")
    assert judge(ended.code, attempt=1, max_attempts=2, cancelling=False).move == "retry"


@pytest.mark.parametrize("code", ["worker_lost", "timeout", "interrupted", "result_too_large"])
def test_a_last_attempt_that_ended_as_a_whole_fails_only_what_it_ran(code: str) -> None:
    """What an earlier one has done is done."""
    row = chunk(3, attempt=2, most=2, known=[NO, {"result": 1}, NO])
    ended = whole_chunk(row, Ended("t_1.2", code, message="it did"))
    assert ended.code is None
    first, second, third = kept(ended)
    assert second == {"result": 1} and first == third
    assert first["error"]["code"] == code and first["error"]["message"] == "it did"


def test_an_attempt_that_ended_as_a_whole_is_followed_by_another() -> None:
    """By its own code, which says how soon; the same items are still to do."""
    row = chunk(3, attempt=2, most=3, known=[NO, {"result": 1}, NO])
    ended = whole_chunk(row, Ended("t_1.2", "worker_lost", message="gone"))
    assert ended.code == "worker_lost"
    assert judge(ended.code, attempt=2, max_attempts=3, cancelling=False) == judge(
        "worker_lost", attempt=1, max_attempts=2, cancelling=False
    )
    assert json.loads(still_to_do(row.payload, ended.result or b""))["items"] == ["é0", "é2"]


def test_a_later_attempt_that_tells_of_too_few_fails_only_what_it_ran() -> None:
    """As if it had been lost."""
    row = chunk(3, attempt=2, most=2, known=[NO, {"result": 1}, NO])
    ended = whole_chunk(row, done(told({"result": 0})))
    assert ended.code is None
    first, second, _ = kept(ended)
    assert second == {"result": 1} and "each of 2" in first["error"]["message"]


def test_a_cancelled_chunk_keeps_what_it_had_done() -> None:
    """It is cancelled nevertheless."""
    known = [NO, {"result": 1}]
    ended = whole_chunk(chunk(2, attempt=2, most=3, known=known), Ended("t_1.2", "cancelled"))
    assert ended.code == "cancelled" and kept(ended) == known


ENDS = st.sampled_from(["done", "done", "done", "worker_lost", "timeout", "odd"])
OUTCOMES = st.sampled_from([{"result": 1}, {"result": {"error": "x"}}, NO, NO, NEVER])


@given(items=st.integers(1, 4), most=st.integers(1, 4), data=st.data())
def test_over_any_attempts_each_item_has_its_latest_outcome(
    items: int, most: int, data: st.DataObject
) -> None:
    """Against a model: a list of outcomes, of which an attempt replaces those that failed.

    A chunk whose end is final has failed exactly when all its items have.
    """
    row, model, ran = chunk(items, 0, most), [dict(NO) for _ in range(items)], [0] * items
    while True:
        row.attempt += 1
        payload = row.payload if row.result is None else still_to_do(row.payload, row.result)
        todo = [at for at, outcome in enumerate(model) if outcome.get("error") is not None]
        assert json.loads(payload)["items"] == [f"é{at}" for at in (todo if row.result else range(items))]
        how = data.draw(ENDS)
        new = [data.draw(OUTCOMES) for _ in todo]
        if how == "done":
            ended = whole_chunk(row, done(told(*new)))
        elif how == "odd":
            new, ended = [NO] * len(todo), whole_chunk(row, done(told(*new, {"result": 1})))
        else:
            new = [{"error": {"code": how}}] * len(todo)
            ended = whole_chunk(row, Ended("t_1.1", how, message="it did"))
        for at, outcome in zip(todo, new, strict=True):
            model[at], ran[at] = outcome, ran[at] + 1
        verdict = judge(ended.code, attempt=row.attempt, max_attempts=most, cancelling=False)
        if verdict.move != "retry":
            break
        row = replace(row, result=ended.result)
    assert row.attempt <= most and max(ran) == row.attempt
    failed = [outcome.get("error") is not None for outcome in model]
    assert (ended.code is not None) == all(failed)
    status: Any = {"complete": "completed", "time_out": "timed_out", "fail": "failed"}[verdict.move]
    result = None if ended.result is None else json.loads(ended.result)
    shown = outcomes(status, result, {"code": ended.code}, items)
    assert [outcome.status != "completed" for outcome in shown] == failed
    assert [outcome.result for outcome in shown] == [outcome.get("result") for outcome in model]
    codes = [(outcome.error or {}).get("code") for outcome in shown]
    assert codes == [outcome.get("error", {}).get("code") for outcome in model]
