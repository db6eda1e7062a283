"""What stands under the keys of the configuration that hold more than one value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class PoolDefinition(BaseModel):
    """A pool under `pools:`; fields as in `models.PoolSpec`, omitted ones take the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str | None = None
    min_workers: int | None = Field(None, ge=0)
    max_workers: int | None = Field(None, ge=1)
    workers: int | None = Field(None, ge=0)
    """Fixes the pool at this size."""
    worker_type: str = "python"
    endpoint: str | None = None
    region: str = "default"
    namespace: str = "mcp-pools"
    container_image: str = "python:3.13-slim"
    labels: dict[str, str] = {}
    options: dict[str, Any] = {}


class LimitDefinition(BaseModel):
    """What one pool or one caller may use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Starts a second."""
    burst: int | None = Field(None, ge=1)
    """Starts at once after a quiet time; none: as many as in a second."""
    concurrency: int | None = Field(None, ge=1)
    """Tasks at a time."""


class LimitDefinitions(BaseModel):
    """Limits by name or glob; each pool and each caller that one matches has it for itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: dict[str, LimitDefinition] = {}
    callers: dict[str, LimitDefinition] = {}


class EcosystemEntry(BaseModel):
    """A server or cluster under `ecosystem:`, which `pool_discover` asks whether it is there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    type: Literal["mcp", "session-buddy", "kubernetes", "dask", "ray"] = "mcp"
    endpoint: str = Field(min_length=1)


class SecretSource(BaseModel):
    """Where a secret comes from when a task is launched: exactly one of three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str | None = None
    file: Path | None = None
    command: list[str] | None = Field(None, min_length=1)
    """An argv; what it prints is the secret. No shell is involved."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("must have exactly one of env, file, command")
        return self


class IntrospectionDefinition(BaseModel):
    """Where opaque tokens are asked about (RFC 7662), and as whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    client_id: str = Field(min_length=1)
    client_secret: str = Field(min_length=1)
    """The name of a secret under `secrets:`."""

    @field_validator("url")
    @classmethod
    def _private(cls, url: str) -> str:
        return encrypted(url)


class AuthDefinition(BaseModel):
    """Who may use MCP over HTTP: holders of the tokens of a file, of an issuer, or of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_file: Path | None = None
    """Fixed tokens, see `docs/authorization.md`."""
    issuer: str | None = None
    """The authorization server, as its tokens and its metadata spell it."""
    audience: str | None = Field(default=None, min_length=1)
    """What tokens must be issued for; none: the URL of this server's `/mcp`."""
    introspection: IntrospectionDefinition | None = None
    """Asked about tokens that are no JWT."""

    @property
    def configured(self) -> bool:
        """Whether tokens are asked for at all."""
        return self.tokens_file is not None or self.issuer is not None

    @field_validator("issuer")
    @classmethod
    def _private(cls, url: str | None) -> str | None:
        return None if url is None else encrypted(url)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.issuer is None and (self.audience is not None or self.introspection is not None):
            raise ValueError("must have an issuer when it has an audience or an introspection")
        return self


def encrypted(url: str) -> str:
    """The URL itself. Keys and tokens travel to it: raises `ValueError` without TLS, loopback aside."""
    parts = urlsplit(url)
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError("must be an https:// URL (http:// for a loopback host alone)")
    return url
