"""The contract of a tool: one typed async function becomes an MCP tool and a console command.

A tool is a function in `tools/` marked with `@tool`. Its first parameter is the router;
the others, their types, defaults and the strings in their `Annotated` types are all
there is to say about the tool's arguments, and MCP and the console are generated from
them. Importing a tool costs neither pydantic nor asyncio: schemas are built when asked for.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

from mcp_pools.errors import PoolsError, explain, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter

    from mcp_pools.router import Router

Effect = Literal["read", "write", "destroy"]
Question = Callable[["Router", dict[str, Any]], "str | None"]
Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])

TOOLS: dict[str, Tool] = {}
"""Every tool by its name, in the order of definition. Filled by importing `mcp_pools.tools`."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a tool. `required` is `True` when it has no default."""

    name: str
    type: Any
    help: str
    default: Any
    required: bool


@dataclass(frozen=True)
class Tool:
    """One tool, for both edges.

    `positional` and `flags` say how the console takes the arguments: by place, and under
    which short options (`{"task_type": "-t"}`). `example` is a console line.
    """

    name: str
    title: str
    function: Callable[..., Awaitable[Any]]
    effect: Effect
    toolset: str
    idempotent: bool = False
    open_world: bool = False
    positional: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    example: str = ""
    question: Question | None = None
    """What a person is asked before an MCP client's call is done; `None`: nothing."""

    @property
    def command(self) -> str:
        """The console's name for the tool: `pool_list` is `list`."""
        return self.name.removeprefix("pool_")

    @property
    def description(self) -> str:
        """What the tool does, for the model and for `--help`."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The arguments, in the order of the function's signature, without the router."""
        _, *rest = inspect.signature(self.function).parameters.values()
        return tuple(self._parameter(each) for each in rest)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(each.name for each in self.parameters)

    def _parameter(self, parameter: inspect.Parameter) -> Parameter:
        annotation = self._evaluated(parameter.annotation)
        words = [word for word in getattr(annotation, "__metadata__", ()) if isinstance(word, str)]
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        return Parameter(parameter.name, annotation, " ".join(words), default, required)

    def _evaluated(self, annotation: Any) -> Any:
        """Evaluate one annotation at a time: the router's own type is not imported here."""
        if isinstance(annotation, str):
            return eval(annotation, self.function.__globals__)  # noqa: S307 - our own source text
        return annotation

    @cached_property
    def arguments(self) -> type[BaseModel]:
        """The arguments as a model that refuses unknown names."""
        from pydantic import ConfigDict, Field, create_model

        fields: dict[str, Any] = {
            each.name: (each.type, Field(... if each.required else each.default, description=each.help))
            for each in self.parameters
        }
        return create_model(f"{self.name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)

    @property
    def models(self) -> tuple[type, ...]:
        """The dataclasses of what the tool returns: one of these."""
        returned = self._returned
        return get_args(returned) or (returned,)

    @property
    def _returned(self) -> Any:
        return self._evaluated(self.function.__annotations__["return"])

    @cached_property
    def result(self) -> TypeAdapter[Any]:
        """The type of what the tool returns."""
        from pydantic import TypeAdapter

        return TypeAdapter(self._returned)

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, as short as it can be said."""
        schema: dict[str, Any] = slim(self.arguments.model_json_schema())
        return schema

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """JSON schema of the result, of which no field is required: a refusal has `error` in their place.

        Some clients check refusals, too, and would show that one does not fit instead of what it says.
        """
        whole = self.result.json_schema()
        options = whole.get("anyOf")
        if options is not None:  # a tool's result is one object, whichever it is
            whole = _any_object([_resolved(each, whole["$defs"]) for each in options]) | {
                "$defs": whole["$defs"]
            }
        schema: dict[str, Any] = brief(whole, whole.get("$defs", {}))
        schema.pop("required", None)
        return schema

    async def invoke(self, router: Router, arguments: dict[str, Any]) -> dict[str, Any]:
        """Check the arguments, run the tool, and return its result as JSON values.

        Raises:
            PoolsError: the call was refused; nothing was changed.
        """
        from mcp_pools.telemetry import TOOL_SECONDS

        began, outcome = time.perf_counter(), "cancelled"
        try:
            answer = await self._answer(router, arguments)
            outcome = "ok"
        except PoolsError:
            outcome = "refused"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            seconds = time.perf_counter() - began
            router.registry.meters.observe(TOOL_SECONDS, seconds, self.name, outcome)
        return answer

    async def _answer(self, router: Router, arguments: dict[str, Any]) -> dict[str, Any]:
        given = self.check(arguments)
        defaults = {name: value for name, value in router.defaults.items() if name in self._names}
        outcome = await self.function(router, **{**defaults, **given})
        dumped: dict[str, Any] = self.result.dump_python(outcome, mode="json")
        return dumped

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The given arguments as the function takes them; raises `PoolsError` `invalid_payload`."""
        from pydantic import ValidationError

        for name in arguments:
            if name not in self._names:
                hint = nearest(name, self._names)
                raise PoolsError("invalid_payload", f"{self.name} has no argument {name!r}.", hint)
        try:
            model = self.arguments.model_validate(arguments)
        except ValidationError as invalid:
            raise PoolsError(
                "invalid_payload",
                f"{self.name}: {explain(invalid)}.",
                "Correct the arguments and call again.",
            ) from None
        return {name: getattr(model, name) for name in model.model_fields_set}


def tool(
    *,
    title: str,
    effect: Effect,
    toolset: str,
    idempotent: bool = False,
    open_world: bool = False,
    positional: tuple[str, ...] = (),
    flags: Mapping[str, str] | None = None,
    example: str = "",
    question: Question | None = None,
) -> Callable[[Function], Function]:
    """Make a tool of an async function; it stays callable from Python as it is."""

    def mark(function: Function) -> Function:
        TOOLS[function.__name__] = Tool(
            name=function.__name__,
            title=title,
            function=function,
            effect=effect,
            toolset=toolset,
            idempotent=idempotent or effect == "read",
            open_world=open_world,
            positional=positional,
            flags=flags or {},
            example=example,
            question=question,
        )
        return function

    return mark


def slim(schema: Any) -> Any:
    """Say an input's schema in fewer words: no generated titles, no null defaults, and of an
    optional type only the type, for leaving it out says the same as null.
    """
    if isinstance(schema, list):
        return [slim(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if not _is_noise(key, value)}
    if {"type": "null"} in kept.get("anyOf", ()):
        kept = _without_null(kept)
    return {
        key: {name: slim(each) for name, each in value.items()}
        if key in ("properties", "$defs")
        else slim(value)
        for key, value in kept.items()
    }


def _is_noise(key: str, value: Any) -> bool:
    return (key == "title" and isinstance(value, str)) or (key, value) in _SAID_BY_DEFAULT


_SAID_BY_DEFAULT: Final = (("default", None), ("additionalProperties", True))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    rest = [option for option in schema.pop("anyOf") if option != {"type": "null"}]
    return {**(rest[0] if len(rest) == 1 else {"anyOf": rest}), **schema}


def brief(schema: Any, definitions: Mapping[str, Any], said: set[str] | None = None) -> Any:
    """Say a result's schema in fewer words, and so that it is checked quickly.

    Clients check every result against it, and following references or trying alternatives
    is what takes them long: definitions are put where they are first used (none may be
    recursive; afterwards they are just objects) and an optional type is one type with null.
    Defaults and descriptions of classes go.
    """
    said = set(_SAID_ELSEWHERE) if said is None else said
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if name in said:
            return {"type": "object"}
        said.add(name)
        return brief(definitions[name], definitions, said)
    kept = {key: schema[key] for key in schema if key in _TELLING and schema[key] is not True}
    if "enum" in kept:
        kept.pop("type", None)
    if "properties" in kept:
        kept["properties"] = {
            name: brief(each, definitions, said) for name, each in kept["properties"].items()
        }
    for key in kept.keys() & {"items", "additionalProperties"}:
        kept[key] = brief(kept[key], definitions, said)
    if "anyOf" in kept:
        kept = _with_null([brief(each, definitions, said) for each in kept.pop("anyOf")])
    return kept


def _resolved(schema: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definitions[schema["$ref"].removeprefix("#/$defs/")]
    return found


def _any_object(options: list[dict[str, Any]]) -> dict[str, Any]:
    """One object with what all of them have: each is said in full where it is a result by itself."""
    first, *others = options
    shared = [name for name in first["properties"] if all(name in each["properties"] for each in others)]
    properties = {name: first["properties"][name] for name in shared}
    return {"type": "object", "properties": properties, "required": shared}


_TELLING: Final = frozenset(
    {"type", "enum", "const", "format", "properties", "required", "items", "additionalProperties", "anyOf"}
)
"""The keywords of a result's schema that say something about the result."""


_SAID_ELSEWHERE: Final = frozenset({"Task", "Pool"})
"""What the listing says in full where it is a result by itself: inside another one that would be too long."""


def _with_null(options: list[dict[str, Any]]) -> dict[str, Any]:
    rest = [option for option in options if option != {"type": "null"}]
    if len(rest) == 1 and isinstance(rest[0].get("type"), str):
        return {**rest[0], "type": [rest[0]["type"], "null"]}
    return {"anyOf": options}
