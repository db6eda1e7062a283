"""The contract of a tool: arguments in, JSON values out, and schemas that say so briefly."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jsonschema
import pytest
from annotated_types import Ge

from mcp_pools.errors import PoolsError
from mcp_pools.telemetry import Meters
from mcp_pools.tool import TOOLS, Tool, slim

if TYPE_CHECKING:
    from mcp_pools.router import Router


@dataclass(frozen=True)
class Inner:
    """Something nested."""

    n: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    name: str
    inner: Inner | None
    titles: list[str] = field(default_factory=list)


async def sample(
    router: Router,
    name: Annotated[str, "Its name."],
    size: Annotated[int | None, Ge(0), "Its size."] = None,
    mode: Literal["fast", "slow"] = "fast",
) -> Outcome:
    """Do something.

    In detail.
    """
    return Outcome(name=f"{name}-{mode}-{size}", inner=Inner() if size else None)


SAMPLE = Tool(name="pool_sample", title="Sample", function=sample, effect="write", toolset="pools")


def a_router(**defaults: Any) -> Any:
    """All of a router that `invoke` itself looks at."""
    return SimpleNamespace(defaults=defaults, registry=SimpleNamespace(meters=Meters()))


def test_parameters_are_the_signature_without_the_router() -> None:
    """Names, defaults and help come from the function alone."""
    assert [(each.name, each.required, each.default, each.help) for each in SAMPLE.parameters] == [
        ("name", True, None, "Its name."),
        ("size", False, None, "Its size."),
        ("mode", False, "fast", ""),
    ]
    assert SAMPLE.command == "sample"
    assert SAMPLE.description == "Do something.\n\nIn detail."


def test_input_schema_is_short_and_closed() -> None:
    """No generated titles, no null noise, no unknown names."""
    assert SAMPLE.input_schema == {
        "additionalProperties": False,
        "properties": {
            "name": {"description": "Its name.", "type": "string"},
            "size": {"description": "Its size.", "minimum": 0, "type": "integer"},
            "mode": {"default": "fast", "description": "", "enum": ["fast", "slow"], "type": "string"},
        },
        "required": ["name"],
        "type": "object",
    }


@pytest.mark.anyio
@pytest.mark.parametrize("size", [None, 3])
async def test_a_result_is_json_that_matches_the_output_schema(size: int | None) -> None:
    """Nulls included."""
    result = await SAMPLE.invoke(a_router(), {"name": "a", "size": size})
    assert result["name"] == f"a-fast-{size}"
    jsonschema.validate(json.loads(json.dumps(result)), SAMPLE.output_schema)


@pytest.mark.anyio
async def test_the_routers_defaults_fill_what_the_caller_left_out() -> None:
    """Given arguments win over the router's defaults, which win over the signature's."""
    router = a_router(mode="slow", timeout=5)
    assert (await SAMPLE.invoke(router, {"name": "a"}))["name"] == "a-slow-None"
    assert (await SAMPLE.invoke(router, {"name": "a", "mode": "fast"}))["name"] == "a-fast-None"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a", "sise": 1}, "pool_sample has no argument 'sise'. Did you mean 'size'?"),
        ({}, "pool_sample: name: field required. Correct the arguments and call again."),
        ({"name": 1}, "name: input should be a valid string (given: 1)"),
        ({"name": "a", "size": -1}, "size: input should be greater than or equal to 0 (given: -1)"),
        ({"name": "x" * 200, "mode": "y" * 200}, "…"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    """The message names the argument, what is wrong and what was given, at a readable length."""
    with pytest.raises(PoolsError) as refused:
        SAMPLE.check(arguments)
    assert refused.value.code == "invalid_payload"
    assert message in str(refused.value)
    assert "\n" not in str(refused.value) and "pydantic" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_slim_keeps_a_property_that_is_named_like_a_keyword() -> None:
    """`title` and `default` are noise only where they are keywords."""
    schema = {"title": "T", "properties": {"title": {"title": "Title", "type": "string"}}}
    assert slim(schema) == {"properties": {"title": {"type": "string"}}}


def test_output_schema_follows_no_references_and_tries_no_alternatives() -> None:
    """What clients check each result against is flat; nulls stay."""
    assert SAMPLE.output_schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "inner": {"type": ["object", "null"], "properties": {"n": {"type": "integer"}}},
            "titles": {"type": "array", "items": {"type": "string"}},
        },
    }


def test_a_refusal_fits_the_output_schema() -> None:
    """Clients that check it show what it says, then, and not that it does not fit."""
    refusal = {"code": "c", "message": "m", "next": None, "retryable": False, "details": {}}
    for each in (SAMPLE, *TOOLS.values()):
        jsonschema.validate({"error": refusal}, each.output_schema)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_is_fully_described(name: str) -> None:
    """Each tool and each argument says what it is; effects and names are consistent."""
    tool = TOOLS[name]
    assert name == tool.name and name.startswith("pool_") and len(name) <= 64
    assert tool.title and tool.description and tool.example.startswith(f"mcp-pools {tool.command}")
    assert all(each.help for each in tool.parameters)
    assert tool.idempotent or tool.effect != "read"
    assert {*tool.positional, *tool.flags} <= {each.name for each in tool.parameters}


@pytest.mark.parametrize("name", TOOLS)
def test_every_schema_is_valid_json_schema(name: str) -> None:
    """Objects at the root, as both protocol eras require."""
    for schema in (TOOLS[name].input_schema, TOOLS[name].output_schema):
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
