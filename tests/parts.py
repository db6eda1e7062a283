"""Parts of the tests that not every machine has: a test that needs one says so."""

import os
import shutil

import pytest


def require(program: str, how: str) -> str:
    """The path of a program. Without it the test is skipped; where every part must be there, it fails."""
    found = shutil.which(program)
    if found is not None:
        return found
    message = f"needs {program}: {how}"
    if os.environ.get("MCP_POOLS_TEST_ALL_PARTS"):
        pytest.fail(message)
    pytest.skip(message)
