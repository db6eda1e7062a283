"""`query` reads its files and nothing else, and what it answers is JSON."""

import gzip
import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from parts import require_module
from pydantic import ValidationError

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import query
from mcp_pools.task_types.catalog import QUERY, QueryResult

INSTALL = "pip install 'mcp-pools[query]'"
Part = dict[str, Any]


@pytest.fixture
def duckdb() -> Any:
    """DuckDB, or an honest skip."""
    require_module("duckdb", INSTALL)
    require_module("pytz", INSTALL)
    import duckdb

    return duckdb


@pytest.fixture
def database(tmp_path: Path) -> str:
    """An SQLite file with a table of each kind of value."""
    file = tmp_path / "a ?#%.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (i, r, s, b, n)")
        connection.execute("INSERT INTO t VALUES (1, 1.5, 'é', x'00ff', NULL), (2, 9e999, 'x', x'', NULL)")
        connection.commit()
    return str(file)


@pytest.fixture
def sales(tmp_path: Path) -> str:
    """A CSV file with three rows."""
    (file := tmp_path / "sales.csv").write_text("region,amount\nnorth,1\nsouth,2\nnorth,3\n")
    return str(file)


def ask(context: Any, sql: str, **payload: Any) -> Part:
    """The result of a query, which is JSON and always fits its model."""
    result = query.run({"max_rows": 100, "sql": sql, **payload}, context)
    QueryResult.model_validate(json.loads(json.dumps(result, allow_nan=False)))
    return result


def refusal(context: Any, sql: str, code: str = "not_allowed", **payload: Any) -> PoolsError:
    """The error of a query that is refused or fails."""
    with pytest.raises(PoolsError) as error:
        ask(context, sql, **payload)
    assert error.value.code == code, error.value
    return error.value


# --- files ---------------------------------------------------------------------------------


def test_files_are_views_called_like_them(context: Any, duckdb: Any, tmp_path: Path, sales: str) -> None:
    """CSV, Parquet and JSON can be joined with each other, compressed or not."""
    with gzip.open(tmp_path / "heads.csv.gz", "wt") as file:
        file.write("region,head\nnorth,Ada\nsouth,Bo\n")
    (tmp_path / "lines.jsonl").write_text('{"region": "north", "k": 1}\n{"region": "south", "k": 2}\n')
    (tmp_path / "odd [name]*.json").write_text('[{"region": "north", "o": {"deep": [1, null]}}]')
    parquet = str(tmp_path / "size.parquet")
    with closing(duckdb.connect()) as connection:
        connection.execute(f"COPY (SELECT 'north' AS region, 7 AS size) TO '{parquet}'")
    names = ["sales.csv", "heads.csv.gz", "lines.jsonl", "odd [name]*.json", "size.parquet"]
    sql = """SELECT head, sum(amount) AS total, any_value(k) AS k, any_value(size) AS size, any_value(o) AS o
             FROM sales JOIN heads USING (region) JOIN lines USING (region) JOIN size USING (region)
             JOIN "odd [name]*" USING (region) GROUP BY head"""
    result = ask(context, sql, files=[str(tmp_path / name) for name in names])
    assert result["rows"] == [["Ada", 4, 1, 7, {"deep": [1, None]}]]
    assert [column["name"] for column in result["columns"]] == ["head", "total", "k", "size", "o"]
    assert result["columns"][0]["type"] == "VARCHAR"
    assert (result["row_count"], result["truncated"]) == (1, False)


