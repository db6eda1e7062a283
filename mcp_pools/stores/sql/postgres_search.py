"""The full-text index in PostgreSQL: what is behind, writing it, asking it.

Words are cut here and not by PostgreSQL, whose parser has ideas of its own of paths, hosts
and hyphens: letters and digits make words, case and accents do not count. Their positions
are kept, so a word with punctuation in it is looked for as the phrase that it is.

The index is written a moment after the tasks. It only finds candidates by their words; all
filters look at each task's own row.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from mcp_pools.searchable import LARGEST_JSON, text_of, words
from mcp_pools.store import Found, Search
from mcp_pools.stores.sql import postgres_rows as sql

MOST_TASKS: Final = 256
MOST_CHARACTERS: Final = 1 << 18
"""Bounds of one transaction of the index: the commits of tasks wait for it."""

_LONGEST_WORD: Final = 256
"""Characters of a word that count; PostgreSQL takes 2,046 bytes."""
_MOST_PLACES: Final = 255
"""Places of one word in one text, and the last place, that PostgreSQL knows."""
_LAST_PLACE: Final = 16383

_WORD: Final = re.compile(r"[^\W_]+")


class Entry(NamedTuple):
    """What is to be written of one task."""

    n: int
    ended: bool
    words: str


def behind(db: sql.Db, known: Sequence[str] | None, after: int = 0) -> list[Entry]:
    """What the index lacks of tasks: those that are new, or ended since they were indexed.

    Args:
        known: ids of the tasks that may be; `None` looks at all of them behind the n `after`.
    """
    where, asked = ("n > %s", [after]) if known is None else ("task_id = ANY(%s)", [list(known)])
    rows = db.execute(
        "SELECT n, task_type, finished_at IS NOT NULL, "  # noqa: S608
        f"CASE WHEN octet_length(payload) <= {LARGEST_JSON} THEN payload END, error, "
        f"CASE WHEN octet_length(result) <= {LARGEST_JSON} THEN result END, output_tail "
        "FROM tasks LEFT JOIN search USING (n) "
        f"WHERE {where} AND (search.n IS NULL OR NOT ended AND finished_at IS NOT NULL) "
        f"ORDER BY n LIMIT {MOST_TASKS}",
        asked,
    )
    return list(_bounded(rows))


def _bounded(rows: Any) -> Iterator[Entry]:
    characters = 0
    for n, task_type, ended, payload, error, result, output in rows:
        text = text_of(task_type, payload, error, result, output)
        yield Entry(n, ended, _vector(text))
        characters += len(text)
        if characters > MOST_CHARACTERS:
            return


def write(db: sql.Db, entries: Sequence[Entry]) -> None:
    """Bring the index up to `entries`; of tasks that are forgotten meanwhile there is nothing to say."""
    db.execute(
        "INSERT INTO search SELECT n, new.ended, new.words::tsvector "
        "FROM unnest(%s::bigint[], %s::boolean[], %s::text[]) AS new(n, ended, words) "
        "JOIN tasks USING (n) ORDER BY n FOR KEY SHARE OF tasks "
        "ON CONFLICT (n) DO UPDATE SET ended = excluded.ended, words = excluded.words",
        ([each.n for each in entries], [each.ended for each in entries], [each.words for each in entries]),
    )


def _words(text: str) -> list[str]:
    """The words of a text, in their order."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    bare = (
        "".join(each for each in plain if not unicodedata.combining(each)) if not plain.isascii() else plain
    )
    return [word[:_LONGEST_WORD] for word in _WORD.findall(bare)]


def _vector(text: str) -> str:
    """The words of a text with their places, as PostgreSQL reads them."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, word in enumerate(_words(text), 1):
        if len(places[word]) < _MOST_PLACES:
            places[word].append(min(place, _LAST_PLACE))
    return " ".join(f"'{word}':{','.join(map(str, at))}" for word, at in places.items())


def search(db: sql.Db, wanted: Search) -> list[Found]:
    """The tasks that match, newest first, at most `wanted.limit`."""
    filters, given = _filters(wanted)
    source = "tasks"
    if wanted.query.strip():
        phrases = _phrases(wanted.query)
        if not phrases:
            return []  # a query without a word finds nothing
        source = "tasks JOIN search USING (n)"
        filters, given = f"{filters} AND words @@ %s::tsquery", [*given, " & ".join(phrases)]
    columns = [name for name in (*sql.FIXED, *sql.CHANGING) if name != "result"]
    rows = db.execute(
        f"SELECT n, octet_length(result) > %s, {', '.join(columns)}, "  # noqa: S608
        "CASE WHEN octet_length(result) <= %s THEN result END, ''::bytea "
        f"FROM {source} WHERE {filters} ORDER BY n DESC LIMIT %s",
        (wanted.result_bytes, wanted.result_bytes, *given, wanted.limit),
    )
    named = (*columns, "result", "payload")
    return [Found(n, sql.task(named, row), bool(shortened)) for n, shortened, *row in rows]


def _filters(wanted: Search) -> tuple[str, list[Any]]:
    """What a task's own row must say."""
    parts: list[str] = ["n < %s"]
    given: list[Any] = [wanted.before or (1 << 62)]
    if wanted.since is not None:
        parts.append("created_at >= %s")
        given.append(wanted.since)
    for name in ("status", "pool", "task_type", "caller"):
        if (value := getattr(wanted, name)) is not None:
            parts.append(f"{name} = %s")
            given.append(value.encode(errors="replace").decode())
    return " AND ".join(parts), given


def _phrases(query: str) -> list[str]:
    """What must all be found; a word that punctuation cuts into several is a phrase of them."""
    found = []
    for text, beginning in words(query):
        quoted = [f"'{word}'" for word in _words(text)]
        if quoted:
            found.append(" <-> ".join([*quoted[:-1], quoted[-1] + ":*" * beginning]))
    return [f"({phrase})" for phrase in found]
