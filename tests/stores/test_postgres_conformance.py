"""The same suite on PostgreSQL: beside the other, for each has a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stores.implementations import POSTGRES
from stores.postgres_server import served

from stores.test_conformance import *  # noqa: F403 isort: skip

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[str]:
    """A server for all of them; each test has a schema of its own."""
    with served() as url:
        yield url


@pytest.fixture(params=POSTGRES)
def implementation(request: pytest.FixtureRequest) -> str:
    """A store's name."""
    return str(request.param)


@pytest.fixture
def examples() -> int:
    """Opening this store takes ten times as long."""
    return 3