def test_every_value_is_json(context: Any, duckdb: Any, sales: str) -> None:
    """What JSON has no word for becomes text, or null when it is no number."""
    values = {
        "DATE '2026-01-02'": "2026-01-02",
        "TIMESTAMP '2026-01-02 03:04:05'": "2026-01-02T03:04:05",
        "TIMESTAMPTZ '2026-01-02 03:04:05+02'": "2026-01-02T01:04:05+00:00",
        "TIME '03:04:05'": "03:04:05",
        "1.50::DECIMAL(5, 2)": "1.50",
        "'nan'::DOUBLE": None,
        "[1.0, 'inf'::DOUBLE]": [1.0, None],
        "'\\x00\\xFF'::BLOB": "AP8=",
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::UUID": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "{'a': DATE '2026-01-02'}": {"a": "2026-01-02"},
        "MAP([1], ['x'])": {"1": "x"},
        "170141183460469231731687303715884105727::HUGEINT": 2**127 - 1,
        "INTERVAL 1 DAY": "1 day, 0:00:00",
        "true": True,
        "NULL": None,
    }
    result = ask(context, f"SELECT {', '.join(values)}", files=[sales])
    assert result["rows"] == [list(values.values())]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{here}/sales.csv'",
        "COPY (SELECT 1) TO '{here}/new.csv'",
        "CREATE TABLE t AS SELECT 1",
        "ATTACH '{here}/new.db'",
        "EXPORT DATABASE '{here}/new'",
        "INSTALL sqlite",
        "LOAD json",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{here}/new.csv'",
        "DROP VIEW sales",
    ],
)
def test_what_is_no_select_is_refused(context: Any, duckdb: Any, sales: str, sql: str) -> None:
    """Nothing is written, not even to a file that may be read."""
    before = Path(sales).read_bytes()
    refusal(context, sql.replace("{here}", context.cwd), files=[sales])
    assert os.listdir(context.cwd) == ["sales.csv"] and Path(sales).read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{here}/other.csv'",
        "SELECT * FROM read_csv('{here}/other.csv')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM read_csv('/proc/self/fd/../environ')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM 'https://example.com/a.csv'",
        "SELECT * FROM query('SELECT * FROM ''/etc/passwd.csv''')",
        "WITH a AS (SELECT 1) SELECT *, (SELECT content FROM read_text('/etc/passwd')) FROM a",
    ],
)
def test_no_other_file_can_be_reached(context: Any, duckdb: Any, sales: str, sql: str) -> None:
    """Also not one beside it in an allowed directory: the payload says what is read."""
    Path(context.cwd, "other.csv").write_text("a\n1\n")
    with pytest.raises(PoolsError) as error:
        ask(context, sql.replace("{here}", context.cwd), files=[sales])
    assert error.value.code in ("not_allowed", "task_error") and "root:" not in error.value.message


def test_variables_of_the_worker_are_no_tables(context: Any, duckdb: Any, sales: str) -> None:
    """A table's name finds nothing in the Python around it."""
    refusal(context, "SELECT * FROM places", "task_error", files=[sales])
    refusal(context, "SELECT * FROM payload", "task_error", files=[sales])


def test_a_wrong_statement_or_file_says_so_by_its_own_name(context: Any, duckdb: Any, sales: str) -> None:
    """The descriptors behind the files do not show."""
    assert "amuont" in refusal(context, "SELECT amuont FROM sales", "task_error", files=[sales]).message
    assert "syntax" in refusal(context, "SELEKT 1", "task_error", files=[sales]).message
    assert "2 statements" in refusal(context, "SELECT 1; SELECT 2", "task_error", files=[sales]).message
    Path(context.cwd, "bad.parquet").write_text("no parquet at all")
    error = refusal(context, "SELECT 1", "task_error", files=[context.cwd + "/bad.parquet"])
    assert "bad.parquet' cannot be read" in error.message and "/proc/" not in error.message


def test_a_symlink_that_leaves_the_roots_is_refused(
    context: Any, duckdb: Any, tmp_path: Path, sales: str
) -> None:
    """At submission, and again when it was turned after that."""
    root = tmp_path / "root"
    root.mkdir()
    context.roots = (str(root.resolve()),)
    (link := root / "link.csv").symlink_to(sales)
    judge = Judge(Allow(), context.roots, str(root))
    for payload in ({"files": ["link.csv"]}, {"database": "link.csv"}):
        with pytest.raises(PoolsError, match=r"allow\.roots "):
            check({"sql": "SELECT 1", **payload}, judge)
    refusal(context, "SELECT * FROM link", files=[str(link)])
    refusal(context, "SELECT 1", database=str(link))


