"""A tool's parameters as console flags, and what was typed as the tool's arguments.

What the caller leaves out is left out of the call: the tool's own defaults, and the
owner's configured ones, stay in one place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import click

from mcp_pools.terminal.completion import completer
from mcp_pools.tool import Parameter, Tool

NO_OPS: Final[dict[str, tuple[tuple[str, ...], str, str]]] = {
    "pool_execute": (("--auto-route",), "pool", "Let the router choose the pool; the default."),
    "pool_health": (("--all", "-a"), "pool", "Check every pool; the default."),
}
"""Flags that say aloud what leaving another one out means: names, the other parameter, help."""


def kind(annotation: Any) -> tuple[Any, ...]:
    """The types a parameter accepts, without `None` and without what `Annotated` adds."""
    if hasattr(annotation, "__metadata__"):
        return kind(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return tuple(each for option in get_args(annotation) for each in kind(option))
    return () if annotation is type(None) else (annotation,)


def is_object(parameter: Parameter) -> bool:
    """Whether the parameter takes a JSON object."""
    return any(each is dict or get_origin(each) is dict for each in kind(parameter.type))


def is_list(parameter: Parameter) -> bool:
    """Whether the parameter takes a list."""
    return any(each is list or get_origin(each) is list for each in kind(parameter.type))


def flags(tool: Tool) -> list[click.Parameter]:
    """Every flag and argument of a tool's command."""
    made = [_positional(tool, each) for each in tool.parameters if each.name in tool.positional]
    made += [_option(tool, each) for each in tool.parameters if each.name not in tool.positional]
    if tool.name in NO_OPS:
        names, _, words = NO_OPS[tool.name]
        made.append(click.Option([*names, "no_op"], is_flag=True, help=words))
    return made


def arguments(tool: Tool, typed: dict[str, Any]) -> dict[str, Any]:
    """What was typed as the arguments of the call.

    Raises:
        click.UsageError: a value cannot be read, or two flags contradict each other.
    """
    if typed.get("no_op") and typed.get(NO_OPS[tool.name][1]) is not None:
        names, other, _ = NO_OPS[tool.name]
        raise click.UsageError(f"{names[0]} and --{other} contradict each other. Leave one of them out.")
    given = {}
    for parameter in tool.parameters:
        value = typed.get(parameter.name)
        if value is None or value == ():
            continue
        given[parameter.name] = _value(parameter, value)
    return given


def _value(parameter: Parameter, typed: Any) -> Any:
    if is_object(parameter):
        return read_object(_flag(parameter), typed, strings=_holds_strings(parameter))
    return list(typed) if is_list(parameter) else typed


def _positional(tool: Tool, parameter: Parameter) -> click.Parameter:
    return click.Argument(
        [parameter.name],
        required=parameter.required,
        type=_type(parameter),
        shell_complete=completer(tool, parameter),
    )


def _option(tool: Tool, parameter: Parameter) -> click.Parameter:
    flag = _flag(parameter)
    if kind(parameter.type) == (bool,):
        flag = f"{flag}/--no-{flag[2:]}"
    names = [flag, *filter(None, [tool.flags.get(parameter.name)]), parameter.name]
    several = is_object(parameter) or is_list(parameter)
    return click.Option(
        names,
        required=parameter.required,
        default=None,
        multiple=several,
        type=_type(parameter),
        shell_complete=completer(tool, parameter),
        help=_help(parameter),
        metavar="JSON|@FILE|-|K=V" if is_object(parameter) else None,
    )


def _flag(parameter: Parameter) -> str:
    return "--" + parameter.name.replace("_", "-")


def _help(parameter: Parameter) -> str:
    if parameter.default is None or parameter.default == "":
        return parameter.help
    shown = parameter.default
    if isinstance(shown, bool):
        shown = "yes" if shown else "no"
    return (
        f"{parameter.help} [default: {shown:g}]"
        if isinstance(shown, float)
        else f"{parameter.help} [default: {shown}]"
    )


