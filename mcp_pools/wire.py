"""Packets between the router and a worker process.

A channel is a pair of Unix sockets that keeps packet boundaries (`SOCK_SEQPACKET`). A
packet is one JSON header, a newline, and a body of any bytes. A body too large for the
socket's buffer travels beside the packet, in a memory file whose descriptor is passed
along, so a send never blocks on a large payload and never splits one.

The router keeps the worker's end open too: a packet still in it was never taken, so
whoever reads it out, worker or router, is the only one to have it. Taking the packet
*is* the start of the task.

Standard library only: the worker imports it.
"""

import json
import os
import socket
import sys
from typing import Any, Final

INLINE_BYTES: Final = 2048
"""Larger packets travel in a memory file. Of this size, 98 fit the buffer."""

_BUFFER_BYTES: Final = 1 << 18
"""Asked of the kernel, which grants as much as it is set up to, and then reckons twice that."""

_PACKET_BYTES: Final = 65536
_ONE_DESCRIPTOR: Final = socket.CMSG_LEN(4)

# Bound now: a handler may put something else in the module `json` later.
_encoded: Final = json.JSONEncoder(separators=(",", ":")).encode
_decoded: Final = json.JSONDecoder().decode


class ChannelClosed(Exception):
    """The other side is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new channel."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ends


def send(channel: socket.socket, header: list[Any], body: bytes = b"") -> None:
    """Send one packet.

    Raises:
        BlockingIOError: the channel is non-blocking and full.
        ChannelClosed: nobody reads any more.
        OSError: there is no room for a memory file, or no descriptor.
    """
    head = _encoded(header).encode()
    try:
        if len(head) + len(body) < INLINE_BYTES:
            channel.send(b"%s\n%s" % (head, body))
        else:
            _send_large(channel, head, body)
    except (BrokenPipeError, ConnectionResetError) as gone:
        raise ChannelClosed from gone


def _send_large(channel: socket.socket, head: bytes, body: bytes) -> None:
    memory = os.memfd_create("mcp-pools", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "wb") as file:
            file.write(head + b"\n")
            file.write(body)
        socket.send_fds(channel, [b"\n"], [memory])
    finally:
        os.close(memory)


def receive(channel: socket.socket, *, wait: bool = True) -> tuple[list[Any], bytes]:
    """Take one packet.

    `wait=False` asks for one that is already there. The worker's end is the same open
    socket in both processes, so the router must not make it non-blocking to look into it.

    Raises:
        BlockingIOError: the channel is non-blocking, or should not be waited for, and empty.
        ChannelClosed: the other side is gone and nothing is left to take.
    """
    try:
        packet, beside, _, _ = channel.recvmsg(
            _PACKET_BYTES, _ONE_DESCRIPTOR, socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        )
    except ConnectionResetError as gone:
        raise ChannelClosed from gone
    if beside:
        descriptor = int.from_bytes(beside[0][2], sys.byteorder)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            packet = file.read()
    if not packet:
        raise ChannelClosed
    head, _, body = packet.partition(b"\n")
    return _decoded(head.decode()), body
