"""`query`: one read-only SQL statement over files (DuckDB) or an SQLite database.

Nothing but the files of the payload can be reached, whatever the statement says. DuckDB
gets descriptors that were opened after the last look at where they lead, so nobody can
put a symlink there in between; SQLite reads by name and lets itself be judged, action by
action.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import resource
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from mcp_pools.errors import PoolsError
from mcp_pools.policy import inside
from mcp_pools.tabular import MAX_ROWS, reader_of, view_name

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

MAX_RESULT_BYTES = 8 * 1024 * 1024
"""How much JSON the rows may make; what comes after is left out."""
MAX_VALUE_BYTES = 64 * 1024 * 1024
"""The longest text or blob that SQLite may make on the way."""
BATCH_ROWS = 256
PRAGMAS = frozenset({"data_version", "table_info", "table_xinfo", "table_list", "index_list", "index_info"})
"""What SQLite may be asked; its own full-text search asks some of it. None of them writes."""
DENIED_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer"})


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run `sql` over `files`, each a view named like its file, or in the SQLite `database`.

    Returns:
        `{"columns": [{"name", "type"}], "rows": [[JSON]], "row_count", "truncated"}`: at
        most `max_rows` rows and 8 MiB of them. Dates and times are ISO 8601 text, decimals
        text, bytes base64; a number that is not finite is null.

    Raises:
        PoolsError: `not_allowed` when the statement does more than read, or a file leads
            out of the allowed directories; `task_error` when a file cannot be read or the
            statement fails; `unsupported` without DuckDB.
    """
    if payload.get("database"):
        return _sqlite(payload, context)
    return _duckdb(payload, context)


def _sqlite(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    import sqlite3

    path = _opened_path(payload["database"], context)
    try:
        # isolation_level=None: no transaction is begun on anybody's behalf.
        connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)
        with contextlib.closing(connection):
            _restrict(connection)
            cursor = connection.execute(payload["sql"])
            if cursor.description is None:
                raise _not_a_query(payload["sql"])
            seen = _Seen(len(cursor.description))
            limit = payload.get("max_rows", MAX_ROWS)
            rows, truncated = _rows(lambda count: seen.noted(cursor.fetchmany(count)), limit)
    except sqlite3.Error as error:
        raise _sqlite_failure(error, payload["sql"]) from None
    names = [column[0] for column in cursor.description]
    return _result(names, seen.types, rows, truncated)


