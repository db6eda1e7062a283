"""Results as text: complete, within the width, and free of what a terminal would obey."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from rich.cells import cell_len

from mcp_pools.formats import render
from mcp_pools.models import Distribution, ItemResult, Rebalanced, TaskError
from mcp_pools.terminal.plain_text import one_line, plain

POOL = {
    "name": "local",
    "pool_id": "p_01J0000000000000000000000",
    "type": "local",
    "status": "running",
    "workers": {"total": 4, "busy": 1, "idle": 3},
    "min_workers": 1,
    "max_workers": 10,
    "queue_size": 12,
    "region": "default",
    "labels": {"gpu": "no", "zone": "eu-central-1a"},
    "task_types": ["echo", "sleep", "analyze", "compute", "transform", "query", "process", "command"],
}
WORKER = {
    "worker_id": "w_01J000000000",
    "status": "busy",
    "pid": 4242,
    "task_id": "t_01J0000000000000000000000",
    "tasks_done": 7,
    "memory_bytes": 48_200_000,
    "started_at": "2026-07-28T11:59:00Z",
}
METRICS = {
    "tasks_completed": 120,
    "tasks_failed": 3,
    "avg_duration_seconds": 0.25,
    "p50_seconds": 0.2,
    "p95_seconds": 1.5,
    "p99_seconds": 75.0,
    "memory_bytes": 96_000_000,
}
TASK: dict[str, Any] = {
    "task_id": "t_01J0000000000000000000000",
    "task_type": "analyze",
    "status": "completed",
    "pool": "local",
    "pool_type": "local",
    "worker": "w_1",
    "caller": "local",
    "attempt": 1,
    "max_attempts": 1,
    "priority": 0,
    "distribution_id": None,
    "created_at": "2026-07-28T12:00:00.100000Z",
    "started_at": "2026-07-28T12:00:00.200000Z",
    "finished_at": "2026-07-28T12:00:03.400000Z",
    "queue_seconds": 0.1,
    "run_seconds": 3.2,
    "progress": None,
    "waiting": None,
    "result": {
        "files": [
            {
                "path": "mcp_pools/router.py",
                "language": "python",
                "size_bytes": 20480,
                "functions": 41,
                "complexity": 77,
                "error": None,
            },
            {
                "path": "a/very/long/path/that/does/not/fit/anywhere/at/all/in/eighty/columns/of/text.py",
                "language": "python",
                "size_bytes": 12,
                "functions": 0,
                "complexity": 0.5,
                "error": None,
            },
        ],
        "totals": {"files": 2, "size_bytes": 20492, "by_language": {"python": {"files": 2, "functions": 41}}},
    },
    "result_uri": None,
    "output_tail": None,
    "error": None,
    "next": None,
}
FAILED = {
    **TASK,
    "status": "failed",
    "result": None,
    "output_tail": "Traceback\n  boom\n",
    "error": {"code": "task_error", "message": "it broke", "retryable": False, "details": {"exit_code": 3}},
}
WAITING = {
    **TASK,
    "status": "queued",
    "pool": None,
    "result": None,
    "queue_seconds": None,
    "run_seconds": None,
    "finished_at": None,
    "waiting": {"code": "no_idle_worker", "message": "all 4 workers are busy"},
    "next": "pool_task(task_id='t_01J0000000000000000000000', wait_seconds=30)",
}
HEALTH = {
    "status": "degraded",
    "pools": [
        {"name": "local", "status": "healthy", "workers": 4, "latency_seconds": 0.0004, "reason": None},
        {
            "name": "far-away",
            "status": "unhealthy",
            "workers": 0,
            "latency_seconds": 5.0,
            "reason": "no answer within 5 s from the server at the other end of the world",
        },
    ],
}


def as_json(result: Any) -> dict[str, Any]:
    """A model as its tool returns it."""
    dumped: dict[str, Any] = TypeAdapter(type(result)).dump_python(result, mode="json")
    return dumped


def item(index: int, failed: bool = False) -> ItemResult:
    """What became of one item."""
    error = TaskError(code="task_error", message=f"division by zero at {index}") if failed else None
    status, result = ("failed", None) if failed else ("completed", {"n": index})
    return ItemResult(
        index=index, task_id=f"t_{index}", pool="local", status=status, result=result, error=error
    )


DISTRIBUTION = Distribution(
    distribution_id="d_01J0000000000000000000000",
    task_type="compute",
    strategy="map_reduce",
    status="completed",
    total=60,
    succeeded=58,
    failed=2,
    cancelled=0,
    pools={"local": 60},
    created_at=datetime(2026, 7, 28, 12, tzinfo=UTC),
    finished_at=datetime(2026, 7, 28, 12, 0, 1, tzinfo=UTC),
    results=[item(index, failed=index in (3, 55)) for index in range(60)],
    reduced=1770,
    error=None,
    next=None,
)
MOVED = Rebalanced(moved=[{"task_id": "t_1", "from": "local", "to": "gpu"}], why="local had 9 queued.")
RESULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "distribute": ("pool_distribute", as_json(DISTRIBUTION)),
    "rebalance": ("pool_rebalance", as_json(MOVED)),
    "list": ("pool_list", {"pools": [POOL, {**POOL, "name": "b" * 40, "status": "failed"}], "total": 2}),
    "no pools": ("pool_list", {"pools": [], "total": 0}),
    "get": ("pool_get", {**POOL, "worker_rows": [WORKER, {**WORKER, "task_id": None}], "metrics": METRICS}),
    "register": ("pool_register", POOL),
    "scale": ("pool_scale", {**POOL, "labels": {}}),
    "close": ("pool_close", {**POOL, "status": "closed"}),
    "execute": ("pool_execute", TASK),
    "failed": ("pool_execute", FAILED),
    "waiting": ("pool_task", WAITING),
    "scalar": ("pool_task", {**TASK, "result": 42}),
    "null": ("pool_task", {**TASK, "result": None}),
    "nested": ("pool_task", {**TASK, "result": {"a": {"b": {"c": [1, {"d": 2}]}}, "n": 1}}),
    "texts": ("pool_task", {**TASK, "result": ["one", "two" * 60]}),
    "cancel": ("pool_cancel", {"id": "t_1", "cancelled": True, "already_finished": False}),
    "too late": ("pool_cancel", {"id": "t_1", "cancelled": False, "already_finished": True}),
    "health": ("pool_health", HEALTH),
    "other": ("pool_stats", {"totals": {"tasks": 3}, "by_type": [{"type": "echo", "tasks": 3}]}),
    "nothing": ("pool_stats", {}),
}
EVERY = pytest.mark.parametrize("name", RESULTS)


def drawn(name: str, width: int = 80, format: str = "table", color: bool = False) -> str:
    tool, data = RESULTS[name]
    return render(tool, data, format, width, color)


@EVERY
@pytest.mark.parametrize("width", [20, 40, 80, 160])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    lines = drawn(name, width).split("\n")
    assert max(cell_len(line) for line in lines) <= width
    assert not any(line.endswith(" ") for line in lines)


@EVERY
def test_json_is_the_data(name: str) -> None:
    assert json.loads(drawn(name, format="json")) == RESULTS[name][1]


@EVERY
def test_without_colour_there_is_neither_sequence_nor_mark(name: str) -> None:
    text = drawn(name)
    assert "\x1b" not in text
    assert not set("●○✓✗■▲◐") & set(text)


@EVERY
@pytest.mark.parametrize("width", [40, 80, 160])
def test_nothing_that_counts_is_lost(name: str, width: int) -> None:
    """Wrapped or not, each name, id, status and reason is there."""
    together = "".join(drawn(name, width).split())
    _, data = RESULTS[name]
    for key in ("name", "task_id", "id"):
        assert str(data.get(key, "")) in together
    for each in data.get("pools", ()):
        assert (each["status"] if isinstance(each, dict) else each) in together


def test_colour_brings_marks_and_colours() -> None:
    text = drawn("list", color=True)
    assert "\x1b[36m● running" in text
    assert "✗ failed" in text


def test_a_narrow_terminal_gets_records_instead_of_columns() -> None:
    lines = [line.split() for line in drawn("list", 20).split("\n")]
    assert ["status", "running"] in lines
    assert ["workers", "1/4"] in lines


def test_pools_show_busy_of_all_and_the_queue() -> None:
    header, _, first, *_ = drawn("list", 160).split("\n")
    assert header.split()[:6] == ["POOL", "STATUS", "TYPE", "WORKERS", "QUEUE", "SIZE"]
    assert first.split()[:6] == ["local", "running", "local", "1/4", "12", "1-10"]


def test_a_task_is_a_header_then_its_result() -> None:
    lines = drawn("execute", 160).split("\n")
    assert lines[0] == "completed  t_01J0000000000000000000000  analyze  on local"
    assert lines[1] == (
        "created 2026-07-28 12:00:00 UTC, queued 100 ms, ran 3.2 s, finished 2026-07-28 12:00:03 UTC"
    )
    assert "files" in lines
    assert "totals" in lines


def test_numbers_are_right_aligned_and_empty_columns_left_out() -> None:
    lines = drawn("execute", 160).split("\n")
    header = next(line for line in lines if line.startswith("PATH"))
    rows = [line for line in lines if ".py " in line]
    assert "ERROR" not in header
    end = header.index("BYTES") + len("BYTES")
    assert [row[:end].split()[-1] for row in rows] == ["20480", "12"]


def test_records_by_name_are_a_table_too() -> None:
    lines = drawn("execute", 80).split("\n")
    at = lines.index("totals.by_language")
    assert lines[at + 1].split() == ["TOTALS.BY"]
    assert lines[at + 2].split() == ["LANGUAGE", "FILES", "FUNCTIONS"]
    assert lines[at + 4].split() == ["python", "2", "41"]


def test_a_failure_shows_its_error_its_details_and_its_output() -> None:
    text = drawn("failed")
    assert "task_error: it broke" in text
    assert "exit_code" in text
    assert "output\nTraceback\n  boom" in text


def test_a_waiting_task_says_why() -> None:
    assert "no_idle_worker: all 4 workers are busy" in drawn("waiting")


def test_a_distribution_shows_its_sum_its_pools_and_what_failed_before_the_items() -> None:
    """The order in which they are asked for; a failure keeps its index, also beyond the rows shown."""
    lines = drawn("distribute").split("\n")
    assert lines[0].split("  ") == [
        "completed",
        "d_01J0000000000000000000000",
        "map_reduce",
        "58 of 60 succeeded, 2 failed",
    ]
    places = [lines.index(title) for title in ("reduced", "pools", "failed", "results")]
    assert places == sorted(places)
    assert lines[places[0] + 1] == "1770"
    failed = lines[places[2] : places[3]]
    assert any(line.split()[0] == "55" and "division by zero at 55" in line for line in failed if line)


def test_a_long_distribution_says_how_many_items_it_does_not_show() -> None:
    """The table ends, and names the format that does not."""
    text = drawn("distribute")
    assert text.endswith("… and 10 more; -f json shows all")
    assert '{"n": 49}' in text
    assert '{"n": 50}' not in text
    short = as_json(replace(DISTRIBUTION, results=DISTRIBUTION.results[:50]))
    assert "more" not in render("pool_distribute", short, "table", 80, False)


def test_a_fold_that_failed_says_why() -> None:
    """The items are there all the same; nothing stands for the sum that is none."""
    error = TaskError(code="task_error", message="cannot add a text to 1")
    data = as_json(replace(DISTRIBUTION, reduced=None, error=error))
    lines = render("pool_distribute", data, "table", 80, False).split("\n")
    assert "error  task_error: cannot add a text to 1" in lines
    assert "reduced" not in lines


def test_what_was_rebalanced_is_counted_explained_and_listed() -> None:
    """From where and to where, one task a row."""
    lines = drawn("rebalance").split("\n")
    assert lines[:2] == ["1 task moved", "local had 9 queued."]
    assert lines[-1].split() == ["t_1", "local", "gpu"]


def test_nested_results_are_indented_json() -> None:
    assert '"c": [\n' in drawn("nested")


def test_markdown_is_a_github_table() -> None:
    lines = drawn("list", format="markdown").split("\n")
    assert lines[0].startswith("| pool | status | type | workers |")
    assert lines[1].startswith("| --- | --- | --- | ---: |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_markdown_cells_hold_no_markup_of_others() -> None:
    data = {"rows": [{"a": "x|y\n<b>*z*</b> __init__ `c`", "b": 1}]}
    row = render("x", data, "markdown", 80, False).split("\n")[-1]
    assert row == r"| x\|y<br>\<b\>\*z\*\</b\> \__init_\_ \`c\` | 1 |"


def test_markdown_fences_cannot_be_closed_from_inside() -> None:
    data = {**TASK, "result": None, "output_tail": "```\nrm\n````"}
    assert "`````\n```\nrm\n````\n`````" in render("pool_task", data, "markdown", 80, False)


def test_a_result_of_another_shape_is_shown_all_the_same() -> None:
    assert "5" in render("pool_list", {"pools": 5, "total": "x"}, "table", 80, False)


def test_a_pool_without_labels_has_none() -> None:
    assert "{}" not in render(
        "pool_list", {"pools": [POOL, {**POOL, "labels": {}}], "total": 2}, "table", 160, False
    )


HOSTILE = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1b]52;c;aGk=\x07", ""),
    ("\x9b2Jgone", "gone"),
    ("\x1bP1$qm\x1b\\dcs", "dcs"),
    ("a\x08\x07\x00\rb", "ab"),
    ("line\r\nnext\ttab", "line\nnext\ttab"),
    ("\u202egnp.exe", "gnp.exe"),
    ("\x1b]unterminated", "unterminated"),
    ("\ud800", "\ufffd"),
    ("grüße 日本語 🎉", "grüße 日本語 🎉"),
]


@pytest.mark.parametrize(("text", "expected"), HOSTILE)
def test_control_sequences_are_taken_out(text: str, expected: str) -> None:
    assert plain(text) == expected


OBEYED = {chr(code) for code in [*range(32), *range(0x7F, 0xA0)]} - {"\n", "\t"}


@given(st.text(st.characters(codec=None)))
def test_whatever_comes_in_no_terminal_obeys_what_goes_out(text: str) -> None:
    data = {**FAILED, "result": [{"a": text, text: 1}], "output_tail": text, "task_type": text}
    data["error"] = {"code": "task_error", "message": text, "details": {text: text}}
    for format in ("table", "markdown", "json"):
        shown = render("pool_task", data, format, 40, False)
        assert not OBEYED & set(shown)
        assert shown.encode()
    assert not {"\n", "\t"} & set(one_line(text))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: (
    st.lists(inner) | st.dictionaries(st.text(), inner)
)))  # fmt: skip
def test_any_result_can_be_drawn_at_any_width(result: Any) -> None:
    for width in (20, 80):
        text = render("pool_task", {**TASK, "result": result}, "table", width, False)
        assert all(cell_len(line) <= width for line in text.split("\n"))
    assert render("pool_task", {**TASK, "result": result}, "markdown", 80, False)


def test_what_was_discovered_is_a_table() -> None:
    found = {
        "name": "a",
        "type": "mcp",
        "endpoint": None,
        "reachable": None,
        "offers": ["x", "y"],
        "registered": False,
        "note": "named in ~/.cursor/mcp.json",
    }
    there = {**found, "name": "b", "endpoint": "http://h/mcp", "reachable": True, "registered": True}
    shown = render("pool_discover", {"found": [found, there]}, "table", 160, False)
    heading, _, first, second = shown.splitlines()
    assert heading.split() == ["NAME", "TYPE", "ENDPOINT", "REACHABLE", "OFFERS", "REGISTERED", "NOTE"]
    assert "not asked" in first and "x, y" in first and "~/.cursor/mcp.json" in first
    assert "http://h/mcp" in second and second.count("yes") == 2
    assert "Nothing was found" in render("pool_discover", {"found": []}, "table", 80, False)


def test_what_memories_found_stands_below_the_tasks() -> None:
    """Each with its source; nothing that a terminal would obey."""
    memories = [
        {"source": "akosha", "text": "quince \x1b[31mred", "task_id": "t_1", "error": None},
        {"source": "session-buddy", "text": None, "task_id": None, "error": "it takes no connection"},
    ]
    data = {"tasks": [], "next_cursor": None, "memories": memories}
    text = render("pool_search", data, "table", 100, False)
    assert "No task matches." in text and "akosha" in text and "it takes no connection" in text
    assert "\x1b[31m" not in text
