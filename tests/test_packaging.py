"""What is installed is what is in the tree: a wheel holds the packages and data that pyproject.toml lists."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


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
