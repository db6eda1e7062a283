"""`transform` applies JMESPath, to one document or to each of several."""

from typing import Any

import pytest
from pydantic import ValidationError

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import transform
from mcp_pools.task_types.catalog import TRANSFORM


@pytest.mark.parametrize(
    ("expression", "data", "value"),
    [
        ("name", {"name": "Ada"}, "Ada"),
        (
            "people[?age > `30`].name",
            {"people": [{"name": "Ada", "age": 36}, {"name": "B", "age": 3}]},
            ["Ada"],
        ),
        ("{n: length(@)}", [1, 2], {"n": 2}),
        ("missing", {}, None),
        ("@", None, None),
    ],
)
def test_the_table_of_values(context: Any, expression: str, data: Any, value: Any) -> None:
    """What an expression selects."""
    assert transform.run({"expression": expression, "data": data}, context) == {"value": value}


def test_each_item_has_its_own_outcome(context: Any) -> None:
    """An item that does not fit spoils no other."""
    result = transform.run({"expression": "abs(n)", "items": [{"n": -1}, {"n": "x"}, {"n": 2}]}, context)
    assert [outcome.get("result") for outcome in result["items"]] == [1, None, 2]
    assert result["items"][1]["error"]["code"] == "task_error"
    assert "abs" in result["items"][1]["error"]["message"]


@pytest.mark.parametrize("expression", ["to_number('inf')", "&name", "nothing(@)", "sum(@)"])
def test_what_json_cannot_hold_or_does_not_fit_fails(context: Any, expression: str) -> None:
    """The message names the expression."""
    with pytest.raises(PoolsError, match="does not fit the data") as error:
        transform.run({"expression": expression, "data": {"name": 1}}, context)
    assert error.value.code == "task_error"


@pytest.mark.parametrize(
    ("expression", "place"),
    [("a..b", "column 3"), ("a[", "column 3"), ("a ? b", "column 3"), ("'abc", "column 1"), ("(" * 5000, "")],
)
def test_what_is_no_jmespath_is_refused_naming_the_place(expression: str, place: str) -> None:
    """Before it is queued."""
    assert TRANSFORM.check is not None
    with pytest.raises(PoolsError) as error:
        TRANSFORM.check({"expression": expression}, Judge(Allow(), (), "/"))
    assert error.value.code == "invalid_payload" and place in error.value.message


@pytest.mark.parametrize("payload", [{}, {"data": 1, "items": []}, {"items": None}])
def test_it_takes_either_data_or_items(payload: dict[str, Any]) -> None:
    """Neither or both is refused; `null` is a document."""
    with pytest.raises(ValidationError):
        TRANSFORM.payload.model_validate({"expression": "@", **payload})
    TRANSFORM.payload.model_validate({"expression": "@", "data": None})
