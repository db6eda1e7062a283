"""Handlers of these tests can be imported by workers."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(autouse=True)
def handlers_on_the_path(monkeypatch):
    """Workers find `hostile`."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
