"""The shape of the source: layers, sizes, names, and what each door may load.

Every module has a layer. It imports from lower ones; where several modules share a layer
that lists files, also from its own, without cycles. Members of a folder never import each
other: they know their contract, not their siblings.
"""

import ast
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    0: "models errors states",
    1: "routing queueing quotas chunks group_commit distribution wire "
    "policy addresses definitions secret searchable memory memo adapter store task_type settings "
    "telemetry delegate way ways bearer line profile profiles one_call far_pool client_credentials "
    "home hello detached jsonrpc connection outbox replay processes "
    "worker_process carrier places engine engine_pool engine_worker "
    "program payload filling tabular ecosystem agents worktree shortening tracing trail redaction events "
    "kube frames bundle credentials api informer reasons manifest attempt carriage kept endpoints deployment "
    "worker_pods",
    2: "plugins present bridge otlp memories stores task_types adapters engines",
    3: "worker link container commits counting intake pool registry dispatcher history live_distribution "
    "distributor balancing discovery moves outward following cloud_events remembering recall",
    4: "router",
    5: "tool questions reading",
    6: "tools",
    7: "selection server confirmation tasks_extension task_handles auth peer client reach console flags "
    "output own serve progress "
    "formats blocks views task_views general tables markdown plain_text doctor transport calls sessions "
    "owner_log additions watch follow live observed screen pool_rows gauges keyboard full_screen refusal "
    "completion reference answers type_listing resources subscriptions prompts completions http_address "
    "drain http_server http_door http_guard issuer token_file tokens event_store event_messages "
    "exposition metrics_door logs",
    8: "owner",
    9: "__init__ __main__ foreground",
}
LAYER = {name: number for number, names in LAYERS.items() for name in names.split()}
SHARED = (0, 1, 3, 7)
"""Layers whose files may import from each other."""
PARTS = {"doors", "terminal", "kube"}
"""Folders that are no more than a place: their files have layers of their own."""
FOLDERS = {"stores", "task_types", "tools", "adapters", "ways", "profiles", "memories", "engines"}
MAY = (
    "adapter agents models errors telemetry wire delegate far_pool profiles worker_process "
    "kube bundle credentials api informer reasons manifest attempt carriage kept worker_pods "
    "engine_pool places"
)
ADAPTERS_MAY_IMPORT = set(MAY.split())
SPEAKERS = {
    "console",
    "output",
    "own",
    "serve",
    "formats",
    "doctor",
    "owner",
    "bridge",
    "foreground",
    "__main__",
}
"""Modules that may print."""
LIGHT = ("wire", "worker", "home", "bridge")
"""Modules that start with every worker, bridge and command: standard library only."""
HEAVY = ("pydantic", "asyncio", "mcp", "anyio", "yaml", "httpx", "opentelemetry")
FORBIDDEN = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}
LONGEST_MODULE, LONGEST_FUNCTION = 500, 65
EXCUSE = "Reason for its length:"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """An import statement: the module it names, and when it happens."""

    module: str
    at_start: bool
    for_types: bool


@cache
def source() -> dict[str, ast.Module]:
    """Every product module by its name without `mcp_pools.`; the package itself is `__init__`."""
    files = {
        file.relative_to(ROOT / top): file
        for top, folder in (("mcp_pools", "mcp_pools"), (".", "tools"), (".", "adapters"))
        for file in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in file.parents if parent != ROOT)
    }
    return {
        ".".join(place.with_suffix("").parts): ast.parse(file.read_text(), str(file))
        for place, file in sorted(files.items())
    }


MODULES = sorted(source())


def top(module: str) -> str:
    """What has the layer: a file, also one of a part, or a folder of implementations."""
    first, _, rest = module.partition(".")
    return rest if first in PARTS and rest else first


