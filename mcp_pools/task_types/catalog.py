"""The built-in task types: what each payload holds, what it answers, what is judged first.

Only the router imports this file. Handlers are named, not imported, so that their
libraries load in the workers alone.
"""

from __future__ import annotations

import ast
import os.path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mcp_pools.errors import PoolsError
from mcp_pools.payload import Outcomes, Path, Payload
from mcp_pools.tabular import MAX_ROWS, view_names
from mcp_pools.task_type import TaskType
from mcp_pools.task_types.programs import COMMAND, PROCESS, PROMPT, PYTHON
from mcp_pools.task_types.web import HTTP

if TYPE_CHECKING:
    from mcp_pools.policy import Judge

__all__ = [
    "ANALYZE",
    "COMMAND",
    "COMPUTE",
    "ECHO",
    "HTTP",
    "PROCESS",
    "PROMPT",
    "PYTHON",
    "QUERY",
    "SLEEP",
    "TRANSFORM",
]

ITEM = "{item}"
"""Stands for one item in the payloads of types that do not know `items` themselves."""

Expression = Annotated[str, Field(min_length=1, max_length=10_000)]


# --- echo and sleep ------------------------------------------------------------------------


class EchoPayload(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")


class SleepPayload(Payload):
    """How long to sleep."""

    seconds: float = Field(ge=0, allow_inf_nan=False, description="How long to sleep, in seconds.")


class SleepResult(BaseModel):
    """How long it slept."""

    slept: float = Field(description="Seconds slept.")


ECHO = TaskType(
    name="echo",
    summary="Return the payload unchanged; for trying a pool out.",
    handler="mcp_pools.task_types.echo:run",
    payload=EchoPayload,
    example={"x": 1},
)
SLEEP = TaskType(
    name="sleep",
    summary="Sleep for a number of seconds, reporting progress.",
    handler="mcp_pools.task_types.sleep:run",
    payload=SleepPayload,
    result=SleepResult,
    example={"seconds": 1.5},
)

# --- analyze -------------------------------------------------------------------------------


class AnalyzePayload(Payload):
    """What to analyse: one `file`, a `path`, or several `items`; the caller's directory if none."""

    file: Path | None = Field(None, description="One file.", json_schema_extra={"format": "path"})
    path: Path | None = Field(
        None, description="A directory or a file.", json_schema_extra={"format": "path"}
    )
    items: list[Path] | None = Field(None, description="Files or directories; each gets its own outcome.")
    patterns: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description="Globs of the files to take below a directory, such as `*.py` or `src/**/*.ts`. "
        "By default every file whose language is known.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> AnalyzePayload:
        if self.items is not None and any(name and not _is_template(name) for name in (self.file, self.path)):
            raise ValueError(f"give items, or one of file and path (which may only be {ITEM!r} beside items)")
        if self.file is not None and self.path is not None:
            raise ValueError("give file or path, not both")
        return self


def _is_template(name: str) -> bool:
    """`{item}`, or what became of it when it was resolved against the caller's directory."""
    return name.rpartition("/")[2] == ITEM


class AnalyzedFile(BaseModel):
    """One file's numbers."""

    path: str = Field(description="Relative to the analysed directory.")
    language: str | None = Field(description="The language its name says; null when unknown.")
    size_bytes: int | None = Field(description="Its size in bytes; null when it could not be opened.")
    functions: int = Field(description="How many functions it defines, methods included.")
    complexity: int = Field(description="The sum of its functions' cyclomatic complexities.")
    max_complexity: int = Field(description="The cyclomatic complexity of its worst function.")
    error: str | None = Field(description="Why it could not be analysed; null when it was.")


class Sums(BaseModel):
    """Numbers over several files."""

    files: int = Field(description="How many files.")
    size_bytes: int = Field(description="Their size in bytes.")
    functions: int = Field(description="Functions, methods included.")
    complexity: int = Field(description="The sum of all cyclomatic complexities.")
    average_complexity: float = Field(description="Complexity per function.")
    max_complexity: int = Field(description="The worst function's complexity.")


class Totals(Sums):
    """Numbers over all files."""

    errors: int = Field(description="How many files could not be analysed.")
    by_language: dict[str, Sums] = Field(description="The same numbers for each language.")


class AnalyzeResult(BaseModel):
    """The files and their sums, or one outcome for each item."""

    files: list[AnalyzedFile] | None = Field(None, description="One row a file, sorted by path.")
    totals: Totals | None = Field(None, description="The sums over all files.")
    items: Outcomes = None


def _judge_analyze(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Pin the paths; without any, the caller's directory is analysed."""
    kept = {"patterns": payload["patterns"]} if payload.get("patterns") else {}
    if payload.get("items") is not None:
        return {**kept, "items": [judge.path(item) for item in payload["items"]]}
    if payload.get("file") is not None:
        return {**kept, "file": judge.path(payload["file"])}
    return {**kept, "path": judge.path(payload.get("path") or judge.cwd)}


ANALYZE = TaskType(
    name="analyze",
    summary="Sizes, functions and cyclomatic complexity of source files in many languages.",
    handler="mcp_pools.task_types.analyze:run",
    payload=AnalyzePayload,
    result=AnalyzeResult,
    check=_judge_analyze,
    takes_items=True,
    example={"path": ".", "patterns": ["*.py"]},
)

# --- compute -------------------------------------------------------------------------------


class ComputePayload(Payload):
    """An expression and its values."""

    expression: Expression = Field(
        description="Arithmetic in Python's notation: operators, comparisons, `a if c else b`, "
        "comprehensions, fields (`x.price`), and sqrt, sin, log, floor, round, min, max, sum and the like."
    )
    variables: dict[str, Any] = Field(
        default_factory=dict, description="Names the expression may use, with their values."
    )
    items: list[Any] | None = Field(None, description="Values to compute it for, each as `x`.")


class ComputeResult(BaseModel):
    """The value, or one outcome for each item."""

    value: Any = Field(None, description="Without `items`: the expression's value.")
    items: Outcomes = None


def _judge_compute(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Refuse what cannot be parsed, before it is queued."""
    expression = payload["expression"].strip()
    try:
        ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise _not_an_expression(expression, f"{error.msg} at column {error.offset}") from None
    except (ValueError, RecursionError, MemoryError):
        raise _not_an_expression(expression, "it holds NUL or is nested too deeply") from None
    return payload


def _not_an_expression(expression: str, reason: str) -> PoolsError:
    return PoolsError(
        "invalid_payload",
        f"{expression!r} is not an expression: {reason}.",
        "Correct it and submit it again.",
    )


COMPUTE = TaskType(
    name="compute",
    summary="Safe arithmetic, once or for each item as x.",
    handler="mcp_pools.task_types.compute:run",
    payload=ComputePayload,
    result=ComputeResult,
    check=_judge_compute,
    takes_items=True,
    example={"expression": "sqrt(x) * k", "variables": {"k": 10}, "items": [1, 4, 9]},
)

# --- transform -----------------------------------------------------------------------------


class TransformPayload(Payload):
    """An expression and what to apply it to."""

    expression: Expression = Field(description="A JMESPath expression.")
    data: Any = Field(None, description="One document to apply it to.")
    items: list[Any] | None = Field(None, description="Several documents, each with its own outcome.")

    @model_validator(mode="after")
    def _one_source(self) -> TransformPayload:
        has_items = self.items is not None
        has_data = self.data is not None or (not has_items and "data" in self.model_fields_set)
        if has_items == has_data:
            raise ValueError("give either data or items")
        return self


class TransformResult(BaseModel):
    """The value, or one outcome for each item."""

    value: Any = Field(None, description="With `data`: what the expression selects.")
    items: Outcomes = None


def _judge_transform(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Refuse what is not JMESPath, before it is queued."""
    import jmespath
    from jmespath.exceptions import JMESPathError

    expression = payload["expression"]
    try:
        jmespath.compile(expression)
    except JMESPathError as error:
        position = getattr(error, "lex_position", None)
        where = f"column {position + 1}" if isinstance(position, int) else "the start"
        raise _not_an_expression(expression, f"JMESPath cannot read it at {where}") from None
    except RecursionError:
        raise _not_an_expression(expression, "it is nested too deeply") from None
    return payload


TRANSFORM = TaskType(
    name="transform",
    summary="Select and reshape JSON with a JMESPath expression.",
    handler="mcp_pools.task_types.transform:run",
    payload=TransformPayload,
    result=TransformResult,
    check=_judge_transform,
    takes_items=True,
    example={"expression": "people[?age > `30`].name", "data": {"people": [{"name": "Ada", "age": 36}]}},
)

# --- query ---------------------------------------------------------------------------------


class QueryPayload(Payload):
    """A statement, and the files or the database it reads."""

    sql: str = Field(
        min_length=1,
        max_length=100_000,
        description="One SELECT. Over `files` it is DuckDB's SQL, each file a view called like the file "
        "without its ending (`sales.csv`: `sales`); in a `database` it is SQLite's.",
    )
    files: list[Path] | None = Field(
        None, min_length=1, max_length=100, description="CSV, Parquet and JSON files."
    )
    database: Path | None = Field(None, description="An SQLite file.", json_schema_extra={"format": "path"})
    max_rows: int = Field(MAX_ROWS, ge=1, le=1_000_000, description="How many rows to return at most.")

    @model_validator(mode="after")
    def _one_source(self) -> QueryPayload:
        if (self.files is None) == (self.database is None):
            raise ValueError("give either files or database")
        return self


class Column(BaseModel):
    """A column of a query's result."""

    name: str = Field(description="Its name.")
    type: str | None = Field(
        description="Its SQL type; in an SQLite database that of its first value, null when there is none."
    )


class QueryResult(BaseModel):
    """The rows that a query selects."""

    columns: list[Column] = Field(description="The columns, in order.")
    rows: list[list[Any]] = Field(
        description="The rows. Dates and times are ISO 8601 text, decimals text, bytes base64; a number "
        "that is not finite is null."
    )
    row_count: int = Field(description="How many rows are here.")
    truncated: bool = Field(description="Whether there are more, beyond `max_rows` or 8 MiB.")


def _judge_query(payload: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Pin the paths; refuse files that are no tables or would be called the same.

    A file keeps its own name, also when it is a symlink: its view is called like it. Where it
    leads is judged here and again, by the open descriptor, when it is read.
    """
    kept: dict[str, Any] = {key: payload[key] for key in ("sql", "max_rows") if key in payload}
    if payload.get("database") is not None:
        return {**kept, "database": judge.path(payload["database"])}
    view_names(payload["files"])
    for path in payload["files"]:
        judge.path(path)
    split = map(os.path.split, payload["files"])
    return {**kept, "files": [os.path.join(judge.real(folder), name) for folder, name in split]}


QUERY = TaskType(
    name="query",
    summary="A read-only SQL statement over CSV, Parquet, JSON or SQLite files.",
    handler="mcp_pools.task_types.query:run",
    payload=QueryPayload,
    result=QueryResult,
    check=_judge_query,
    example={"sql": "SELECT region, sum(amount) AS total FROM sales GROUP BY region", "files": ["sales.csv"]},
)
