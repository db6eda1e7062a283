"""What a pool keeps in its directory from one owner to the next: who it is, and the token of its pods."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

_IDENTITY: Final = "identity"
_TOKEN: Final = "token"  # noqa: S105 - a file's name
FILES: Final = frozenset({_IDENTITY, _TOKEN, "profile"})
"""The names of files that stay, whatever becomes of launches."""


def identity(directory: Path) -> str:
    """The label that tells this home's objects from others'; the same each time."""
    return _kept(directory, _IDENTITY, lambda: os.urandom(12).hex())


def token(directory: Path) -> str:
    """The bearer token for this pool's pods, in a file for its user alone. The cluster has its hash."""
    return _kept(directory, _TOKEN, lambda: secrets.token_urlsafe(32))


def _kept(directory: Path, name: str, make: Callable[[], str]) -> str:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / name
    if not path.exists():
        fresh = directory / f"{name}.{os.getpid()}"
        fresh.touch(mode=0o600)
        fresh.write_text(make())
        fresh.replace(path)
    return path.read_text()
