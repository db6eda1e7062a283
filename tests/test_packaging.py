"""What is installed is what is in the tree, whichever the way: wheel, clone, registry, bundle."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from machine import Machine, machine_of
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from parts import require, require_index

from mcp_pools import __version__
from mcp_pools.tool import TOOLS

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]


def folder(package: str) -> Path:
    """Where a package's files lie."""
    known = SETUPTOOLS["package-dir"]
    return ROOT / known.get(package, package.replace(".", "/"))


def test_every_package_is_installed() -> None:
    """A folder that is not listed would be missing from the wheel."""
    inside = [ROOT / "mcp_pools", ROOT / "tools", ROOT / "adapters"]
    found = {each.parent for top in inside for each in top.rglob("__init__.py")}
    data = set(map(folder, SETUPTOOLS["package-data"]))
    listed = set(map(folder, SETUPTOOLS["packages"]))
    assert data <= listed
    listed -= data - found
    assert {each for each in found if not each.is_symlink()} == listed


def test_every_file_that_is_no_python_is_installed() -> None:
    """Migrations are read from the installed package."""
    data = SETUPTOOLS["package-data"]
    listed = {
        path for package, globs in data.items() for glob in globs for path in folder(package).glob(glob)
    }
    kinds = ("*.sql", "*.json", "*.yaml")
    assert {path for kind in kinds for path in (ROOT / "mcp_pools").rglob(kind)} == listed


# The wheel.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the sources: building leaves files beside them."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mcp_pools", "tools", "adapters"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    uv(
        "build",
        "--wheel",
        "--offline",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "-o",
        made,
        source,
    )
    [built] = made.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and borrows what the wheel depends on from ours."""
    place = tmp_path_factory.mktemp("environment")
    uv("venv", "--offline", "--python", sys.executable, place)
    uv("pip", "install", "--offline", "--no-deps", "--python", place, wheel)
    [packages] = place.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return place / "bin"


def uv(*arguments: str | Path) -> None:
    """Run uv, which says nothing unless it fails."""
    done = subprocess.run(
        [require("uv", "pip install uv"), *arguments], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def elsewhere(home: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine whose clients stand in a directory that has nothing to do with us."""
    with machine_of(home, tmp_path) as machine:
        machine.environment.pop("PYTHONPATH", None)
        yield machine


def tools_of(machine: Machine, command: str, *arguments: str) -> list[str]:
    """What a server offers that this command starts over stdio; it also did some work."""

    async def visit() -> list[str]:
        server = StdioServerParameters(
            command=command, args=list(arguments), env=machine.environment, cwd=machine.directory
        )
        async with Client(server) as client:
            task = await client.call_tool("pool_execute", {"task_type": "echo", "payload": {"x": 1}})
            assert not task.is_error and task.structured_content["result"] == {"x": 1}
            return [tool.name for tool in (await client.list_tools()).tools]

    return anyio.run(visit)


def test_the_wheel_serves_from_anywhere(installed: Path, elsewhere: Machine) -> None:
    """Nothing of this tree is needed."""
    where = [
        installed / "python",
        "-c",
        "import mcp_pools.tools as t, mcp_pools.adapters.local; print(t.__file__)",
    ]
    done = subprocess.run(where, cwd=elsewhere.directory, capture_output=True, text=True, check=True)
    assert Path(done.stdout).is_relative_to(installed.parent)
    assert tools_of(elsewhere, str(installed / "mcp-pools"), "serve") == list(TOOLS)


def test_uvx_runs_the_wheel(wheel: Path, elsewhere: Machine) -> None:
    """With what it depends on, as an index has it today."""
    require_index()
    command = require("uvx", "pip install uv")
    assert tools_of(elsewhere, command, "-q", "--from", str(wheel), "mcp-pools", "serve") == list(TOOLS)


# The clone, the registry and the bundle.


def described(name: str) -> dict[str, Any]:
    """A file that tells others how to start us."""
    return dict(json.loads((ROOT / name).read_text()))


def test_a_clone_offers_itself(elsewhere: Machine) -> None:
    """`.mcp.json` starts what the README's first line installs."""
    (elsewhere.directory / ".venv").symlink_to(sys.prefix)
    server = described(".mcp.json")["mcpServers"]["mcp-pools"]
    assert tools_of(elsewhere, server["command"], *server["args"]) == list(TOOLS)


def test_the_registry_takes_the_description() -> None:
    """What its schema of 2025-12-11 asks for; the README, which PyPI shows, proves whose package it is."""
    server = described("server.json")
    assert server["$schema"].endswith("/schemas/2025-12-11/server.schema.json")
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", server["name"])
    assert f"<!-- mcp-name: {server['name']} -->" in (ROOT / "README.md").read_text()
    assert 1 <= len(server["description"]) <= 100 and 1 <= len(server["title"]) <= 100
    assert server.keys() <= {"$schema", "name", "title", "description", "version", "packages"}
    [package] = server["packages"]
    assert (package["registryType"], package["identifier"]) == ("pypi", PROJECT["name"])
    assert (package["runtimeHint"], package["transport"]) == ("uvx", {"type": "stdio"})
    assert package["packageArguments"] == [{"type": "positional", "value": "serve"}]
    for variable in package["environmentVariables"]:
        assert variable.keys() == {"name", "description", "format"} and variable["format"] == "filepath"


def test_every_version_is_the_packages() -> None:
    """In one release, one number."""
    [package] = described("server.json")["packages"]
    bundle = tomllib.loads((ROOT / "mcpb" / "pyproject.toml").read_text())
    assert {
        PROJECT["version"],
        described("server.json")["version"],
        package["version"],
        described("mcpb/manifest.json")["version"],
        bundle["project"]["version"],
        bundle["tool"]["uv"]["sources"]["mcp-pools"]["path"].split("-")[1],
    } == {__version__}


@pytest.fixture(scope="module")
def bundle(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, packed and unpacked."""
    mcpb = require("mcpb", "npm install @anthropic-ai/mcpb, its .bin on PATH")
    staged, unpacked = tmp_path_factory.mktemp("staged"), tmp_path_factory.mktemp("unpacked")
    shutil.copytree(ROOT / "mcpb", staged, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.whl"))
    shutil.copy(wheel, staged)
    packed = unpacked.with_suffix(".mcpb")
    done = subprocess.run([mcpb, "pack", staged, packed], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    assert packed.stat().st_size < 1_000_000
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_bundle_holds_what_it_needs_and_serves(
    bundle: Path, wheel: Path, installed: Path, elsewhere: Machine
) -> None:
    """A valid manifest that names our tools, and no tests, no environment, no second copy of the sources."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    files = {path.name for path in bundle.rglob("*")}
    assert files == {"manifest.json", "pyproject.toml", manifest["server"]["entry_point"], wheel.name}
    assert [tool["name"] for tool in manifest["tools"]] == list(TOOLS)
    assert [tool["description"] for tool in manifest["tools"]] == [tool.title for tool in TOOLS.values()]
    assert tools_of(elsewhere, str(installed / "python"), str(bundle / "server.py")) == list(TOOLS)


def test_a_host_starts_the_bundle(bundle: Path, elsewhere: Machine) -> None:
    """As the manifest says, with uv, in the directory that its user chose."""
    require_index()
    server = json.loads((bundle / "manifest.json").read_text())["server"]["mcp_config"]
    values = {"${__dirname}": str(bundle), "${user_config.directory}": str(elsewhere.directory)}
    arguments = server["args"]
    for name, value in values.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    assert not [argument for argument in arguments if "${" in argument]
    assert tools_of(elsewhere, server["command"], *arguments) == list(TOOLS)