def _type(parameter: Parameter) -> click.ParamType[Any] | None:
    if is_object(parameter):
        return click.STRING
    kinds = kind(parameter.type)
    if is_list(parameter):
        (kinds,) = [kind(get_args(each)[0]) if get_args(each) else (str,) for each in kinds][:1]
    simple = {(bool,): click.BOOL, (int,): click.INT, (float,): click.FLOAT}
    if kinds in simple:
        return simple[kinds]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return click.Choice(get_args(kinds[0]))
    return click.STRING if str in kinds else OneOf(kinds)


class OneOf(click.ParamType[Any]):
    """A value of one of several types, such as a number or the word `auto`."""

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.name = "|".join(_name(each) for each in kinds)
        self._numbers = {int, float}.intersection(kinds)
        self._words = {word for each in kinds if get_origin(each) is Literal for word in get_args(each)}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number or the word that was typed; anything else is a usage error."""
        if value in self._words or not (self._numbers or self._words):
            return value
        for number in sorted(self._numbers, key=lambda each: each is float):
            try:
                return number(value)
            except ValueError:
                continue
        self.fail(f"{value!r} is not {self.name.replace('|', ' or ')}.", param, ctx)


def _name(each: Any) -> str:
    if get_origin(each) is Literal:
        return "|".join(str(word) for word in get_args(each))
    return {int: "INTEGER", float: "NUMBER"}.get(each, "TEXT")


def _holds_strings(parameter: Parameter) -> bool:
    return any(get_args(each)[1:] == (str,) for each in kind(parameter.type))


def read_object(flag: str, words: tuple[str, ...], strings: bool = False) -> dict[str, Any]:
    """One JSON object from everything a flag was given: JSON, `@file`, `-`, `k=v`; later ones win.

    Args:
        strings: the object's values are strings, so that `k=1` stays the text `1`.

    Raises:
        click.UsageError: what is wrong, where, and how to write it.
    """
    merged: dict[str, Any] = {}
    for word in words:
        merged.update(_read(flag, word, strings))
    return merged


def _read(flag: str, word: str, strings: bool) -> dict[str, Any]:
    if word == "-":
        return _parse(flag, _stdin(flag), "standard input")
    if word.startswith("@"):
        return _parse(flag, _file(flag, word[1:]), word[1:])
    key, equals, value = word.partition("=")
    if equals and not word.lstrip().startswith(("{", "[", '"')):
        return {key: value if strings else _loose(value)}
    return _parse(flag, word)


def _stdin(flag: str) -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as unreadable:
        raise click.UsageError(_unreadable(flag, "standard input", unreadable)) from None


def _file(flag: str, name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as unreadable:
        raise click.UsageError(_unreadable(flag, name, unreadable)) from None


def _unreadable(flag: str, name: str, why: Exception) -> str:
    reason = getattr(why, "strerror", None) or "it is not UTF-8 text"
    return f"{flag}: cannot read {name}: {reason}. Give a readable JSON file after the @, or - for stdin."


def _parse(flag: str, text: str, source: str = "") -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as wrong:
        raise click.UsageError(_malformed(flag, text, source, wrong)) from None
    except (ValueError, RecursionError) as wrong:
        raise click.UsageError(f"{flag}: {wrong}. Write it as JSON has it.") from None
    if not isinstance(value, dict):
        shown = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
        got = shown.get(type(value), "a number")
        raise click.UsageError(f"{flag} takes a JSON object, but this is {got}. {_hint(flag)}")
    return value


def _malformed(flag: str, text: str, source: str, wrong: json.JSONDecodeError) -> str:
    place = f"line {wrong.lineno}, column {wrong.colno}"
    near = text[max(0, wrong.pos - 12) : wrong.pos + 12].replace("\n", " ")
    of = f" in {source}" if source else ""
    return f"{flag} is not JSON: {wrong.msg.lower()} at {place}{of} (near: {near}). {_hint(flag)}"


def _hint(flag: str) -> str:
    return (
        f"""Write {flag} '{{"key": "value"}}', {flag} key=value, {flag} @file.json, or {flag} - for stdin."""
    )


def _loose(value: str) -> Any:
    """A value that parses as JSON is that, any other is the text itself."""
    try:
        return json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