def test_symlinks_that_go_in_a_circle_lead_nowhere(
    context: Any, duckdb: Any, tmp_path: Path, database: str
) -> None:
    """`realpath` gives up at them and leaves what follows unresolved, which could lead anywhere."""
    root = tmp_path / "root"
    root.mkdir()
    context.roots = (str(root.resolve()),)
    (root / "loop").symlink_to("loop")
    (root / "a.csv").symlink_to("loop/../b.csv")
    (root / "b.csv").symlink_to(database)
    assert (
        "symbolic links" in refusal(context, "SELECT 1", "task_error", database=str(root / "a.csv")).message
    )
    assert "symbolic links" in refusal(context, "SELECT 1", "task_error", files=[str(root / "a.csv")]).message


def test_a_symlink_inside_the_roots_keeps_its_own_name(context: Any, duckdb: Any, sales: str) -> None:
    """`latest.csv` is `latest`, whatever it points to."""
    Path(context.cwd, "latest.csv").symlink_to(sales)
    stored = check(
        {"sql": "SELECT count(*) FROM latest", "files": ["latest.csv"]},
        Judge(Allow(), [context.cwd], context.cwd),
    )
    assert query.run(stored, context)["rows"] == [[3]]


def test_what_is_no_plain_file_is_not_opened(context: Any, duckdb: Any, tmp_path: Path) -> None:
    """A pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, reason in [("pipe", "regular file"), ("folder", "regular file"), ("gone", "No such file")]:
        error = refusal(context, "SELECT 1", "task_error", files=[str(tmp_path / f"{name}.csv")])
        assert reason in error.message


def test_rows_and_bytes_are_limited(
    context: Any, duckdb: Any, sales: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result says that there was more; exactly as many as asked for is not more."""
    for source in ({"files": [sales]}, {"database": database}):
        sql = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 1000) SELECT x FROM r"
        result = ask(context, sql, max_rows=999, **source)
        assert (result["row_count"], len(result["rows"]), result["truncated"]) == (999, 999, True)
        assert not ask(context, sql, max_rows=1000, **source)["truncated"]
        with monkeypatch.context() as patch:
            patch.setattr(query, "MAX_RESULT_BYTES", 100)
            result = ask(context, sql, max_rows=1000, **source)
            assert result["truncated"] and 0 < result["row_count"] < 100


