"""`analyze` gives a useful answer on any directory, and never leaves the allowed ones."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge
from mcp_pools.task_types import analyze
from mcp_pools.task_types.catalog import ANALYZE, AnalyzeResult

PYTHON = """
class Box:
    def area(self):
        return 1

    def grow(self, by):
        if by > 0 and by < 10:
            return by
        for step in range(by):
            print(step)


def alone():
    pass
"""
JAVASCRIPT = "function f(a) { if (a) { return 1; } return a ? 2 : 3; }\n"
C = "int main(int argc, char **argv) { while (argc) argc--; return 0; }\n"
GO = "package main\n\nfunc Add(a int, b int) int {\n\treturn a + b\n}\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small project with several languages, and everything a walk should pass by."""
    files = {
        "box.py": PYTHON,
        "src/f.js": JAVASCRIPT,
        "src/deep/main.c": C,
        "src/build/add.go": GO,
        "README.md": "# Title\n",
        "node_modules/x/x.js": JAVASCRIPT,
        "__pycache__/x.py": PYTHON,
        ".git/hook.py": PYTHON,
        ".venv/x.py": PYTHON,
        "environment/pyvenv.cfg": "",
        "environment/lib/x.py": PYTHON,
        "build/lib/x.py": PYTHON,
        "x.egg-info/x.py": PYTHON,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def analyzed(context: Any, **payload: Any) -> dict[str, Any]:
    """The result, which always fits its model."""
    result = analyze.run(payload, context)
    AnalyzeResult.model_validate(result)
    return result


def paths(result: dict[str, Any]) -> list[str]:
    """The rows' paths."""
    return [row["path"] for row in result["files"]]


def test_a_repository_is_measured_in_all_its_languages(context: Any, repository: Path) -> None:
    """Rows are sorted, relative, and leave out hidden, vendored and built files."""
    result = analyzed(context, path=str(repository))
    rows = [(r["path"], r["language"], r["functions"], r["complexity"], r["error"]) for r in result["files"]]
    assert rows == [
        ("box.py", "python", 3, 6, None),
        ("src/build/add.go", "go", 1, 1, None),
        ("src/deep/main.c", "c", 1, 2, None),
        ("src/f.js", "javascript", 1, 3, None),
    ]
    assert result["files"][0]["size_bytes"] == len(PYTHON)
    assert result["files"][0]["max_complexity"] == 4
    totals = result["totals"]
    assert (totals["files"], totals["functions"], totals["complexity"], totals["errors"]) == (4, 6, 12, 0)
    assert (totals["average_complexity"], totals["max_complexity"]) == (2.0, 4)
    assert totals["by_language"]["python"]["functions"] == 3
    assert context.said[-1] == (4, 4, None)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["*.py"], ["box.py"]),
        (["*.md"], ["README.md"]),
        (["*.js", "*.c"], ["src/deep/main.c", "src/f.js"]),
        (["src/*"], ["src/f.js"]),
        (["src/**"], ["src/build/add.go", "src/deep/main.c", "src/f.js"]),
        (["**/*.py"], ["box.py"]),
        (["./src/**/*.js"], ["src/f.js"]),
        (["**/deep/*"], ["src/deep/main.c"]),
        (["*.nothing"], []),
    ],
)
def test_patterns_choose_the_files(
    context: Any, repository: Path, patterns: list[str], found: list[str]
) -> None:
    """Without a slash they are about names, with one about paths."""
    assert paths(analyzed(context, path=str(repository), patterns=patterns)) == found


def test_a_file_of_an_unknown_language_has_a_size_and_no_functions(context: Any, repository: Path) -> None:
    """What patterns ask for is counted, whatever it is."""
    result = analyzed(context, path=str(repository), patterns=["*.md"])
    row = result["files"][0]
    assert (row["language"], row["size_bytes"], row["functions"], row["error"]) == (None, 8, 0, None)
    assert list(result["totals"]["by_language"]) == ["unknown"]


