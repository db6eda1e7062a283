"""`compute`: safe arithmetic, once or for each item as `x`.

The expression is a small subset of Python's: numbers, comparisons, conditions,
comprehensions and the functions below. There are no methods, no attributes but an
object's fields, and no way to make a number or a text that fills the memory.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

MAX_BITS = 10_000
"""The longest integer, in bits: about 3,000 digits, which every JSON reader of ours takes."""
MAX_LENGTH = 100_000
"""The longest text or list that `+` may make."""
MAX_FACTORIAL = 1_000
MAX_VALUES = 1_000_000
"""The most values a result may hold."""
PROGRESS_EVERY = 1000
"""Items between two reports of progress."""


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Evaluate `expression` with `variables`, or for each of `items` as `x`.

    Returns:
        `{"value": JSON}`; for `items` `{"items": [outcome]}` in their order, an outcome
        being `{"result": JSON}` or `{"error": {"code", "message"}}`, so that one item
        that fails does not fail the others.

    Raises:
        PoolsError: `task_error` when the expression without items cannot be computed.
    """
    evaluate = _evaluator(payload["expression"])
    variables = payload.get("variables") or {}
    items = payload.get("items")
    if items is None:
        return {"value": evaluate(variables)}
    outcomes = []
    for done, item in enumerate(items):
        if done % PROGRESS_EVERY == 0:
            context.progress(done, len(items))
        outcomes.append(_outcome(evaluate, {**variables, "x": item}))
    context.progress(len(items), len(items))
    return {"items": outcomes}


def _outcome(evaluate: Callable[[dict[str, Any]], Any], names: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": evaluate(names)}
    except PoolsError as error:
        return {"error": {"code": error.code, "message": error.message}}


def _evaluator(expression: str) -> Callable[[dict[str, Any]], Any]:
    """The expression, parsed once, as a function of its variables."""
    evaluator = _restricted()
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _failed(expression, error) from error

    def evaluate(names: dict[str, Any]) -> Any:
        evaluator.names = CONSTANTS | names
        try:
            return _as_json(evaluator.eval(expression, previously_parsed=tree), [MAX_VALUES])
        except Exception as error:  # any failure is the expression's, and is this item's outcome
            raise _failed(expression, error) from error

    return evaluate


def _failed(expression: str, error: Exception) -> PoolsError:
    shown = expression if len(expression) <= 200 else expression[:199] + "…"
    return PoolsError(
        "task_error",
        f"{shown!r} could not be computed: {_reason(error)}.",
        "Correct the expression or its values.",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OverflowError):
        return "a number is too large"
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return str(error).rstrip(".") or type(error).__name__


def _restricted() -> Any:
    """simpleeval with our functions and operators, and without what is not arithmetic."""
    import simpleeval

    evaluator = simpleeval.EvalWithCompoundTypes(functions=dict(FUNCTIONS), operators=OPERATORS)
    call, evaluate = evaluator.nodes[ast.Call], evaluator._eval

    def call_function(node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name):
            raise ValueError("only functions can be called, not methods")
        return call(node)

    def field(node: ast.Attribute) -> Any:
        value = evaluate(node.value)
        if not isinstance(value, dict):
            raise TypeError(f"only an object has fields like .{node.attr}, not {_kind(value)}")
        return value[node.attr]

    # Formatted text could be padded to any length; the others are statements.
    for node in (ast.JoinedStr, ast.FormattedValue, ast.Assign, ast.AugAssign, ast.Import):
        del evaluator.nodes[node]
    evaluator.nodes.update({ast.Call: call_function, ast.Attribute: field})
    return evaluator


def _as_json(value: Any, left: list[int]) -> Any:
    """`value` as JSON, or an error that says what JSON cannot hold. `left`: values to go."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"the result holds more than {MAX_VALUES} values")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"the result is {value}, which JSON cannot hold")
        return value
    if isinstance(value, list | tuple):
        return [_as_json(part, left) for part in value]
    if isinstance(value, dict):
        return {str(key): _as_json(part, left) for key, part in value.items()}
    raise TypeError(f"the result is {_kind(value)}, which JSON cannot hold")


def _kind(value: Any) -> str:
    return "a function" if callable(value) else f"a {type(value).__name__} value"


# --- operators and functions ---------------------------------------------------------------


def _numbers(*values: Any) -> None:
    for value in values:
        if not isinstance(value, int | float | complex):
            raise TypeError(f"arithmetic needs numbers, not {_kind(value)}")


def _small(bits: int) -> None:
    if bits > MAX_BITS:
        raise ValueError(f"the number would be longer than {MAX_BITS} bits")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _numeric(function: Callable[..., Any]) -> Callable[..., Any]:
    def judged(*values: Any) -> Any:
        _numbers(*values)
        return function(*values)

    return judged


def _add(left: Any, right: Any) -> Any:
    if type(left) is type(right) and type(left) in (str, list):
        if len(left) + len(right) > MAX_LENGTH:
            raise ValueError(f"the text or list would be longer than {MAX_LENGTH}")
        return left + right
    _numbers(left, right)
    return left + right


def _multiply(left: Any, right: Any) -> Any:
    _numbers(left, right)
    _small(_bits(left) + _bits(right))
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    _numbers(base, exponent)
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        _small(_bits(base) * abs(exponent))
    return base**exponent


def _shift_left(value: Any, by: Any) -> Any:
    _numbers(value, by)
    _small(_bits(value) + by)
    return value << by


def _sum(values: Iterable[Any], start: Any = 0) -> Any:
    listed = list(values)
    _numbers(start, *listed)
    return sum(listed, start)


def _round(value: Any, digits: Any = None) -> Any:
    if digits is not None:
        _numbers(digits)
        # Rounding an integer at a far digit would first make that power of ten.
        digits = max(-400, min(400, digits))
    return round(value, digits)


def _factorial(value: Any) -> int:
    if value > MAX_FACTORIAL:
        raise ValueError(f"factorial takes at most {MAX_FACTORIAL}")
    return math.factorial(value)


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: _add,
    ast.Mult: _multiply,
    ast.Pow: _power,
    ast.LShift: _shift_left,
    ast.Sub: _numeric(operator.sub),
    ast.Div: _numeric(operator.truediv),
    ast.FloorDiv: _numeric(operator.floordiv),
    ast.Mod: _numeric(operator.mod),
    ast.RShift: _numeric(operator.rshift),
    ast.BitAnd: _numeric(operator.and_),
    ast.BitOr: _numeric(operator.or_),
    ast.BitXor: _numeric(operator.xor),
    ast.Invert: _numeric(operator.invert),
    ast.USub: _numeric(operator.neg),
    ast.UAdd: _numeric(operator.pos),
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda part, whole: part in whole,
    ast.NotIn: lambda part, whole: part not in whole,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}

_MATH = (
    "sqrt cbrt exp log log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh "
    "floor ceil trunc hypot degrees radians fmod gcd isfinite"
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in _MATH.split()},
    "abs": abs,
    "factorial": _factorial,
    "float": float,
    "int": int,
    "len": len,
    "max": max,
    "min": min,
    "pow": _power,
    "round": _round,
    "sum": _sum,
}
CONSTANTS: dict[str, Any] = {"pi": math.pi, "e": math.e, "tau": math.tau}
