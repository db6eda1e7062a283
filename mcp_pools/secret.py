"""Secrets: payloads refer to them as `{"$secret": "NAME"}`, and only a launch fills them in.

`read_secret` is the one function here that reads anything, and its readers are arguments.
"""

# Paths are strings here, as in the configuration.

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from mcp_pools.errors import PoolsError, nearest

REFERENCE: Final = "$secret"
_SECRET_ENDINGS: Final = (
    "authorization",
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "cookie",
)
_PAGING: Final = frozenset({"next", "page", "continuation"})


def secret_names(payload: Any) -> tuple[str, ...]:
    """The names a payload refers to as `{"$secret": "NAME"}`, sorted.

    Raises:
        PoolsError: `invalid_payload` for a reference that is not exactly of that shape.
    """
    return tuple(sorted(set(_references(payload))))


def _references(value: Any) -> Iterator[str]:
    if (name := _reference(value)) is not None:
        yield name
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _invalid(message: str, next: str) -> PoolsError:
    return PoolsError("invalid_payload", message, next)


def _reference(value: Any) -> str | None:
    """The name a `{"$secret": NAME}` holds; `None` for anything else."""
    if not isinstance(value, Mapping) or REFERENCE not in value:
        return None
    name = value[REFERENCE]
    if len(value) > 1 or not isinstance(name, str) or not name:
        raise _invalid(
            f"A secret reference has the wrong shape (keys {sorted(value)!r}).",
            'Write it as {"$secret": "NAME"}, with no other key.',
        )
    return name


def refuse_plain_secrets(payload: Any) -> None:
    """Refuse text under keys that look like secrets (authorization, token, password, api_key
    and the like, at any depth), because payloads are stored.

    Raises:
        PoolsError: `invalid_payload`, naming where the value stands but not the value.
    """
    for where in _plain_secrets(payload, "", False):
        raise _invalid(
            f"The payload holds a plain value under {where!r}, which looks like a secret.",
            'Write {"$secret": "NAME"} in its place and add NAME to secrets in the configuration file.',
        )


def _plain_secrets(value: Any, where: str, secret: bool) -> Iterator[str]:
    if isinstance(value, str) and value and secret:
        yield where
    elif isinstance(value, Mapping) and _reference(value) is None:
        for key, part in value.items():
            yield from _plain_secrets(part, f"{where}.{key}".lstrip("."), looks_secret(str(key)))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _plain_secrets(part, f"{where}[{index}]", secret)


def looks_secret(key: str) -> bool:
    """Whether a key's last word or words say that its value is a secret: `X-Api-Key`,
    `accessToken`, `GITHUB_TOKEN`; not `max_tokens` or `next_page_token`.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", key)
    words = re.sub(r"[^a-z0-9]+", " ", spaced.lower()).split()
    if "token" in words[-1:] and _PAGING & set(words):
        return False
    return "".join(words).endswith(_SECRET_ENDINGS)


def fill_secrets(payload: Any, resolve: Callable[[str], str]) -> Any:
    """A copy of `payload` with every reference replaced by what `resolve` returns for its name."""
    if (name := _reference(payload)) is not None:
        return resolve(name)
    if isinstance(payload, Mapping):
        return {key: fill_secrets(value, resolve) for key, value in payload.items()}
    if isinstance(payload, list):
        return [fill_secrets(value, resolve) for value in payload]
    return payload


MASK: Final = b"***"
_SHORTEST_MASKED: Final = 4
"""A shorter value would be found everywhere."""


def masked(data: bytes, secrets: Sequence[str]) -> bytes:
    """What a task says, without the secrets it was given: as they are, and as JSON writes them."""
    for secret in secrets:
        if len(secret) < _SHORTEST_MASKED:
            continue
        for written in (secret, *(json.dumps(secret, ensure_ascii=ascii)[1:-1] for ascii in (True, False))):
            data = data.replace(written.encode(errors="replace"), MASK)
    return data


def read_secret(
    name: str,
    sources: Mapping[str, Mapping[str, Any]],
    *,
    environ: Mapping[str, str] = os.environ,
    read_text: Callable[[str], str] | None = None,
    run: Callable[[Sequence[str]], str] | None = None,
) -> str:
    """The secret `name`, without the line end that closes it.

    Args:
        sources: the configuration's `secrets`: name -> `{"env": VARIABLE}`,
            `{"file": path}` or `{"command": argv}`.
        environ, read_text, run: how each kind of source is read; the last two raise `OSError`.

    Raises:
        PoolsError: `invalid_payload` for a name nobody configured, `task_error` for a
            source that cannot be read or is empty. No message holds a source's content.
    """
    if name not in sources:
        raise _invalid(
            f"The secret {name!r} is not configured. {nearest(name, sources)}".rstrip(),
            "Add it to secrets in the configuration file.",
        )
    kind, source = next(iter(sources[name].items()), ("", None))
    try:
        value = _read_source(kind, source, environ, read_text or _read_text, run or _run)
    except LookupError as error:
        raise _unreadable(name, kind, str(error)) from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, kind, getattr(error, "strerror", None) or "it is not text") from None
    if not value:
        raise _unreadable(name, kind, "it is empty")
    return value


def _unreadable(name: str, kind: str, reason: str) -> PoolsError:
    return PoolsError(
        "task_error",
        f"The secret {name!r} could not be read from its {kind or 'source'}: {reason}.",
        f"Check secrets.{name} in the configuration file.",
    )


def _read_source(
    kind: str,
    source: Any,
    environ: Mapping[str, str],
    read_text: Callable[[str], str],
    run: Callable[[Sequence[str]], str],
) -> str:
    if kind == "env":
        if source not in environ:
            raise LookupError(f"the variable {source} is not set")
        return environ[source]
    if kind == "file":
        return read_text(os.path.expanduser(source)).rstrip("\r\n")
    if kind == "command":
        return run(list(source)).rstrip("\r\n")
    raise LookupError("the source is none of env, file, command")


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _run(argv: Sequence[str], timeout: float = 30) -> str:
    import subprocess

    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(0, f"it did not end within {timeout:g} seconds") from None
    if done.returncode != 0:
        raise OSError(0, f"it exited with status {done.returncode}")
    return done.stdout.decode()
