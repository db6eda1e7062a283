"""`analyze`: sizes, functions and cyclomatic complexity of source files, many languages.

What cannot be analysed (unreadable, not text, too large, outside the allowed
directories) is a row with an `error`, never a failure: the rest of a repository still
counts. Rows come in a stable order, sorted by path.
"""

# Thousands of paths go through here, and building Path objects for each costs more than the walk.

from __future__ import annotations

import ast
import functools
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mcp_pools.errors import PoolsError
from mcp_pools.policy import inside

if TYPE_CHECKING:
    from mcp_pools.task_type import Context

Row = dict[str, Any]

MAX_SOURCE_BYTES = 4 * 1024 * 1024
"""Larger files are bundles and dumps; reading one as source takes seconds and says nothing."""
PROGRESS_SECONDS = 0.25
SKIPPED = frozenset({"node_modules", "bower_components", "__pycache__"})
MADE = frozenset({"build", "dist", "target", "venv", "virtualenv"})
"""Outputs and environments, unless they are source packages that happen to be called so."""


def run(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Analyse `file`, or the files below `path` that `patterns` match, or each of `items`.

    Returns:
        `{"files": [row], "totals": {...}}`; for `items` `{"items": [outcome]}` in their
        order, an outcome being `{"result": {"files", "totals"}}` or
        `{"error": {"code", "message"}}`. A row's `path` is relative to the analysed
        directory; that of a single file to the caller's directory when it lies there.

    Raises:
        PoolsError: `task_error` when `file` or `path` does not exist, `not_allowed` when it
            is no longer inside the allowed directories.
    """
    patterns = payload.get("patterns")
    if payload.get("items") is None:
        return _analyze(payload.get("file") or payload.get("path") or context.cwd, patterns, context)
    outcomes = []
    for done, item in enumerate(payload["items"]):
        context.progress(done, len(payload["items"]))
        outcomes.append(_outcome(item, patterns, context))
    return {"items": outcomes}


def _outcome(item: str, patterns: Sequence[str] | None, context: Context) -> dict[str, Any]:
    try:
        return {"result": _analyze(item, patterns, context)}
    except PoolsError as error:
        return {"error": {"code": error.code, "message": error.message}}


def _analyze(path: str, patterns: Sequence[str] | None, context: Context) -> dict[str, Any]:
    if not inside(path, context.roots):
        raise PoolsError(
            "not_allowed",
            f"The path {path!r} is outside the allowed directories.",
            "Add its directory to allow.roots in the configuration file.",
        )
    if not os.path.exists(path):
        raise PoolsError("task_error", f"The path {path!r} does not exist.", "Correct the path.")
    if os.path.isdir(path):
        base, names = path, sorted(_matching(path, patterns))
    else:
        base = context.cwd if inside(path, [os.path.realpath(context.cwd)]) else "/"
        names = [os.path.relpath(path, base) if base != "/" else path]
    rows = _rows(base, names, context)
    return {"files": rows, "totals": _totals(rows)}


def _rows(base: str, names: Sequence[str], context: Context) -> list[Row]:
    rows, said = [], 0.0
    for done, name in enumerate(names):
        if (now := time.monotonic()) - said >= PROGRESS_SECONDS:
            context.progress(done, len(names))
            said = now
        rows.append(_row(os.path.join(base, name), name, context.roots))
    context.progress(len(names), len(names))
    return rows


# --- which files ---------------------------------------------------------------------------


def _matching(directory: str, patterns: Sequence[str] | None) -> Iterator[str]:
    """Relative paths of the files below `directory`; symlinked directories are not entered."""
    wanted = _wanted(patterns)
    for here, folders, names in os.walk(directory):
        folders[:] = [folder for folder in folders if not _skipped(here, folder)]
        prefix = os.path.relpath(here, directory)
        for name in names:
            relative = name if prefix == "." else f"{prefix}/{name}"
            if wanted(relative):
                yield relative


def _skipped(parent: str, folder: str) -> bool:
    if folder.startswith(".") or folder in SKIPPED or folder.endswith(".egg-info"):
        return True
    whole = os.path.join(parent, folder)
    if folder in MADE:
        return os.path.basename(parent) != "src" and not _holds(whole, "__init__.py")
    return _holds(whole, "pyvenv.cfg")


def _holds(folder: str, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


def _wanted(patterns: Sequence[str] | None) -> Callable[[str], bool]:
    """Whether a relative path is asked for; without patterns, whether its language is known.

    A pattern without a slash is about the file's name, at any depth; in one with slashes
    `*` stays between them and `**` stands for any number of directories.
    """
    if patterns is None:
        return lambda path: _extension(path) in _readers()
    split = [pattern.removeprefix("./").split("/") for pattern in patterns]

    def wanted(path: str) -> bool:
        parts = path.split("/")
        return any(_glob(parts[-1:] if len(globs) == 1 else parts, globs) for globs in split)

    return wanted


def _glob(parts: Sequence[str], globs: Sequence[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        if len(globs) == 1:
            return True
        return any(_glob(parts[start:], globs[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _glob(parts[1:], globs[1:])


# --- one file ------------------------------------------------------------------------------


def _row(path: str, name: str, roots: Sequence[str]) -> Row:
    language = _language(path)
    row: Row = {
        # A name need not be UTF-8 on disk, but a result is.
        "path": os.fsencode(name).decode(errors="replace"),
        "language": language,
        "size_bytes": None,
        "functions": 0,
        "complexity": 0,
        "max_complexity": 0,
        "error": None,
    }
    try:
        with _opened(path, roots) as file:
            row["size_bytes"] = os.fstat(file.fileno()).st_size
            if language is not None:
                row |= _measured(path, _source(file.read(MAX_SOURCE_BYTES + 1)))
    except OSError as error:
        row["error"] = error.strerror or "cannot be read"
    except _Unfit as error:
        row["error"] = str(error)
    return row


class _Unfit(Exception):
    """Why a file cannot be analysed."""


def _opened(path: str, roots: Sequence[str]) -> Any:
    """The file, when it is a plain one inside the roots. Opening does not wait for a pipe's other
    end, and does not follow a symlink put in place after the look.
    """
    real = os.path.realpath(path)
    if not inside(real, roots, str):
        raise _Unfit("leads outside the allowed directories")
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _Unfit("is not a regular file")
    return open(descriptor, "rb")


def _source(data: bytes) -> str:
    if len(data) > MAX_SOURCE_BYTES:
        raise _Unfit(f"is larger than {MAX_SOURCE_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unfit(f"is not UTF-8 text (byte {error.start})") from None


def _measured(path: str, source: str) -> Row:
    try:
        counts = _python_complexities(source) if path.endswith(".py") else None
        if counts is None:
            functions = _analyzer().analyze_source_code(path, source).function_list
            counts = [function.cyclomatic_complexity for function in functions]
    except Exception as error:  # a parser that meets what it never expected must not end the walk
        raise _Unfit(f"could not be parsed ({type(error).__name__})") from error
    return {"functions": len(counts), "complexity": sum(counts), "max_complexity": max(counts, default=0)}


@functools.cache
def _analyzer() -> Any:
    import lizard

    return lizard.FileAnalyzer(lizard.get_extensions([]))


# --- Python --------------------------------------------------------------------------------

_DECISIONS: dict[type[ast.AST], Callable[[Any], int]] = {
    **dict.fromkeys((ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While), lambda node: 1),
    **dict.fromkeys((ast.ExceptHandler, ast.match_case), lambda node: 1),
    **dict.fromkeys((ast.Try, ast.TryStar), lambda node: bool(node.finalbody)),
    ast.BoolOp: lambda node: len(node.values) - 1,
    ast.comprehension: lambda node: 1 + len(node.ifs),
}


def _python_complexities(source: str) -> list[int] | None:
    """Each function's complexity, counted as lizard counts; `None` for what this Python cannot parse.

    lizard passes by every function written on one line, `def f(): ...`, which typed code is full of.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            pending: list[tuple[ast.AST, int | None]] = [(ast.parse(source), None)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    counts: list[int] = []
    while pending:
        node, function = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            counts.append(1)
            function = len(counts) - 1
        elif function is not None and type(node) in _DECISIONS:
            counts[function] += _DECISIONS[type(node)](node)
        pending += [(child, function) for child in ast.iter_child_nodes(node)]
    return counts


# --- languages -----------------------------------------------------------------------------

_NAMES = {"c": "c", "jsx": "javascript", "tsx": "typescript", "gd": "gdscript"}
"""Where the parser's own name for an extension is not the language's."""


@functools.cache
def _readers() -> dict[str, str]:
    """Extension -> language, for every language the parser knows."""
    from lizard_languages import languages

    known: dict[str, str] = {}
    for reader in languages():
        for extension in reader.ext:
            known.setdefault(extension.lower(), reader.language_names[0])
    return known | _NAMES


def _extension(path: str) -> str:
    return os.path.basename(path).rpartition(".")[2].lower() if "." in os.path.basename(path) else ""


def _language(path: str) -> str | None:
    return _readers().get(_extension(path))


# --- totals --------------------------------------------------------------------------------


def _totals(rows: Sequence[Row]) -> dict[str, Any]:
    by_language: dict[str, list[Row]] = {}
    for row in rows:
        by_language.setdefault(row["language"] or "unknown", []).append(row)
    return {
        **_sums(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "by_language": {language: _sums(of) for language, of in sorted(by_language.items())},
    }


def _sums(rows: Sequence[Row]) -> dict[str, Any]:
    functions = sum(row["functions"] for row in rows)
    complexity = sum(row["complexity"] for row in rows)
    return {
        "files": len(rows),
        "size_bytes": sum(row["size_bytes"] or 0 for row in rows),
        "functions": functions,
        "complexity": complexity,
        "average_complexity": round(complexity / functions, 2) if functions else 0.0,
        "max_complexity": max((row["max_complexity"] for row in rows), default=0),
    }
