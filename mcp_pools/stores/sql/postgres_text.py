"""Text in PostgreSQL, which holds every character but NUL: that one is escaped, and what escapes it."""

from __future__ import annotations

from typing import Any, Final

from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.types.string import StrDumper, TextBinaryLoader, TextLoader

_ESCAPE: Final = "\x1a"


def escaped(text: str) -> str:
    """The text without NUL; texts stay different, and the same text stays the same."""
    if "\0" not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")


def restored(text: str) -> str:
    """The text as it was."""
    if _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE)


class _Dumper(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(escaped(obj))


class _Loader(TextLoader):
    def load(self, data: Any) -> Any:
        return restored(str(super().load(data)))


class _BinaryLoader(TextBinaryLoader):
    def load(self, data: Any) -> Any:
        return restored(str(super().load(data)))


def register(db: Connection[Any]) -> None:
    """Escape and restore all text that goes through a connection."""
    db.adapters.register_dumper(str, _Dumper)
    db.adapters.register_loader("text", _Loader)
    db.adapters.register_loader("text", _BinaryLoader)
