"""The bearer token for a server: where it comes from, and when it is read anew.

No token is kept longer than it is used, and none stands in a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Bearer(Protocol):
    """Has the token for one server."""

    async def token(self, refused: str | None = None) -> str | None:
        """A token that is valid now, as far as we know; `None`: none is wanted.

        Args:
            refused: the token that the server has just turned away. Another one is looked for; the
                same comes back when there is no other.

        Raises:
            PoolsError: there is none to be had.
        """


class NoBearer:
    """For a server that asks nobody who they are (`Bearer`)."""

    async def token(self, refused: str | None = None) -> str | None:
        """None."""
        return None


class SecretBearer:
    """A configured secret is the token (`Bearer`); `read` reads it, may block and raises `PoolsError`.

    It is read once, and again when the server refuses it: it may have been replaced.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read
        self._token: str | None = None

    async def token(self, refused: str | None = None) -> str | None:
        """See `Bearer.token`."""
        if self._token is None or self._token == refused:
            self._token = await asyncio.to_thread(self._read)
        return self._token
