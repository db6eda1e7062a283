"""Fixed tokens, for a server with a few users and no authorization server.

    - subject: ci
      sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      scopes: [pools:execute]
    - subject: ana
      token: 3Jq0T1uXlCw8mA2rXW1v0Q
      scopes: [pools:admin]

The file is for its user alone; one that is root's may be readable by its group, as in a volume of
a Kubernetes Secret. It is read again when it has changed; while it cannot be read, none of its tokens
is valid.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from mcp.server.auth.provider import AccessToken
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from mcp_pools.auth import RESERVED, SCOPES, Unavailable
from mcp_pools.errors import PoolsError, nearest

_LARGEST: Final = 1 << 20


class _Entry(BaseModel):
    """One token: itself, or the SHA-256 of its UTF-8 bytes in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    subject: str = Field(min_length=1)
    token: Annotated[str, Field(min_length=16)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    scopes: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> _Entry:
        if (self.token is None) is (self.sha256 is None):
            raise ValueError("must have exactly one of token, sha256")
        if self.subject == RESERVED:
            raise ValueError(f"must not call a subject {RESERVED!r}, the caller without a token")
        for scope in self.scopes:
            if scope not in SCOPES:
                raise ValueError(f"must not have the scope {scope!r}. {nearest(scope, SCOPES)}".rstrip())
        return self

    @property
    def digest(self) -> str:
        """What is compared."""
        return self.sha256.lower() if self.sha256 else _digest(self.token or "")


_ENTRIES: Final = TypeAdapter(list[_Entry])


class TokenFile:
    """The tokens of one file.

    Raises:
        PoolsError: `invalid_payload`: it is not there, is open to others, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._seen: tuple[int, ...] = ()
        self._granted: dict[str, _Entry] = {}
        self._refresh()

    async def verify(self, token: str) -> AccessToken | None:
        """What a token stands for; every entry is compared, each in constant time."""
        try:
            self._refresh()
        except PoolsError as wrong:
            raise Unavailable(wrong.message) from None
        digest, found = _digest(token), None
        for each in self._granted:
            if hmac.compare_digest(each, digest):
                found = self._granted[each]
        if found is None:
            return None
        return AccessToken(token="", client_id=found.subject, subject=found.subject, scopes=found.scopes)

    def _refresh(self) -> None:
        try:
            with self._path.open("rb") as file:
                now = os.fstat(file.fileno())
                seen = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_mode)
                if seen == self._seen:
                    return
                self._seen, self._granted = (), {}
                if stat.S_IMODE(now.st_mode) & (0o037 if now.st_uid == 0 else 0o077):
                    raise self._wrong("others may read or write it", f"Run: chmod 600 {self._path}")
                text = file.read(_LARGEST + 1)
        except OSError as failure:
            raise self._wrong(failure.strerror or "it cannot be read") from None
        self._granted = self._read(text)
        self._seen = seen

    def _read(self, text: bytes) -> dict[str, _Entry]:
        if len(text) > _LARGEST:
            raise self._wrong(f"it is longer than {_LARGEST} bytes")
        try:
            found: Any = yaml.safe_load(text.decode())
            entries = _ENTRIES.validate_python(found or [])
        except (UnicodeError, yaml.YAMLError):
            raise self._wrong("it is no YAML") from None  # the parser's words would quote a token
        except ValidationError as invalid:
            raise self._wrong(_explained(invalid)) from None
        granted = {each.digest: each for each in entries}
        if len(granted) < len(entries):
            raise self._wrong("it has a token twice")
        return granted

    def _wrong(self, why: str, next: str = "Correct it; docs/authorization.md shows one.") -> PoolsError:
        return PoolsError("invalid_payload", f"auth.tokens_file {self._path} is wrong: {why}.", next)


def _explained(invalid: ValidationError) -> str:
    """Which entry, which field, and what is wrong; never what stands there."""
    return "; ".join(
        f"{'.'.join(['entry', *map(str, each['loc'])])}: {each['msg'].removeprefix('Value error, ')}"
        for each in invalid.errors(include_url=False, include_input=False)[:8]
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
