"""Every tool's arguments, drawn from its schema and against it, over a client's session.

Whatever is sent, the answer is a result that its schema allows, or an error that says what
to do: never a crash, never a trace, never a session that ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import find, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp_types import CallToolResult
from transports import session_transport

from mcp_pools import Router, Settings
from mcp_pools.errors import CODES
from mcp_pools.models import Caller
from mcp_pools.tool import TOOLS

Call = Callable[[str, dict[str, Any]], CallToolResult]

KNOWN: Mapping[str, list[Any]] = {
    "name": ["local", "spare", "nowhere"],
    "pool": ["local", "spare", "nowhere"],
    "pools": [["local"], ["local", "spare"], []],
    "type": ["local", "kubernetes", "mahavishnu"],
    "by_type": ["local"],
    "task_type": ["echo", "sleep", "compute", "transform", "command", "python", "http", "prompt", "query"],
    "payload": [
        {},
        {"items": []},
        {"items": [1, None, "é"], "expression": "x * 2"},
        {"expression": "items[*].a", "items": [{"a": 1}]},
        {"seconds": 0},
        {"argv": ["rm", "-rf", "/"]},
        {"file": "/etc/shadow", "patterns": ["**"]},
        {"method": "GET", "url": "http://169.254.169.254/"},
        {"token": "abc"},
        {"x": {"$secret": "NAME"}},
    ],
    "reduce": ["concat", "sum", "merge", "echo"],
    "cursor": ["", "0", "e_1", "\x00"],
    "since": ["2026-01-01T00:00:00Z", "1h", "yesterday"],
    "select": ["a.b[0]", "["],
}
"""Words that mean something: drawn from schemas alone, no call would get past the first check."""
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([-1, 0, 2**63, 1e308]))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATIENT = settings(max_examples=3000, deadline=None, database=None)
HARMLESS = {
    "min_workers": st.integers(-1, 1),
    "max_workers": st.integers(-1, 2),
    "workers": st.integers(-1, 2) | st.just("auto"),
}
"""Sizes that are real here: a thousand workers would be granted, too."""


def by_the_rules(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments that a tool's schema allows, with words that mean something here and there."""
    schema = TOOLS[name].input_schema
    properties = {
        key: HARMLESS[key] if key in HARMLESS else _known(key) | _known(key) | from_schema(each)
        for key, each in schema["properties"].items()
    }
    required = {key: properties[key] for key in schema.get("required", ())}
    optional = sorted(properties.keys() - required.keys())
    some = st.lists(st.sampled_from(optional), max_size=3, unique=True) if optional else st.just([])
    return some.flatmap(
        lambda names: st.fixed_dictionaries(required | {name: properties[name] for name in names})
    )


def from_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows, of the few keywords that arguments use; others are an error."""
    said = schema.keys() - {"description", "default", "format", "minimum", "maximum", "exclusiveMinimum"}
    match schema:
        case {"enum": values, "type": "string"} if said == {"enum", "type"}:
            return st.sampled_from(values)
        case {"type": "array", "items": items} if said == {"type", "items"}:
            return st.lists(from_schema(items), max_size=5)
        case {"type": "object"} if said <= {"type", "additionalProperties"}:
            inner = schema.get("additionalProperties", True)
            return st.dictionaries(
                st.text(max_size=8), JSON if inner is True else from_schema(inner), max_size=4
            )
        case {"type": "integer"} if said == {"type"}:
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case {"type": "number"} if said == {"type"}:
            least = schema.get("minimum", schema.get("exclusiveMinimum"))
            open_below = "exclusiveMinimum" in schema
            return st.floats(least, schema.get("maximum"), exclude_min=open_below, allow_nan=False)
        case {"type": "string" | "boolean" as kind} if said == {"type"}:
            return st.text() if kind == "string" else st.booleans()
    raise AssertionError(f"The schema says what nothing is drawn from here: {schema}")


def _known(key: str) -> st.SearchStrategy[Any]:
    return st.sampled_from(KNOWN[key]) if key in KNOWN else st.nothing()


def against_them(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments with any value under any name."""
    properties = [key for key in TOOLS[name].input_schema["properties"] if key not in HARMLESS]
    names = st.sampled_from(properties) | st.text(max_size=12) if properties else st.text(max_size=12)
    return st.dictionaries(names, JSON, max_size=5)


@asynccontextmanager
async def session(home: Path) -> AsyncIterator[Client]:
    """A client in a hurry, to a router with two pools."""
    pools = {name: {"min_workers": 0, "max_workers": 1} for name in ("local", "spare")}
    async with Router.open(Settings(home=home, mcp_confirm="never", max_queue=50, pools=pools)) as router:
        hurried = router.bound(Caller(kind="mcp", cwd=str(home), patience=0.05))
        async with Client(session_transport(hurried, {}), mode="auto") as client:
            yield client


@contextmanager
def nobodys_machine(home: Path) -> Iterator[None]:
    """What `pool_discover` reads says nothing: it would ask, and register, what somebody really has."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(home))
        for name in ("XDG_CONFIG_HOME", "KUBECONFIG", "DASK_SCHEDULER_ADDRESS", "RAY_ADDRESS"):
            environment.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """`call(tool, arguments)`: the result, from a session that lasts for all tests here."""
    home = tmp_path_factory.mktemp("home")
    with (
        nobodys_machine(home),
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(session(home)) as client,
    ):

        async def within_a_while(name: str, arguments: dict[str, Any]) -> CallToolResult:
            with anyio.fail_after(20):
                return await client.call_tool(name, arguments)

        yield lambda name, arguments: portal.call(within_a_while, name, arguments)


def looked_at(name: str, result: CallToolResult) -> None:
    """The answer is what its schema says, or an error with a code and a message."""
    text = "\n".join(block.text for block in result.content)
    for trace in ("Traceback", "mcp-pools failed inside", "pydantic"):
        assert trace not in text, text
    if not result.is_error:
        jsonschema.validate(result.structured_content, TOOLS[name].output_schema)
        return
    error = result.structured_content["error"]
    assert error["code"] in CODES and error["message"], error
    assert text.startswith(error["message"])


@pytest.mark.parametrize("name", ["pool_distribute", "pool_execute", "pool_search"])
def test_a_drawn_call_can_succeed(call: Call, name: str) -> None:
    """What is drawn from a schema is not all refused: else the tests below would see one branch."""
    found = find(by_the_rules(name), lambda arguments: not call(name, arguments).is_error, settings=PATIENT)
    assert set(found) >= set(TOOLS[name].input_schema.get("required", ()))


@pytest.mark.parametrize("name", TOOLS)
def test_arguments_by_the_schema_are_answered(call: Call, name: str) -> None:
    """Whatever the schema allows is done, or refused with a reason."""

    @settings(max_examples=60)
    @given(arguments=by_the_rules(name))
    def answered(arguments: dict[str, Any]) -> None:
        looked_at(name, call(name, arguments))

    answered()


@pytest.mark.parametrize("name", TOOLS)
def test_arguments_against_the_schema_are_answered(call: Call, name: str) -> None:
    """Wrong names, wrong types, numbers out of range: an error that says so."""

    @settings(max_examples=60)
    @given(arguments=against_them(name))
    def answered(arguments: dict[str, Any]) -> None:
        looked_at(name, call(name, arguments))

    answered()
