"""The console: flags generated from every tool, payload forms, exit codes, laziness."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
from peers import OwnerPeer, http_peer, ok, owner_peer, refused, rpc

import mcp_pools.tools  # noqa: F401 - fills TOOLS
from mcp_pools import __version__, console, serve
from mcp_pools.errors import PoolsError
from mcp_pools.home import Hello, Home, NoOwner
from mcp_pools.terminal import flags, own, reach
from mcp_pools.tool import TOOLS, Parameter, Tool
from mcp_pools.type_listing import described

PARAMETERS = [(tool, each) for tool in TOOLS.values() for each in tool.parameters]
POOL_LIST: dict[str, Any] = {"pools": [], "total": 0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MCP_POOLS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MCP_POOLS_TOKEN", raising=False)
    return tmp_path / "home"


class Told(dict[str, dict[str, Any]]):
    """What the owner answers to each tool, to be set by a test; `calls` is what it was asked."""

    peer: OwnerPeer

    @property
    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        return self.peer.called()


@pytest.fixture
def owner(home: Path) -> Iterator[Told]:
    told = Told()
    with owner_peer(home, lambda name, arguments, say: told.get(name, ok({}))) as peer:
        told.peer = peer
        yield told


def task(status: str = "completed", **more: Any) -> dict[str, Any]:
    fields = ("pool", "waiting", "progress", "error", "result_uri", "output_tail", "next", "result")
    times = {"created_at": "2026-07-28T12:00:03.5Z", "started_at": None, "finished_at": None}
    known = {"task_id": "t_1", "task_type": "echo", "status": status, **times}
    return {**dict.fromkeys(fields), **known, **more}


def typed(parameter: Parameter) -> tuple[list[str], Any]:
    """Words that set a parameter, and the value the tool must receive."""
    kinds = flags.kind(parameter.type)
    if flags.is_object(parameter):
        return ["a=b"], {"a": "b"}
    if flags.is_list(parameter):
        return ["x"], ["x"]
    for each in kinds:
        if each in (int, float):
            return ["3"], 3
        if each is datetime:
            return ["2026-07-28T12:00:00Z"], "2026-07-28T12:00:00Z"
        if each is not str and each is not bool:
            return [each.__args__[0]], each.__args__[0]
    return ["word"], "word"


def words_for(tool: Tool) -> list[str]:
    """The shortest command line that gives a tool all it requires."""
    words = [tool.command]
    for each in tool.parameters:
        if each.required:
            (word,), _ = typed(each)
            words += [word] if each.name in tool.positional else [f"--{each.name.replace('_', '-')}", word]
    return words


@pytest.mark.parametrize(("tool", "parameter"), PARAMETERS, ids=lambda each: each.name)
def test_every_parameter_of_every_tool_is_reachable(owner: Told, tool: Tool, parameter: Parameter) -> None:
    flag = f"--{parameter.name.replace('_', '-')}"
    words = words_for(tool)
    if flags.kind(parameter.type) == (bool,):
        expected: Any = not parameter.default
        words.append(flag if expected else f"--no-{flag[2:]}")
    else:
        (word,), expected = typed(parameter)
        if not parameter.required:
            words += [word] if parameter.name in tool.positional else [flag, word]
    console.main(words)
    ((name, arguments),) = owner.calls
    assert name == tool.name
    assert arguments[parameter.name] == expected


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_short_flags_say_the_same(owner: Told, tool: Tool) -> None:
    for name, short in tool.flags.items():
        parameter = next(each for each in tool.parameters if each.name == name)
        (word,), expected = typed(parameter)
        console.main([*words_for(tool), short, word])
        assert owner.calls[-1][1][name] == expected


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_what_is_left_out_is_not_sent(owner: Told, tool: Tool) -> None:
    console.main(words_for(tool))
    ((_, arguments),) = owner.calls
    assert set(arguments) == {each.name for each in tool.parameters if each.required}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_help_has_the_description_and_the_example(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main([tool.command, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert tool.description.split()[0] in printed
    assert " ".join(tool.example.split()) in printed
    assert all(" ".join(each.help.split())[:20] in printed for each in tool.parameters)


@pytest.mark.parametrize("name", [*(tool.command for tool in TOOLS.values()), "task-types", "doctor"])
def test_help_says_what_comes_back_and_shows_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every command, the console's own too; no help names a tool where a command is meant."""
    assert console.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Result: " in printed
    assert f"  mcp-pools {name}" in printed.partition("Example")[2]
    assert "In JSON: ." not in printed


