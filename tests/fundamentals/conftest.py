"""Every lesson gets a home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_pools import Settings


@pytest.fixture
def settings(home: Path) -> Settings:
    """The smallest configuration: where to keep everything, and how many workers to have."""
    return Settings(home=home, pool_default_max_workers=2)