def visit(node: ast.AST, at_start: bool = True, for_types: bool = False) -> Iterator[Import]:
    """The imports below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_start, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (Import(f"{child.module}.{alias.name}", at_start, for_types) for alias in child.names)
        types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        starts = at_start and not isinstance(child, Function)
        yield from visit(child, starts, for_types or types_only)


def ours(module: str) -> list[tuple[str, Import]]:
    """The product modules that a module imports."""
    found = []
    for imported in visit(source()[module]):
        parts = imported.module.split(".")
        if parts[0] != "mcp_pools":
            continue
        while parts and ".".join(parts[1:]) not in source():
            if ".".join([*parts[1:], "__init__"]) in source():
                parts.append("__init__")
                break
            parts.pop()
        target = ".".join(parts[1:])
        if target and target not in (
            module,
            "__init__",
        ):  # the package itself is lazy: anybody may ask its version
            found.append((target, imported))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_layer_and_imports_downward(module: str) -> None:
    """A new module gets its layer in the table above, on purpose."""
    assert top(module) in LAYER, f"give {top(module)!r} a layer"
    own = LAYER[top(module)]
    for target, _ in ours(module):
        assert top(target) in LAYER, f"give {top(target)!r} a layer"
        inside = top(target) == top(module) and top(module) in FOLDERS
        beside = LAYER[top(target)] == own and own in SHARED
        assert LAYER[top(target)] < own or beside or inside, f"{module} imports {target}"


@pytest.mark.parametrize("module", [name for name in MODULES if top(name) in FOLDERS])
def test_members_of_a_folder_do_not_import_each_other(module: str) -> None:
    """Only the folder's own index knows them all; `sql/` below a folder holds parts of its members."""
    folder, _, name = module.rpartition(".")
    siblings = [target for target, _ in ours(module) if target.rpartition(".")[0] == folder]
    assert name in ("__init__", "catalog") or folder.endswith(".sql") or not siblings


@pytest.mark.parametrize("module", [name for name in MODULES if top(name) == "adapters"])
def test_adapters_import_their_contract_only(module: str) -> None:
    """Built-in pool types use nothing that a plug-in cannot."""
    used = {top(target) for target, _ in ours(module)} - {"adapters"}
    assert used <= ADAPTERS_MAY_IMPORT


def test_there_is_no_import_cycle() -> None:
    """Counting imports inside functions too; only those for type checkers do not matter."""
    graph = {
        module: {target for target, imported in ours(module) if not imported.for_types} for module in MODULES
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module: str) -> None:
    """Or say in their docstring why they are not."""
    tree = source()[module]
    lines = max((node.end_lineno or 0 for node in ast.walk(tree) if isinstance(node, ast.stmt)), default=0)
    assert lines <= LONGEST_MODULE or EXCUSE in (ast.get_docstring(tree) or "")
    for node in ast.walk(tree):
        if isinstance(node, Function):
            length = (node.end_lineno or 0) - node.lineno + 1
            excused = EXCUSE in (ast.get_docstring(node) or "")
            assert length <= LONGEST_FUNCTION or excused, f"{node.name}: {length} lines"


@pytest.mark.parametrize("module", MODULES)
def test_names_say_something(module: str) -> None:
    """No module is named after nothing in particular."""
    assert not FORBIDDEN & set(module.split("."))


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """The public classes, functions and methods of a module or class."""
    for node in body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{node.name}.")


@cache
def contracted() -> frozenset[str]:
    """Methods that a contract documents for all its implementations."""
    return frozenset(
        name.rpartition(".")[2]
        for contract in ("adapter", "memory", "store", "profile", "way", "bearer")
        for name, node in public(source()[contract].body)
        if "." in name and ast.get_docstring(node)
    )


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_documented(module: str) -> None:
    """Modules, classes, functions and methods say what they are for."""
    tree = source()[module]
    assert ast.get_docstring(tree)
    told = {*dir(asyncio.Protocol), *(contracted() if top(module) in FOLDERS else ())}
    silent = [name for name, node in public(tree.body) if not ast.get_docstring(node)]
    assert not [name for name in silent if "." not in name or name.rpartition(".")[2] not in told]


@pytest.mark.parametrize("module", [name for name in MODULES if top(name) not in SPEAKERS])
def test_only_the_doors_print(module: str) -> None:
    """Everything else returns, raises or logs."""
    calls = [node for node in ast.walk(source()[module]) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@pytest.mark.parametrize("module", [name for name in LIGHT if name in MODULES])
def test_light_modules_reach_only_the_standard_library(module: str) -> None:
    """Through everything they import at their start; `home` and `bridge` also later."""
    later = module in ("home", "bridge")
    reached, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        reached.add(current)
        for target, imported in ours(current):
            if (imported.at_start or later) and not imported.for_types and target not in reached:
                waiting.append(target)
        for imported in visit(source()[current]):
            name = top(imported.module)
            light = name in sys.stdlib_module_names or name == "mcp_pools" or imported.for_types
            assert light or not (imported.at_start or later), f"{current} imports {imported.module}"


@pytest.mark.parametrize("module", [name for name in LIGHT if name in MODULES])
def test_light_modules_start_without_anything_heavy(module: str) -> None:
    """What is loaded in a fresh interpreter, whatever the source says."""
    code = f"import sys, mcp_pools.{module}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_of_layers_lists_nothing_twice() -> None:
    """One layer each; lower numbers first."""
    listed = [name for names in LAYERS.values() for name in names.split()]
    assert len(listed) == len(set(listed))
    assert all(low < high for low, high in pairwise(LAYERS))
