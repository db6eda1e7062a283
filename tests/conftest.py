"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from mcp import Client
from served import Server
from transports import session_transport
from waiting import until

from mcp_pools import Router, Settings

# Modules that assert and are no tests themselves.
pytest.register_assert_rewrite(
    "stores.conformance", "stores.distribution_conformance", "stores.search_conformance"
)

# How long an example takes says something of the machine, nothing of the code.
hypothesis.settings.register_profile(
    "mcp-pools", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("mcp-pools")


def pytest_xdist_auto_num_workers() -> int:
    """Two test processes a core: what a test does, it spends half of the time waiting for."""
    return 2 * (os.cpu_count() or 1)


OpenRouter = Callable[..., AbstractAsyncContextManager[Router]]
Connect = Callable[..., AbstractAsyncContextManager[Client]]


class Gate:
    """A file that tasks of type `hold` wait for; each says when it has begun."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def task(self) -> dict[str, Any]:
        """Arguments of a task that waits for this gate."""
        return {"task_type": "hold", "payload": {"gate": str(self.path)}}

    async def entered(self, attempt: int = 1) -> None:
        """Returns once such a task runs."""
        await until(lambda: self.path.with_name(f"{self.path.name}.{attempt}").exists(), "a task began")

    def open(self) -> None:
        """Let them all go on."""
        self.path.touch()


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


@pytest.fixture
def user(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of a user who has nothing yet: no client's files, no clusters."""
    for name in ("XDG_CONFIG_HOME", "KUBECONFIG", "DASK_SCHEDULER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home / "user"))
    (home / "user").mkdir()
    return home / "user"


@pytest.fixture
def open_router(home: Path, user: Path, monkeypatch: pytest.MonkeyPatch) -> OpenRouter:
    """`async with open_router(max_queue=3) as router`: a router of this test's home.

    It offers `workloads`, too. Opened again, it finds what the one before left.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def opened(**keys: Any) -> AbstractAsyncContextManager[Router]:
        given = {"task_modules": ["workloads"], "pool_default_max_workers": 2} | keys
        return Router.open(Settings(home=home, **given))

    return opened


@pytest.fixture
async def router(open_router: OpenRouter) -> AsyncIterator[Router]:
    """A router with the implied pool, of two workers at most."""
    async with open_router() as router:
        yield router


@pytest.fixture
def gate(home: Path) -> Gate:
    """What `hold` tasks wait for."""
    return Gate(home / "gate")


@pytest.fixture(params=["legacy", "auto"], ids=["2025-11-25", "2026-07-28"])
def connect(router: Any, request: pytest.FixtureRequest) -> Connect:
    """`async with connect(read_only=True) as client`, once in each protocol era."""

    @asynccontextmanager
    async def open_client(**flags: Any) -> AsyncIterator[Client]:
        async with Client(session_transport(router, flags), mode=request.param) as client:
            yield client

    return open_client


@pytest.fixture
def environment(home: Path, user: Path) -> dict[str, str]:
    """What servers and commands of this test are started with."""
    return {
        **os.environ,
        "MCP_POOLS_HOME": str(home / "state"),
        "MCP_POOLS_TASK_MODULES": '["workloads"]',
        "MCP_POOLS_POOL_DEFAULT_MAX_WORKERS": "2",
        "PYTHONPATH": str(Path(__file__).parent),
    }


@pytest.fixture
def serve(home: Path, environment: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """`serve("--read-only", http_drain_seconds="1")` starts a server; it ends with the test."""
    started: list[Server] = []

    def start(*flags: str, **keys: str) -> Server:
        more = {f"MCP_POOLS_{key.upper()}": value for key, value in keys.items()}
        started.append(Server(home / "state", environment | more, *flags))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A server with no flags."""
    return serve()