def _restrict(connection: Any) -> None:
    """Only reading is left, and a database made by a stranger gets no say."""
    import sqlite3

    may = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}

    def judge(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        allowed = action in may
        if action == sqlite3.SQLITE_FUNCTION:
            allowed = second not in DENIED_FUNCTIONS
        elif action == sqlite3.SQLITE_UPDATE:
            # Asked when a table such as json_each is set up; a real change of it is refused anyway.
            allowed = first == "sqlite_master"
        elif action == sqlite3.SQLITE_PRAGMA:
            allowed = (first or "").lower() in PRAGMAS
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    connection.set_authorizer(judge)


def _sqlite_failure(error: Exception, sql: str) -> PoolsError:
    # SQLite has no code of its own for some of these: VACUUM attaches before it asks.
    signs = (
        "not authorized",
        "readonly database",
        "too many attached",
        "authorization denied",
        "may not be modified",
    )
    return _not_a_query(sql) if any(sign in str(error) for sign in signs) else _failed(str(error))


class _Seen:
    """SQLite has types of values, not of columns; a column is called after its first value."""

    NAMES: Final = {int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}

    def __init__(self, columns: int) -> None:
        self.types: list[str | None] = [None] * columns

    def noted(self, rows: list[Any]) -> list[Any]:
        for index in (index for index, kind in enumerate(self.types) if kind is None):
            values = (row[index] for row in rows)
            self.types[index] = next((self.NAMES[type(value)] for value in values if value is not None), None)
        return rows


# --- files ---------------------------------------------------------------------------------


def _duckdb(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    try:
        import duckdb
    except ModuleNotFoundError as missing:
        raise PoolsError(
            "unsupported",
            f"Queries over files need the module {missing.name!r}, which is not installed.",
            "Run: pip install 'mcp-pools[query]'",
        ) from None
    with contextlib.ExitStack() as stack:
        places = {_descriptor(path, context, stack): path for path in payload["files"]}
        connection = stack.enter_context(contextlib.closing(_locked(duckdb, places)))
        try:
            _single_select(duckdb, connection, payload["sql"])
            connection.execute(payload["sql"])
            described = connection.description or []
            rows, truncated = _rows(connection.fetchmany, payload.get("max_rows", MAX_ROWS))
        except duckdb.Error as error:
            raise _duckdb_failure(duckdb, error, places) from None
    names, types = [column[0] for column in described], [str(column[1]) for column in described]
    return _result(names, types, rows, truncated)


def _descriptor(path: str, context: Context, stack: contextlib.ExitStack) -> str:
    """The name of a descriptor of the file: it goes on leading there whatever becomes of `path`."""
    descriptor = os.open(_opened_path(path, context), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    if not inside(real, context.roots, str):
        raise _outside(path)
    return f"/proc/self/fd/{descriptor}"


def _locked(duckdb: Any, places: dict[str, str]) -> Any:
    """A database in memory that has the files as views, and reaches nothing else."""
    options = {
        "python_enable_replacements": "false",  # a table's name would find variables of this process
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
        "temp_directory": "",
    }
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    if limit != resource.RLIM_INFINITY:
        options["memory_limit"] = f"{limit // 2 // 2**20 or 1}MiB"
    connection = duckdb.connect(":memory:", config=options)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET allowed_paths = ?", [list(places)])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    for place, path in places.items():
        name = view_name(path).replace('"', '""')
        try:
            connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM {reader_of(path).format(place)}')  # noqa: S608
        except duckdb.Error as error:
            connection.close()
            raise _failed(f"{path!r} cannot be read: {_told(error, places)}") from None
    return connection


def _single_select(duckdb: Any, connection: Any, sql: str) -> None:
    """Refuse whatever is not one statement that selects; the parser says, not its first word."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise _failed(f"There are {len(statements)} statements; one can be run")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise _not_a_query(sql)


def _duckdb_failure(duckdb: Any, error: Exception, places: dict[str, str]) -> PoolsError:
    if isinstance(error, duckdb.PermissionException):
        return PoolsError(
            "not_allowed",
            f"The statement reaches for more than its files: {_told(error, places)}.",
            "Name every file under files, and use the views that are called like them.",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return PoolsError(
            "out_of_memory", "The query needs more memory than its worker may use.", "Select less."
        )
    return _failed(_told(error, places))


def _told(error: Exception, places: dict[str, str]) -> str:
    """What DuckDB says, with the files by their own names and without its drawing of the statement."""
    text = str(error).split("\n\nLINE ")[0].strip().rstrip(".")
    # The longest first: /proc/self/fd/1 is the beginning of /proc/self/fd/12.
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, places[place])
    return text


# --- what both share -----------------------------------------------------------------------


def _opened_path(path: str, context: Context) -> str:
    """The real path of a plain file inside the roots. Judged when accepted; a symlink may have changed."""
    try:
        # Strict: where symlinks go in a circle, the path would come back unresolved.
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode
    except OSError as error:
        raise _failed(f"{path!r} cannot be read: {error.strerror}") from None
    if not inside(real, context.roots, str):
        raise _outside(path)
    if not stat.S_ISREG(mode):
        raise _failed(f"{path!r} is not a regular file")
    if not os.access(real, os.R_OK):
        raise _failed(f"{path!r} cannot be read: Permission denied")
    return real


def _rows(fetch: Callable[[int], Sequence[Any]], limit: int) -> tuple[list[list[Any]], bool]:
    """At most `limit` rows that fit the result, and whether there were more."""
    rows: list[list[Any]] = []
    left = MAX_RESULT_BYTES
    while batch := fetch(min(BATCH_ROWS, limit + 1 - len(rows))):
        for raw in batch:
            row = [_as_json(value) for value in raw]
            left -= len(json.dumps(row, ensure_ascii=False).encode(errors="replace")) + 1
            if left < 0 or len(rows) == limit:
                return rows, True
            rows.append(row)
    return rows, False


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): _as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _result(
    names: Sequence[str], types: Sequence[str | None], rows: list[list[Any]], truncated: bool
) -> dict[str, Any]:
    columns = [{"name": name, "type": kind} for name, kind in zip(names, types, strict=True)]
    return {"columns": columns, "rows": rows, "row_count": len(rows), "truncated": truncated}


def _outside(path: str) -> PoolsError:
    return PoolsError(
        "not_allowed",
        f"The path {path!r} is outside the allowed directories.",
        "Add its directory to allow.roots in the configuration file.",
    )


def _not_a_query(sql: str) -> PoolsError:
    shown = sql if len(sql) <= 200 else sql[:199] + "…"
    return PoolsError(
        "not_allowed",
        f"{shown!r} does more than read its data.",
        "Write one SELECT; nothing can be written, attached or configured.",
    )


def _failed(reason: str) -> PoolsError:
    return PoolsError("task_error", f"{reason}.", "Correct the statement or the files.")