def test_without_duckdb_it_says_what_to_install(
    context: Any, sales: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite files need nothing."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    error = refusal(context, "SELECT 1", "unsupported", files=[sales])
    assert INSTALL in error.next
    assert ask(context, "SELECT 1", database=database)["rows"] == [[1]]


# --- databases -----------------------------------------------------------------------------


def test_a_database_is_read(context: Any, database: str) -> None:
    """Columns are called after their first values' types."""
    result = ask(context, "SELECT *, count(*) OVER () AS c FROM t ORDER BY i", database=database)
    assert result["rows"] == [[1, 1.5, "é", "AP8=", None, 2], [2, None, "x", "", None, 2]]
    types = ["INTEGER", "REAL", "TEXT", "BLOB", None, "INTEGER"]
    assert [column["type"] for column in result["columns"]] == types
    assert ask(context, "SELECT i FROM t WHERE 0", database=database)["columns"] == [
        {"name": "i", "type": None}
    ]
    tables = ask(context, "SELECT name FROM pragma_table_info('t')", database=database)
    assert [row[0] for row in tables["rows"]] == ["i", "r", "s", "b", "n"]
    assert ask(context, "SELECT value FROM json_each('[1]')", database=database)["rows"] == [[1]]


def test_a_full_text_index_can_be_searched(context: Any, database: str) -> None:
    """SQLite asks for more than reading when it sets one up, but does no more."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE VIRTUAL TABLE f USING fts5(x)")
        connection.execute("INSERT INTO f VALUES ('a b'), ('c')")
        connection.commit()
    assert ask(context, "SELECT x FROM f WHERE f MATCH 'b'", database=database)["rows"] == [["a b"]]
    refusal(context, "INSERT INTO f (f) VALUES ('optimize')", database=database)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t (i) VALUES (3)",
        "UPDATE t SET i = 0",
        "DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE u (x)",
        "CREATE TEMP TABLE u (x)",
        "ATTACH '{here}/new.db' AS new",
        "ATTACH ':memory:' AS new",
        "VACUUM",
        "VACUUM INTO '{here}/new.db'",
        "PRAGMA journal_mode = WAL",
        "PRAGMA user_version = 7",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = ''",
        "BEGIN",
        "REINDEX",
        "ANALYZE",
        "SELECT load_extension('x')",
        "WITH a AS (SELECT 1) INSERT INTO t (i) SELECT * FROM a",
    ],
)
def test_what_does_more_than_read_a_database_is_refused(context: Any, database: str, sql: str) -> None:
    """And leaves no trace beside it."""
    before = Path(database).read_bytes()
    with pytest.raises(PoolsError) as error:
        ask(context, sql.replace("{here}", context.cwd), database=database)
    assert error.value.code == "not_allowed", error.value
    assert os.listdir(context.cwd) == [Path(database).name] and Path(database).read_bytes() == before


def test_one_statement_over_a_real_database(context: Any, database: str, sales: str) -> None:
    """What SQLite says is told."""
    assert "no such table: x" in refusal(context, "SELECT * FROM x", "task_error", database=database).message
    assert "one statement" in refusal(context, "SELECT 1; SELECT 2", "task_error", database=database).message
    assert "not a database" in refusal(context, "SELECT * FROM t", "task_error", database=sales).message
    huge = refusal(context, "SELECT zeroblob(1000000000)", "task_error", database=database)
    assert "too big" in huge.message


def test_a_database_that_is_being_written_is_read_as_it_was_committed(context: Any, database: str) -> None:
    """Its writer keeps it in write-ahead mode."""
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("DELETE FROM t")
        writer.commit()
        writer.execute("INSERT INTO t (i) VALUES (9)")
        assert ask(context, "SELECT count(*) FROM t", database=database)["rows"] == [[0]]


# --- what is judged first ------------------------------------------------------------------


def check(payload: Part, judge: Judge) -> Part:
    """What is stored of a payload."""
    assert QUERY.check is not None
    return QUERY.check(QUERY.payload.model_validate(payload).model_dump(), judge)


def test_paths_are_pinned_and_names_judged(tmp_path: Path) -> None:
    """Before the task is queued."""
    root = str(tmp_path.resolve())
    judge = Judge(Allow(), (root,), root)
    assert check({"sql": "SELECT 1", "files": ["d/../a.csv"]}, judge)["files"] == [f"{root}/a.csv"]
    assert check({"sql": "SELECT 1", "database": "a.db"}, judge)["database"] == f"{root}/a.db"
    for files, reason in [
        (["/etc/x.csv"], "outside"),
        (["a.csv", "b/A.json"], "both be called"),
        (["a.xlsx"], "not a file that a query reads"),
        ([".csv"], "not a file that a query reads"),
    ]:
        with pytest.raises(PoolsError, match=reason):
            check({"sql": "SELECT 1", "files": files}, judge)


@pytest.mark.parametrize(
    "payload",
    [
        {"sql": "SELECT 1"},
        {"sql": "SELECT 1", "files": []},
        {"sql": "SELECT 1", "files": ["a.csv"], "database": "a.db"},
        {"sql": "", "files": ["a.csv"]},
        {"sql": "SELECT 1", "files": ["a.csv"], "max_rows": 0},
    ],
)
def test_a_statement_needs_one_kind_of_source(payload: Part) -> None:
    """Files or a database."""
    with pytest.raises(ValidationError):
        QUERY.payload.model_validate(payload)
