"""Parts of the tests that not every machine has: a test that needs one says so."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def require(program: str, how: str) -> str:
    """The path of a program. Without it the test is skipped; where every part must be there, it fails."""
    found = shutil.which(program)
    if found is not None:
        return found
    _lacks(f"needs {program}: {how}")


def require_file(path: Path, how: str) -> None:
    """Without the file the test is skipped; where every part must be there, it fails."""
    if not path.exists():
        _lacks(f"needs {path}: {how}")


def require_module(name: str, how: str) -> None:
    """Without the module the test is skipped; where every part must be there, it fails."""
    if importlib.util.find_spec(name) is None:
        _lacks(f"needs the module {name}: {how}")


def require_index() -> None:
    """Packages must be there to install, which only the gate promises: elsewhere the test is skipped."""
    if not os.environ.get("MCP_POOLS_TEST_ALL_PARTS"):
        pytest.skip("needs a package index: .ci/run test")


def _lacks(message: str) -> NoReturn:
    if os.environ.get("MCP_POOLS_TEST_ALL_PARTS"):
        pytest.fail(message)
    pytest.skip(message)
