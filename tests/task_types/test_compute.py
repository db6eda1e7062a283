"""`compute` is arithmetic and nothing else, and one bad item spoils no other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import compute
from mcp_pools.task_types.catalog import COMPUTE


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        (" 7 // 2 ", 3),
        ("-2 ** 2", -4),
        ("sqrt(16)", 4.0),
        ("floor(2.7) + ceil(2.1)", 5),
        ("round(sin(pi / 2), 3)", 1.0),
        ("round(1234, -2)", 1200),
        ("log(e)", 1.0),
        ("max(1, k, 3)", 10),
        ("min(data)", 1),
        ("sum(data) / len(data)", 2.0),
        ("sum(v * 2 for v in data if v > 1)", 10),
        ("[v ** 2 for v in data]", [1, 4, 9]),
        ("abs(-3)", 3),
        ("k if k > 5 else 0", 10),
        ("1 < k <= 10 and not False", True),
        ("box.width * box['height']", 6),
        ("'a' + 'b'", "ab"),
        ("2 ** 100", 2**100),
        ("(1, 2)", [1, 2]),
        ("5 % 3 + (6 & 3) + (1 << 4)", 20),
        ("factorial(5)", 120),
        ("None", None),
    ],
)
def test_the_table_of_values(context: Any, expression: str, value: Any) -> None:
    """What an expression gives."""
    variables = {"k": 10, "data": [1, 2, 3], "box": {"width": 2, "height": 3}}
    assert compute.run({"expression": expression, "variables": variables}, context) == {"value": value}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("1 / 0", "division by zero"),
        ("1e308 * 10", "inf"),
        ("[1e308 * 10]", "inf"),
        ("1e308 * 10 - 1e308 * 10", "nan"),
        ("float('nan')", "nan"),
        ("(-8) ** 0.5", "complex"),
        ("sqrt(-1)", "math domain error"),
        ("exp(1000)", "too large"),
        ("9 ** 9 ** 9", "longer than"),
        ("2 ** -9999999", "longer than"),
        ("10 ** 2000 * 10 ** 2000", "longer than"),
        ("1 << 99999999", "longer than"),
        ("factorial(99999)", "at most"),
        ("'a' * 10 ** 9", "needs numbers"),
        ("'%999999999d' % 1", "needs numbers"),
        ("[0] * 10 ** 9", "needs numbers"),
        ("sum([[1], [2]], [])", "needs numbers"),
        ("'a'.ljust(10 ** 9)", "not methods"),
        ("f'{1:>999999999}'", "JoinedStr"),
        ("(1).real", "only an object has fields"),
        ("().__class__", "only an object has fields"),
        ("open('x')", "not defined"),
        ("__import__('os')", "not defined"),
        ("y + 1", "not defined"),
        ("box.depth", "there is no 'depth'"),
        ("lambda: 1", "Lambda"),
        ("sqrt", "a function"),
        ("{1, 2}", "a set value"),
        ("round(5, -10 ** 9) + y", "not defined"),
        ("[a for a in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] " + "for b in range9 " * 5 + "]", "too many"),
    ],
)
def test_the_table_of_failures(context: Any, expression: str, reason: str) -> None:
    """Nothing but numbers comes out, nothing fills the memory, and the message says what was wrong."""
    variables = {"box": {"width": 1}, "range9": list(range(9))}
    with pytest.raises(PoolsError) as error:
        compute.run({"expression": expression, "variables": variables}, context)
    assert error.value.code == "task_error" and reason in error.value.message


def test_one_failing_item_does_not_fail_the_rest(context: Any) -> None:
    """Outcomes come in the order of the items."""
    result = compute.run({"expression": "10 / x", "items": [1, 0, 5]}, context)
    first, second, third = result["items"]
    assert (first, third) == ({"result": 10.0}, {"result": 2.0})
    assert second["error"]["code"] == "task_error" and "division by zero" in second["error"]["message"]
    assert context.said[-1] == (3, 3, None)


def test_variables_stand_beside_items_and_items_may_be_objects(context: Any) -> None:
    """An item is `x`, whatever it is."""
    payload = {"expression": "x.price * rate", "variables": {"rate": 2}, "items": [{"price": 3}, {}]}
    outcomes = compute.run(payload, context)["items"]
    assert outcomes[0] == {"result": 6} and "'price'" in outcomes[1]["error"]["message"]


def test_no_items_give_no_outcomes(context: Any) -> None:
    """An empty list is a list."""
    assert compute.run({"expression": "x", "items": []}, context) == {"items": []}


@given(numbers=st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_it_agrees_with_python(numbers: list[int]) -> None:
    """The subset means what Python means."""
    evaluate = compute._evaluator("sum(x) - min(x) * len(x) + max(abs(v) for v in x)")
    expected = sum(numbers) - min(numbers) * len(numbers) + max(abs(v) for v in numbers)
    assert evaluate({"x": numbers}) == expected


@pytest.mark.parametrize("expression", ["1 +", "a b", "x = 1", "import os", "(" * 500 + ")" * 500, "1; 2"])
def test_what_is_no_expression_is_refused_before_it_is_queued(expression: str) -> None:
    """The refusal names the place."""
    assert COMPUTE.check is not None
    with pytest.raises(PoolsError) as error:
        COMPUTE.check({"expression": expression}, Judge(Allow(), (), "/"))
    assert error.value.code == "invalid_payload"