def test_the_help_of_all_is_in_sections(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command stands once, below what it is for; the end says where to read on."""
    assert console.main(["--help"]) == 0
    printed = capsys.readouterr().out
    places = [printed.index(f"\n{title}:\n") for title in ("Work", "Pools", "What happens", "This console")]
    assert places == sorted(places)
    for name in [*(tool.command for tool in TOOLS.values()), *own.COMMANDS]:
        assert sum(line.split()[:1] == [name] for line in printed.splitlines()) == 1
    assert "mcp-pools COMMAND --help" in " ".join(printed.split())


def test_a_deleted_tool_has_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = {name: tool for name, tool in TOOLS.items() if name != "pool_health"}
    monkeypatch.setattr(console, "TOOLS", fewer)
    assert console.main(["--help"]) == 0
    assert "health" not in capsys.readouterr().out
    assert console.main(["health"]) == 2
    assert "there is no command 'health'" in capsys.readouterr().err


def test_lists_repeat_their_flag() -> None:
    async def pool_x(router: Any, pools: list[str] | None = None) -> None:
        """Do it."""

    tool = Tool("pool_x", "X", pool_x, "write", "x")
    command = console.ToolCommand(tool)
    context = command.make_context("x", ["--pools", "a", "--pools", "b"])
    assert flags.arguments(tool, context.params) == {"pools": ["a", "b"]}


PAYLOADS = [
    (['{"a": 1}'], {"a": 1}),
    (["a=1", "b=two", "c=[1]", "d={"], {"a": 1, "b": "two", "c": [1], "d": "{"}),
    (["a=x=y"], {"a": "x=y"}),
    (["a="], {"a": ""}),
    (["a=NaN"], {"a": "NaN"}),
    (['{"a": 1, "b": 1}', "b=2"], {"a": 1, "b": 2}),
    (["url=http://h/?q=1"], {"url": "http://h/?q=1"}),
]


@pytest.mark.parametrize(("words", "expected"), PAYLOADS)
def test_payload_forms(words: list[str], expected: dict[str, Any]) -> None:
    assert flags.read_object("--payload", tuple(words)) == expected


def test_string_objects_keep_their_strings() -> None:
    assert flags.read_object("--selector", ("gpu=1",), strings=True) == {"gpu": "1"}


def test_payload_from_a_file_and_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.json").write_text('{"a": "ä"}', encoding="utf-8-sig")
    assert flags.read_object("--payload", (f"@{tmp_path / 'p.json'}",)) == {"a": "ä"}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO('{"b": "ü"}'.encode())))
    assert flags.read_object("--payload", ("-",)) == {"b": "ü"}


BAD_PAYLOADS = [
    ("{'a': 1}", "line 1, column 2 (near: {'a': 1})"),
    ('{"a": 1,\n "b": }', "line 2, column 7"),
    ("hello", "--payload is not JSON"),
    ("[1]", "takes a JSON object, but this is a list"),
    ('{"a": NaN}', "NaN is not a JSON value"),
    ("@nowhere.json", "cannot read nowhere.json: No such file or directory. Give a readable JSON file"),
    ("", "line 1, column 1"),
]


@pytest.mark.parametrize(("word", "words"), BAD_PAYLOADS)
def test_a_bad_payload_says_where_and_how(word: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["execute", "-t", "echo", "--payload", word]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


USAGE = [
    (["exekute"], "there is no command 'exekute'. Did you mean 'execute'?"),
    (["list", "--activ-only"], "--active-only"),
    (["get"], "Missing argument 'NAME'"),
    (["execute", "-t", "echo"], "Missing option '--payload'"),
    (["execute", "-t", "echo", "--payload", "a=1", "-s", "best"], "'least_loaded'"),
    (["execute", "-t", "echo", "--payload", "a=1", "-p", "x", "--auto-route"], "contradict each other"),
    (["health", "--all", "-p", "x"], "contradict each other"),
    (["scale", "x", "-w", "many"], "'many' is not INTEGER or auto"),
    (["close", "x", "--drain-timeout", "soon"], "'soon' is not a valid float"),
    (["list", "-f", "xml"], "'markdown'"),
    (["serve", "--http", "here:there"], "'here:there' is no HOST:PORT"),
    (["serve", "--nope"], "unrecognized arguments: --nope"),
]


@pytest.mark.parametrize(("words", "expected"), USAGE)
def test_usage_errors_are_one_line_and_exit_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = console.main(words)
    except SystemExit as left:
        status = int(str(left.code))
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("mcp-pools: ")
    assert expected in printed.err
    assert printed.err.count("\n") == 1


REFUSALS = [("unknown_pool", 3), ("unknown_task", 3), ("conflict", 1), ("queue_full", 1)]
REFUSALS += [("invalid_payload", 2), ("unknown_task_type", 2), ("not_allowed", 2), ("unsupported", 2)]


@pytest.mark.parametrize(("code", "status"), REFUSALS)
def test_a_refusal_is_one_line_with_its_exit_status(
    owner: Told, capsys: pytest.CaptureFixture[str], code: str, status: int
) -> None:
    owner["pool_get"] = refused(code, "No pool\nnamed \x1b[31m'x'.", "Call pool_list.")
    assert console.main(["get", "x"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "mcp-pools: No pool named 'x'. Call 'mcp-pools list'.\n"


RESULTS = [
    (task("completed"), 0),
    (task("running"), 0),
    (task("queued"), 0),
    (task("failed"), 1),
    (task("cancelled"), 1),
    (task("timed_out"), 1),
    ({"status": "healthy", "pools": []}, 0),
    ({"status": "degraded", "pools": []}, 1),
    ({"status": "unhealthy", "pools": []}, 1),
    ({"distribution_id": "d", "status": "completed", "failed": 0}, 0),
    ({"distribution_id": "d", "status": "completed", "failed": 2}, 1),
    ({"id": "t", "cancelled": True, "already_finished": False}, 0),
    ({"pool_id": "p", "name": "x", "status": "failed"}, 0),
]


@pytest.mark.parametrize(("data", "status"), RESULTS)
def test_a_result_has_its_exit_status(
    owner: Told, capsys: pytest.CaptureFixture[str], data: dict[str, Any], status: int
) -> None:
    owner["pool_task"] = ok(data)
    assert console.main(["task", "t_1"]) == status
    assert json.loads(capsys.readouterr().out) == data


def test_json_is_exactly_the_structured_content(owner: Told, capsys: pytest.CaptureFixture[str]) -> None:
    owner["pool_list"] = ok({"total": 0, "pools": [], "ä": "\x9b"})
    assert console.main(["list"]) == 0
    assert capsys.readouterr().out == '{"total":0,"pools":[],"ä":"\\u009b"}\n'


def test_the_owner_learns_where_the_caller_is(
    owner: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    console.main(["list", "--config", "c.yaml"])
    hello = owner.peer.hellos[0]
    assert (hello["kind"], hello["cwd"], hello["version"]) == ("console", str(tmp_path), __version__)
    assert hello["config"] == str(tmp_path / "c.yaml")


@pytest.fixture
def store_opens_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def open_as(router: Any) -> None:
        module = types.ModuleType("mcp_pools.reading")
        module.__dict__.update(read_only=lambda home, config: router)
        monkeypatch.setitem(sys.modules, "mcp_pools.reading", module)

    return open_as


def test_reading_needs_no_owner(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody owns the home, and nobody does afterwards: the implied pool is there, without workers."""
    assert console.main(["list"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(pool["name"], pool["workers"]["total"]) for pool in listed["pools"]] == [("local", 0)]
    assert console.main(["health"]) == 0
    assert json.loads(capsys.readouterr().out)["pools"][0]["reason"] == "no owner"
    assert console.main(["get", "locale"]) == 3
    assert capsys.readouterr().err == "mcp-pools: There is no pool 'locale'. Did you mean 'local'?\n"
    assert not home.exists()


def test_reading_starts_an_owner_when_the_store_needs_one(
    store_opens_as: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []

    def connect(home: Home, hello: Hello, start: bool = True) -> Any:
        asked.append(start)
        if start:
            raise PoolsError("pool_unreachable", "The owner does not answer.", "End it.")
        raise NoOwner(home)

    store_opens_as(None)
    monkeypatch.setattr(reach, "connect", connect)
    assert console.main(["list"]) == 4
    assert asked == [False, True]
    assert capsys.readouterr().err == "mcp-pools: The owner does not answer. End it.\n"


def test_no_server_is_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["list", "--server", "http://127.0.0.1:1"]) == 4
    assert capsys.readouterr().err == (
        "mcp-pools: nothing answers at http://127.0.0.1:1. Start a server there with "
        "'mcp-pools serve --http HOST:PORT', or leave out --server.\n"
    )


def test_a_server_that_ends_waits_early_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([task("running"), task("running"), task("completed", result=1)])
    with http_peer(lambda body: (200, "application/json", rpc(body, ok(next(answers))))) as server:
        words = ["execute", "-t", "echo", "--payload", "a=1", "--server", server.url]
        assert console.main(words) == 0
    assert json.loads(capsys.readouterr().out)["result"] == 1
    asked = [body["params"]["name"] for _, _, body in server.requests]
    assert asked == ["pool_execute", "pool_task", "pool_task"]


def test_a_distribution_is_waited_for_by_its_own_id(capsys: pytest.CaptureFixture[str]) -> None:
    begun = {"distribution_id": "d_1", "strategy": "map_reduce", "status": "running", "results": []}
    answers = iter([begun, begun | {"status": "completed", "failed": 0}])
    with http_peer(lambda body: (200, "application/json", rpc(body, ok(next(answers))))) as server:
        words = ["distribute", "-t", "echo", "--payload", "items=[1]", "--server", server.url]
        assert console.main(words) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "completed"
    _, (_, _, again) = server.requests
    assert again["params"]["name"] == "pool_task"
    assert again["params"]["arguments"]["task_id"] == "d_1"


def test_no_wait_asks_once() -> None:
    with http_peer(lambda body: (200, "application/json", rpc(body, ok(task("queued"))))) as server:
        words = ["execute", "-t", "echo", "--payload", "a=1", "--no-wait", "--server", server.url]
        assert console.main(words) == 0
    assert len(server.requests) == 1


def test_an_interrupt_exits_130_and_cancels(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with owner_peer(home, interrupt) as peer:
        assert console.main(["execute", "-t", "sleep", "--payload", "seconds=60"]) == 130
        assert peer.ended.wait(10)
    assert peer.received[-1]["method"] == "notifications/cancelled"
    assert capsys.readouterr().err.startswith("mcp-pools: interrupted")


def test_progress_goes_to_standard_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(name: str, arguments: dict[str, Any], say: Any) -> dict[str, Any]:
        said = {"progress": 1, "total": 4, "message": "a\x1b[2Jb\nc"}
        say({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})
        return ok(task())

    with owner_peer(home, answer):
        assert console.main(["execute", "-t", "echo", "--payload", "a=1", "-f", "progress"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["status"] == "completed"
    assert printed.err == "execute …\nexecute  ━━━━━━──────────────────   25%  1/4  ab c\n"


def test_serve_hands_its_flags_to_the_bridge() -> None:
    given = serve.parser().parse_args(["--read-only", "--tools", "a,b", "--tools", "c", "--config", "f"])
    assert given.config == "f"
    assert serve.flags(given) == {
        "read_only": True,
        "disable_destructive": False,
        "tools": ["a", "b", "c"],
        "exclude_tools": [],
        "toolsets": [],
    }


def test_task_types_are_described_with_schema_and_example() -> None:
    from pydantic import BaseModel

    from mcp_pools.task_type import TaskType

    class Payload(BaseModel):
        text: str

    known = {"shout": TaskType("shout", "Shout", "m:f", Payload, example={"text": "hi"})}
    assert described(known, None, whole=False) == {"task_types": [{"name": "shout", "summary": "Shout"}]}
    whole = described(known, "shout", whole=False)
    assert whole["example"] == {"text": "hi"}
    assert whole["schema"]["properties"] == {"text": {"type": "string"}}
    assert described(known, None, whole=True) == {"task_types": [whole]}


def python(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"], ["list", "--help"]])
def test_help_and_version_exit_0(words: list[str]) -> None:
    done = python("-m", "mcp_pools", *words)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == ""


def test_no_arguments_print_the_help() -> None:
    assert python("-m", "mcp_pools").stdout == python("-m", "mcp_pools", "--help").stdout


HEAVY = ("pydantic", "asyncio", "mcp", "rich", "typer", "http.client", "ssl", "anyio")


@pytest.mark.parametrize(
    "words",
    [["list"], ["execute", "-t", "echo", "--payload", "a=1"], ["--version"], ["serve", "--http", "x:y"]],
)
def test_a_command_imports_only_what_it_uses(owner: Told, words: list[str]) -> None:
    script = (
        "import sys; from mcp_pools.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"  # a usage error of `serve`
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = python("-c", script, *words)
    assert done.stderr.splitlines()[-1] == "[]"


def test_serving_imports_no_click() -> None:
    script = "import sys, mcp_pools.serve as s; s.parser(); sys.exit('click' in sys.modules)"
    assert python("-c", script).returncode == 0


def test_a_reader_that_leaves_is_no_error(owner: Told) -> None:
    owner["pool_task"] = ok(task(result=["x" * 1000] * 5000))
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "mcp_pools", "task", "t_1"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0


def test_names_of_tools_become_commands() -> None:
    assert console.as_commands("Use `pool_get`.") == "Use 'mcp-pools get'."
    assert console.as_commands("pool_get(name='x'), pool_other") == "pool_get(name='x'), pool_other"


def test_values_of_several_types() -> None:
    several = flags.OneOf((int, float))
    assert several.convert("2", None, None) == 2
    assert several.convert("2.5", None, None) == 2.5
    with pytest.raises(click.BadParameter):
        several.convert("x", None, None)


class Terminal(io.StringIO):
    """A terminal's standard output."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "marked"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_gets_a_table_with_colours_unless_refused(
    owner: Told, monkeypatch: pytest.MonkeyPatch, no_color: str | None, marked: bool
) -> None:
    owner["pool_task"] = ok(task())
    monkeypatch.setenv("TERM", "xterm")
    if no_color is None:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.main(["task", "t_1"])
    shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert ("✓" in shown, "\x1b[" in shown) == (marked, marked)
    assert "completed  t_1  echo" in shown or marked


def test_json_on_a_terminal_is_indented(owner: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    owner["pool_list"] = ok(POOL_LIST)
    monkeypatch.setattr(sys, "stdout", Terminal())
    console.main(["list", "-f", "json"])
    assert sys.stdout.getvalue() == '{\n  "pools": [],\n  "total": 0\n}\n'  # type: ignore[attr-defined]