def test_what_cannot_be_analysed_is_a_row_with_an_error(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not text, too large, a broken symlink, a pipe: the rest still counts, and nothing waits."""
    monkeypatch.setattr(analyze, "MAX_SOURCE_BYTES", 1000)
    (tmp_path / "good.py").write_text("def f(): pass\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "large.py").write_text("# " + "x" * 1000)
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "self.py").symlink_to("self.py")
    os.mkfifo(tmp_path / "pipe.py")
    result = analyzed(context, path=str(tmp_path))
    errors = {row["path"]: row["error"] for row in result["files"]}
    assert errors.pop("good.py") is None
    assert errors == {
        "gone.py": "No such file or directory",
        "large.py": "is larger than 1000 bytes",
        "latin.py": "is not UTF-8 text (byte 5)",
        "pipe.py": "is not a regular file",
        "self.py": "Too many levels of symbolic links",
    }
    assert (result["totals"]["errors"], result["totals"]["functions"]) == (5, 1)


def test_symlinks_never_lead_outside(context: Any, tmp_path: Path) -> None:
    """A linked directory is not entered, a linked file outside is an error and says nothing of it."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir()
    outer.mkdir()
    (outer / "secret.py").write_text(PYTHON)
    (inner / "folder").symlink_to(outer)
    (inner / "file.py").symlink_to(outer / "secret.py")
    context.roots = (str(inner.resolve()),)
    (row,) = analyzed(context, path=str(inner))["files"]
    assert (row["path"], row["size_bytes"], row["functions"]) == ("file.py", None, 0)
    assert row["error"] == "leads outside the allowed directories"


def test_a_path_that_left_the_roots_since_it_was_judged_is_refused(context: Any, tmp_path: Path) -> None:
    """The worker looks again."""
    context.roots = (str(tmp_path.resolve() / "inner"),)
    with pytest.raises(PoolsError) as error:
        analyze.run({"path": str(tmp_path)}, context)
    assert error.value.code == "not_allowed" and "allow.roots" in error.value.next


def test_one_file_is_named_from_the_callers_directory(context: Any, repository: Path) -> None:
    """Patterns do not matter to a file that was named."""
    result = analyzed(context, file=str(repository / "src/f.js"), patterns=["*.py"])
    assert paths(result) == ["src/f.js"]
    context.cwd = "/"
    assert paths(analyzed(context, path=str(repository / "src/f.js"))) == [str(repository / "src/f.js")]


def test_each_item_has_its_own_outcome(context: Any, repository: Path) -> None:
    """Files and directories mix; one that does not exist spoils no other."""
    items = [str(repository / name) for name in ("box.py", "missing.py", "src")]
    first, second, third = analyzed(context, items=items)["items"]
    assert first["result"]["totals"]["functions"] == 3
    assert second["error"]["code"] == "task_error" and "does not exist" in second["error"]["message"]
    assert third["result"]["totals"]["files"] == 3


def test_an_empty_directory_has_no_files(context: Any, tmp_path: Path) -> None:
    """Nothing is a result too."""
    assert analyzed(context, path=str(tmp_path))["totals"]["files"] == 0


def test_names_that_are_not_text_still_fit_a_result(context: Any, tmp_path: Path) -> None:
    """A file's name is bytes, a result is text."""
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_text("def f(): pass\n")
    (row,) = analyzed(context, path=str(tmp_path))["files"]
    assert (row["path"], row["functions"]) == ("caf\ufffd.py", 1)


def test_the_judge_pins_every_path(tmp_path: Path) -> None:
    """Relative paths start at the caller's directory, which is also the default."""
    cwd = str(tmp_path.resolve())
    judge = Judge(Allow(), (cwd,), cwd)
    assert ANALYZE.check is not None
    assert ANALYZE.check({}, judge) == {"path": cwd}
    assert ANALYZE.check({"file": "a.py", "patterns": None}, judge) == {"file": f"{cwd}/a.py"}
    assert ANALYZE.check({"items": ["a", "b"], "path": "{item}"}, judge) == {
        "items": [f"{cwd}/a", f"{cwd}/b"]
    }
    for payload in ({"path": ".."}, {"file": "/etc/passwd"}, {"items": ["a", ".."]}):
        with pytest.raises(PoolsError, match=r"allow\.roots"):
            ANALYZE.check(payload, judge)


@pytest.mark.parametrize(
    "payload", [{"file": "a", "path": "b"}, {"items": ["a"], "path": "b"}, {"patterns": []}, {"path": ""}]
)
def test_a_payload_says_one_place(payload: dict[str, Any]) -> None:
    """Two places, or none at all between the quotes, are refused."""
    with pytest.raises(ValidationError):
        ANALYZE.payload.model_validate(payload)
