"""What every test may ask for."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio: the router is built on it."""
    return "asyncio"


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home whose path is short: a Unix socket in it must stay under 108 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
