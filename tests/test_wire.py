"""Packets: whole, in order, taken once, and never in anybody's way."""

import json
import os
import socket
import threading

import pytest

from mcp_pools import wire


@pytest.fixture
def ends():
    """Both ends of a channel; no descriptor is left of it."""
    before = set(os.listdir("/proc/self/fd"))
    left, right = wire.pair()
    yield left, right
    left.close()
    right.close()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("count", [0, 1, 2000, 2047, 2048, 4095, 4096, 4097, 65535, 65536, 1 << 20, 50 << 20])
def test_a_packet_arrives_as_it_was_sent(ends, count) -> None:
    """Whatever its size; nobody needs to be reading meanwhile."""
    body = os.urandom(1024) * (count // 1024 + 1)
    wire.send(ends[0], ["word", count, None, {"a": [1.5]}], body[:count])
    assert wire.receive(ends[1]) == (["word", count, None, {"a": [1.5]}], body[:count])


def test_a_body_may_hold_any_bytes(ends) -> None:
    """Newlines, which end the header, and what is no text."""
    for body in (b"\n", b"\n\n[1]\n", bytes(range(256)), b"\xff" * 5000):
        wire.send(ends[0], ["é\n\ud800"], body)
        assert wire.receive(ends[1]) == (["é\n\ud800"], body)


def test_packets_keep_their_order_and_their_bounds(ends) -> None:
    """Small and large ones mixed."""
    for number in range(40):
        wire.send(ends[0], [number], b"x" * (number % 3 * 3000))
    assert [wire.receive(ends[1]) for _ in range(40)] == [
        ([number], b"x" * (number % 3 * 3000)) for number in range(40)
    ]


@pytest.mark.parametrize("body", [b"", b"x" * (wire.INLINE_BYTES - 20), b"x" * 10_000])
def test_a_worker_can_be_given_all_it_may_hold(ends, body) -> None:
    """Thirty-two packets of any size fit before one is taken."""
    ends[0].setblocking(False)
    for number in range(32):
        wire.send(ends[0], [number], body)


def test_a_full_channel_says_so(ends) -> None:
    """And loses nothing that it took."""
    ends[0].setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            wire.send(ends[0], [sent], b"x" * 1000)
            sent += 1
    assert [wire.receive(ends[1])[0][0] for _ in range(sent)] == list(range(sent))


def test_an_empty_channel_is_not_waited_for(ends) -> None:
    """Neither when it is non-blocking, nor when asked not to wait."""
    with pytest.raises(BlockingIOError):
        wire.receive(ends[1], wait=False)
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.receive(ends[1])


def test_what_was_sent_before_the_end_is_still_there(ends) -> None:
    """Then the channel is closed, for both sides."""
    wire.send(ends[0], ["last"], b"words")
    ends[0].close()
    assert wire.receive(ends[1]) == (["last"], b"words")
    with pytest.raises(wire.ChannelClosed):
        wire.receive(ends[1])
    with pytest.raises(wire.ChannelClosed):
        wire.send(ends[1], ["anybody?"])
    with pytest.raises(wire.ChannelClosed):
        wire.send(ends[1], ["anybody?"], b"x" * 10_000)


def test_each_packet_is_taken_once(ends) -> None:
    """Though two readers share an end, as router and worker do."""
    taken: list[int] = []
    shared = socket.socket(fileno=os.dup(ends[1].fileno()))

    def take(end):
        try:
            while True:
                taken.append(wire.receive(end, wait=False)[0][0])
        except BlockingIOError:
            return

    for start in range(0, 500, 25):
        for number in range(start, start + 25):
            wire.send(ends[0], [number])
        readers = [threading.Thread(target=take, args=(end,)) for end in (ends[1], shared)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    shared.close()
    assert sorted(taken) == list(range(500))


def test_another_json_is_not_ours(ends, monkeypatch) -> None:
    """A handler may have put something else in its place."""
    monkeypatch.setattr(json, "dumps", lambda *args, **options: "broken")
    monkeypatch.setattr(json, "loads", lambda *args, **options: "broken")
    wire.send(ends[0], ["word", 1], b"body")
    assert wire.receive(ends[1]) == (["word", 1], b"body")
