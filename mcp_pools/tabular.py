"""Files that hold tables: which ones a query reads, and by what name it knows them. Pure."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import Final

from mcp_pools.errors import PoolsError

MAX_ROWS: Final = 10_000
"""How many rows a query returns, unless it is said."""
_READERS: Final = {
    ".csv": "read_csv('{}')",
    ".tsv": "read_csv('{}')",
    ".csv.gz": "read_csv('{}', compression='gzip')",
    ".tsv.gz": "read_csv('{}', compression='gzip')",
    ".parquet": "read_parquet('{}')",
    ".json": "read_json('{}')",
    ".jsonl": "read_json('{}')",
    ".ndjson": "read_json('{}')",
    ".json.gz": "read_json('{}', compression='gzip')",
    ".jsonl.gz": "read_json('{}', compression='gzip')",
    ".ndjson.gz": "read_json('{}', compression='gzip')",
}


def reader_of(path: str) -> str:
    """DuckDB's function for a file, by its ending; `{}` stands for where the file is.

    Raises:
        PoolsError: `invalid_payload` for an ending that is none of a table's.
    """
    return _READERS[_ending(path)]


def view_name(path: str) -> str:
    """A file's name without directory and ending: `data/sales.csv.gz` is `sales`."""
    return os.path.basename(path)[: -len(_ending(path))]


def view_names(paths: Sequence[str]) -> list[str]:
    """The names of several files.

    Raises:
        PoolsError: `invalid_payload` when two would be called the same (SQL ignores case).
    """
    names: dict[str, str] = {}
    for path in paths:
        name = view_name(path)
        if (other := names.setdefault(name.lower(), path)) is not path:
            raise PoolsError(
                "invalid_payload",
                f"The files {other!r} and {path!r} would both be called {name!r}.",
                "Rename one of them, or name it only once.",
            )
    return [view_name(path) for path in paths]


def _ending(path: str) -> str:
    name = os.path.basename(path).lower()
    for ending in sorted(_READERS, key=len, reverse=True):
        if name.endswith(ending) and name != ending:
            return ending
    raise PoolsError(
        "invalid_payload",
        f"{path!r} is not a file that a query reads as a table.",
        f"Give one of {', '.join(sorted(_READERS))}; an SQLite file is a database.",
    )
