"""Events at a URL: every one of them, in order, whatever the receiver does meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from mcp_pools import Router, Settings, cloud_events, following
from mcp_pools.errors import PoolsError
from mcp_pools.store import Prune
from mcp_pools.tools import pool_distribute, pool_execute, pool_register

pytestmark = pytest.mark.anyio
Judge = Callable[[int, list[dict[str, Any]]], "int | tuple[int, dict[str, str]]"]


class Receiver(ThreadingHTTPServer):
    """A real receiver. `judge(attempt, batch)` says how a batch is answered; only what it takes is kept."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.judge: Judge = lambda attempt, batch: 204
        self.asked = 0
        self.taken: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.kinds: set[str] = set()
        self._closed = False
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/events"

    @property
    def types(self) -> list[str]:
        """What happened, as it was taken."""
        return [event["type"] for event in self.taken]

    def close(self) -> None:
        """Listen no more."""
        if not self._closed:
            self._closed = True
            self.shutdown()
            self.thread.join()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        answer = self.server.judge(self.server.asked, batch)
        status, headers = answer if isinstance(answer, tuple) else (answer, {})
        if 200 <= status < 300:
            self.server.taken += batch
            self.server.batches.append(len(batch))
            self.server.kinds.add(self.headers["Content-Type"])
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that takes everything."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def sending(
    open_router: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractAsyncContextManager[Router]]:
    """A router that sends its events there, and tries again soon."""
    monkeypatch.setattr(cloud_events, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(cloud_events, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(cloud_events, "LINGER_SECONDS", 0.01)
    return lambda **keys: open_router(**({"events_url": receiver.url} | keys))


async def logged(router: Router) -> list[tuple[str, str]]:
    """The event log: places and kinds."""
    return [
        (str(cursor), f"mcp-pools.{event.kind}") for cursor, event in await router.registry.store.events()
    ]


def received(receiver: Receiver) -> list[tuple[str, str]]:
    """The same of what was received."""
    return [(event["id"], event["type"]) for event in receiver.taken]


async def test_every_event_arrives_as_a_cloud_event(sending: Any, receiver: Receiver) -> None:
    """With what CloudEvents 1.0 demands, in the event log's order."""
    async with sending() as router:
        await pool_register(router, name="one", type="local", max_workers=1)
        task = await pool_execute(router, task_type="echo", payload={"hidden": "here"}, pool="one")
        whole = await pool_distribute(router, task_type="echo", payload={"items": [1, 2]})
        source = f"urn:mcp-pools:{await router.registry.store.identity()}"
        await until(lambda: "mcp-pools.distribution.completed" in receiver.types, "its end arrived")
        kept = await logged(router)
        await until(lambda: received(receiver) == kept, "everything arrived")
    subjects = {event["type"]: event["subject"] for event in receiver.taken}
    assert subjects["mcp-pools.task.completed"] == f"tasks/{task.task_id}"
    assert subjects["mcp-pools.distribution.completed"] == f"distributions/{whole.distribution_id}"
    assert subjects["mcp-pools.pool.registered"] == "pools/one"
    assert receiver.kinds == {"application/cloudevents-batch+json; charset=utf-8"}
    for event in receiver.taken:
        assert (event["specversion"], event["source"]) == ("1.0", source)
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
        assert event["datacontenttype"] == "application/json" and isinstance(event["data"], dict)
    assert "hidden" not in json.dumps(receiver.taken)


async def test_many_events_share_a_request(sending: Any, receiver: Receiver) -> None:
    """Fewer requests than events, and no batch beyond its bound."""
    release = threading.Event()
    receiver.judge = lambda attempt, batch: (release.wait(20), 204)[1]
    async with sending() as router:
        for _ in range(cloud_events.MOST):
            await pool_execute(router, task_type="echo", payload={}, wait=False)
        release.set()
        kept = await until(lambda: router.unfinished() == 0 and logged(router), "the tasks ended")
        await until(lambda: len(receiver.taken) == len(kept), "everything arrived")
    assert max(receiver.batches) == cloud_events.MOST and len(receiver.batches) < len(kept) / 10


@pytest.mark.parametrize(
    "answer", [500, 429, 404, 302, (503, {"Retry-After": "0"}), (429, {"Retry-After": "x"})]
)
async def test_what_is_refused_comes_again(
    sending: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """In its order, until it is taken; the log says so once, and when it is over."""
    caplog.set_level("INFO")
    receiver.judge = lambda attempt, batch: answer if attempt <= 3 else 204
    async with sending() as router:
        await pool_execute(router, task_type="echo", payload={})
        kept = await logged(router)
        await until(lambda: received(receiver) == kept, "everything arrived")
    assert receiver.asked > 3
    assert caplog.text.count("events.undelivered") == caplog.text.count("events.delivered") == 1


async def test_a_receiver_that_never_answers_holds_nothing_up(
    sending: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks end, the owner leaves, and the next one sends what the receiver has not taken."""
    monkeypatch.setattr(following, "FAREWELL_SECONDS", 0.05)
    stuck = threading.Event()
    receiver.judge = lambda attempt, batch: (stuck.wait(20), 500)[1]
    async with sending() as router:
        await pool_execute(router, task_type="echo", payload={})
        kept = await logged(router)
    assert receiver.taken == []
    stuck.set()
    receiver.judge = lambda attempt, batch: 204
    async with sending() as router:
        await until(lambda: received(receiver)[: len(kept)] == kept, "the next owner sent it")


async def test_a_receiver_that_dies_and_returns_misses_nothing(
    sending: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listens at its port for a while; what happens meanwhile comes afterwards, once."""
    async with sending() as router:
        await pool_execute(router, task_type="echo", payload={})
        await until(
            lambda: receiver.types[-1:] == ["mcp-pools.task.completed"], "the first task's end arrived"
        )
        receiver.close()
        await pool_execute(router, task_type="echo", payload={})
        await until(lambda: "events.undelivered" in caplog.text, "it was noticed")
        again = Receiver(receiver.server_port)
        kept = await logged(router)
        try:
            await until(lambda: received(receiver) + received(again) == kept, "everything arrived once")
        finally:
            again.close()


async def test_what_was_left_comes_from_the_next_owner(sending: Any, receiver: Receiver, home: Path) -> None:
    """And nothing a second time that was taken."""
    async with sending() as router:
        await pool_execute(router, task_type="echo", payload={})
    assert receiver.types[-1] == "mcp-pools.task.completed"  # on leaving, all is sent
    receiver.judge = lambda attempt, batch: 500
    async with sending() as router:
        await pool_execute(router, task_type="echo", payload={})
    receiver.judge = lambda attempt, batch: 204
    async with sending() as router:
        kept = await logged(router)
        await until(lambda: received(receiver) == kept, "everything arrived once")
    assert json.loads((home / "events-sent.json").read_text())["cursor"] == int(kept[-1][0])


async def test_a_new_receiver_begins_with_what_happens_from_now_on(
    sending: Any, receiver: Receiver, open_router: Any
) -> None:
    """Also one under another URL: it does not get a month of the past."""
    async with open_router() as router:
        old = await pool_execute(router, task_type="echo", payload={})
    for url in (receiver.url, f"{receiver.url}/other"):
        receiver.taken.clear()
        async with sending(events_url=url) as router:
            new = await pool_execute(router, task_type="echo", payload={})
            await until(lambda: receiver.types[-1:] == ["mcp-pools.task.completed"], "its end arrived")
        subjects = {event["subject"] for event in receiver.taken}
        assert f"tasks/{new.task_id}" in subjects and f"tasks/{old.task_id}" not in subjects
        old = new


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"cursor": "x"}', b"\xff"])
async def test_a_damaged_position_is_a_new_receiver(
    sending: Any, receiver: Receiver, home: Path, content: bytes
) -> None:
    """And is written anew."""
    (home / "events-sent.json").write_bytes(content)
    async with sending() as router:
        await pool_execute(router, task_type="echo", payload={})
    assert receiver.types[-1] == "mcp-pools.task.completed"


async def test_what_the_log_forgets_first_is_told_as_lost(
    sending: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says how many events never reached the receiver."""
    receiver.judge = lambda attempt, batch: 500
    async with sending() as router:
        for _ in range(3):
            await pool_execute(router, task_type="echo", payload={})
        await until(lambda: receiver.asked > 0, "it was tried")
        count = len(await logged(router))
        await router.registry.store.commit(Prune(4e9))
        receiver.judge = lambda attempt, batch: 204
        await pool_execute(router, task_type="echo", payload={})
        await until(lambda: receiver.types[-1:] == ["mcp-pools.task.completed"], "the latest arrived")
    assert "events.dropped" in caplog.text and f"dropped={count - 1}" in caplog.text


async def test_a_batch_that_is_too_large_comes_in_pieces(
    sending: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that alone is too large is dropped, and the log says so."""
    receiver.judge = lambda attempt, batch: (
        413 if len(batch) > 1 or "task.started" in batch[0]["type"] else 204
    )
    async with sending() as router:
        for _ in range(3):
            await pool_execute(router, task_type="echo", payload={})
        await until(lambda: receiver.types.count("mcp-pools.task.completed") == 3, "the ends arrived")
    assert set(receiver.batches) == {1} and "mcp-pools.task.started" not in receiver.types
    assert "dropped=1" in caplog.text


async def test_a_receiver_that_is_gone_for_good_is_left_alone(
    sending: Any, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """That is what HTTP 410 says."""
    receiver.judge = lambda attempt, batch: 410
    async with sending() as router:
        for _ in range(2):
            await pool_execute(router, task_type="echo", payload={})
            await until(lambda: "events.off" in caplog.text, "it was noticed")
    assert receiver.asked == 1


async def test_secrets_in_an_events_data_are_masked(sending: Any, receiver: Receiver, home: Path) -> None:
    """A pool's health may quote a library that quotes a URL."""
    async with sending() as router:
        pool = router.registry.pools["local"]
        before, pool.health, pool.reason = pool.health, "unhealthy", "https://user:hunter22@peer refused"
        router.registry._noted(pool, before)
        await until(lambda: "mcp-pools.pool.unhealthy" in receiver.types, "it arrived")
    assert "hunter22" not in json.dumps(receiver.taken) and "https://***@peer" in json.dumps(receiver.taken)
    assert receiver.url not in (home / "events-sent.json").read_text()


@pytest.mark.parametrize(
    "url", ["ftp://example.org", "example.org/events", "https://", "file:///etc/passwd", ""]
)
def test_a_url_that_is_none_is_refused(home: Path, url: str) -> None:
    """Without repeating it: it may hold a password."""
    with pytest.raises(PoolsError, match="events_url") as refused:
        Settings(home=home, events_url=url)
    assert not url or url not in str(refused.value)


def test_a_working_directory_may_not_say_where_events_go(tmp_path: Path, home: Path) -> None:
    """Somebody else may have written its file."""
    from mcp_pools.settings import working_directory_defaults

    (tmp_path / "mcp-pools.yaml").write_text("events_url: https://example.org/\n")
    with pytest.raises(PoolsError, match="events_url"):
        working_directory_defaults(tmp_path, Settings(home=home))
