"""Every built-in type is declared completely, and loads nothing heavy in a worker."""

import importlib
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_type import TaskType
from mcp_pools.task_types import catalog

TYPES = [value for value in vars(catalog).values() if isinstance(value, TaskType)]


def by_name(kind: TaskType) -> str:
    """A type's name, for the test's id."""
    return kind.name


def test_the_entry_points_name_exactly_these_types() -> None:
    """What is declared is what plug-in loading finds."""
    published = {point.name: point.load() for point in entry_points(group="mcp_pools.task_types")}
    for kind in TYPES:
        assert published[kind.name] is kind


# The example of `http` is about somebody else's server.
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind.name != "http"], ids=by_name)
def test_each_type_runs_its_own_example(kind: TaskType, context: Any) -> None:
    """The example in the documentation passes the schema, the judge, the handler and the result model."""
    Path(context.cwd, "sales.csv").write_text("region,amount\nnorth,1\nsouth,2\nnorth,3\n")
    payload = kind.payload.model_validate(kind.example).model_dump()
    if kind.check is not None:
        payload = kind.check(
            payload,
            Judge(
                Allow(commands=("ls", "wc"), python=("statistics",), prompts=("*",)),
                context.roots,
                context.cwd,
            ),
        )
    module, _, function = kind.handler.partition(":")
    result = getattr(importlib.import_module(module), function)(payload, context)
    if kind.result is not None:
        kind.result.model_validate(result)


@pytest.mark.parametrize("kind", TYPES, ids=by_name)
def test_each_field_is_described(kind: TaskType) -> None:
    """Clients learn a payload from its schema alone."""
    for name, schema in kind.payload.model_json_schema().get("properties", {}).items():
        assert schema.get("description"), name


def test_paths_are_marked_so_that_the_console_resolves_them() -> None:
    """Lists of paths included."""
    assert catalog.ANALYZE.path_fields == ("file", "path", "items")
    assert catalog.COMMAND.path_fields == ("cwd",)
    assert catalog.QUERY.path_fields == ("files", "database")


def test_checked_payloads_pass_the_schema_and_the_check_again(context: Any) -> None:
    """A stored payload can be submitted as it is."""
    judge = Judge(Allow(commands=("*",), prompts=("*",)), context.roots, context.cwd)
    for kind, payload in [
        (catalog.ANALYZE, {"items": ["a", "b"], "path": "{item}"}),
        (catalog.TRANSFORM, {"items": [1], "expression": "@"}),
        (catalog.TRANSFORM, {"data": None, "expression": "@"}),
        (catalog.COMMAND, {"argv": ["sh"], "stdin": {"$secret": "A"}}),
        (catalog.PROCESS, {"items": ["a"], "argv": ["sh", "{item}"]}),
        (catalog.QUERY, {"sql": "SELECT 1", "files": ["a.csv", "b/c.json"], "max_rows": 5}),
        (catalog.QUERY, {"sql": "SELECT 1", "database": "a.db", "max_rows": 5}),
        (catalog.PROMPT, {"prompt": "do", "worktree": "a/branch"}),
    ]:
        assert kind.check is not None
        stored = kind.check(kind.payload.model_validate(payload).model_dump(exclude_unset=True), judge)
        again = kind.check(kind.payload.model_validate(stored).model_dump(), judge)
        assert {k: v for k, v in again.items() if v} == {k: v for k, v in stored.items() if v}


def test_handlers_import_only_the_standard_library_and_the_policy() -> None:
    """A worker starts fast, and the same file runs in a bare container."""
    modules = [kind.handler.partition(":")[0] for kind in TYPES]
    heavy = (
        "{'pydantic', 'lizard', 'simpleeval', 'jmespath', 'asyncio', 'socket', 'duckdb', 'sqlite3', 'httpx'}"
    )
    code = f"import sys, {', '.join(modules)}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
