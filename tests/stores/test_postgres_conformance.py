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
    """A server for all of them; one after the other has it to itself."""
    with served() as url:
        yield url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All tests on the store itself; with bad luck those of changes, which it is about, once each."""
    if "implementation" not in metafunc.fixturenames:
        return
    function = metafunc.function
    reads = function.__module__.endswith("search_conformance")
    repeated = any(mark.args[0] in ("size", "text", "seed") for mark in getattr(function, "pytestmark", ()))
    names = list(POSTGRES)[:1] if reads or repeated else list(POSTGRES)
    metafunc.parametrize("implementation", names, indirect=True)


@pytest.fixture
def implementation(request: pytest.FixtureRequest) -> str:
    """A store's name."""
    return str(request.param)


@pytest.fixture
def examples() -> int:
    """Opening this store takes ten times as long."""
    return 3
