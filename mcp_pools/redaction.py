"""Text and data without the secrets in them, for whatever is written down or sent away.

Nothing secret should reach a log in the first place. This is for what slips in: the URL in an
exception of a library, a header in its text. A value goes by its key (`secret.looks_secret`),
a text by what secrets look like. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mcp_pools.secret import looks_secret

MASK: Final = "***"
DEEPEST: Final = 20
"""What is nested deeper is left out."""

_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL
)
_HEADER: Final = re.compile(
    r"(?i)(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie)((?:\\?[\"'])?\s*[:=,]\s*)[^\r\n]+"
)
_IN_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#]+@")
_SCHEME: Final = re.compile(r"(?i)(?<!\w)(bearer|basic|digest)(\s+)[A-Za-z0-9._~+/=-]{6,}")
_KEY: Final = re.compile(r"(?<![\w.-])([A-Za-z_][\w.-]{0,63})(?:\\?[\"'])?\s*[:=]\s*")
_VALUE: Final = re.compile(r"\\?\"[^\"]*\"?|\\?'[^']*'?|[^\s,;&\"'()\[\]{}]+")
_TOKEN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"  # JSON web tokens
    r"|(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}"
    r"|gh[opusr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{8,}"
    r"|A(?:KI|SI)A[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|(?:hf|npm|pypi)[-_][A-Za-z0-9_-]{20,}"
    r")"
)


def redacted(value: Any, depth: int = 0) -> Any:
    """JSON values with `***` for what is secret; what is no JSON value becomes text first.

    A value under a key that names a secret is masked whole, whatever it is.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth > DEEPEST:
        return MASK
    if isinstance(value, Mapping):
        return {redacted_text(str(key)): _under(str(key), part, depth) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(part, depth + 1) for part in value]
    return redacted_text(value if isinstance(value, str) else str(value))


def _under(key: str, value: Any, depth: int) -> Any:
    return MASK if value is not None and looks_secret(key) else redacted(value, depth + 1)


def redacted_text(text: str) -> str:
    """A text with `***` for keys, tokens, passwords in URLs and values that are named as secrets."""
    text = _BLOCK.sub(MASK, text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _IN_URL.sub(rf"\1{MASK}@", text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    return _TOKEN.sub(MASK, _without_values(text))


def _without_values(text: str) -> str:
    """A text without the values after `key=`, `key: ` and `"key": ` whose keys say that they are secret."""
    parts, at = [], 0
    for found in _KEY.finditer(text):
        if found.start() < at or not looks_secret(found[1]):
            continue
        if (value := _VALUE.match(text, found.end())) is not None:
            parts += [text[at : found.end()], MASK]
            at = value.end()
    return "".join([*parts, text[at:]])
