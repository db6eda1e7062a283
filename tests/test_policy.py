"""The judge refuses everything that was not allowed, and names the key to set."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_pools.errors import PoolsError
from mcp_pools.models import Allow
from mcp_pools.policy import Judge, child_environment, default_roots, inside

ADDRESSES = {
    "example.com": ["93.184.216.34"],
    "both.example.com": ["93.184.216.34", "10.0.0.5"],
    "metadata.example.com": ["169.254.169.254"],
    "localhost": ["127.0.0.1", "::1"],
    "mapped.example.com": ["::ffff:127.0.0.1"],
    "six.example.com": ["2002:7f00:1::"],
    "nat.example.com": ["64:ff9b::a00:5"],
    "10.evil.com": ["93.184.216.34"],
    "db.internal": ["10.0.0.5"],
}


def resolve(host: str, port: int) -> list[str]:
    """A DNS of our own; addresses stand for themselves."""
    if host in ADDRESSES:
        return ADDRESSES[host]
    if host.replace(".", "").isdigit() or ":" in host:
        return [host]
    raise OSError(-2, "Name or service not known")


def judge(cwd: str = "/", roots: tuple[str, ...] = (), **allow: tuple[str, ...]) -> Judge:
    """A judge with these allow-lists."""
    return Judge(Allow(**allow), roots, cwd, resolve_host=resolve)


def refused(error: pytest.ExceptionInfo[PoolsError], key: str) -> bool:
    """Whether this is a refusal that names its key."""
    return error.value.code == "not_allowed" and f"allow.{key} " in error.value.next


# --- files ---------------------------------------------------------------------------------

PARTS = ["a", "b", "out", "up", "loop", "self", "..", ".", "file", "missing"]


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A root with directories and every kind of symlink, beside a directory that is not allowed."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        for folder in ("root/a/b", "outside/a", "rooted"):
            (top / folder).mkdir(parents=True)
        for file in ("root/file", "root/a/file", "outside/file", "rooted/file"):
            (top / file).write_text("x")
        (top / "root/out").symlink_to(top / "outside")
        (top / "root/a/out").symlink_to("../../outside")
        (top / "root/up").symlink_to("..")
        (top / "root/self").symlink_to(".")
        (top / "root/loop").symlink_to("loop")
        (top / "outside/b").symlink_to(top / "root/a")
        yield top


@example(parts=["loop", "..", "out"], absolute=False)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=8), absolute=st.booleans())
def test_no_mixture_of_dots_and_symlinks_leaves_the_roots(
    tree: Path, parts: list[str], absolute: bool
) -> None:
    """What is accepted is a real path below the root; all else is refused, naming allow.roots."""
    root = str(tree / "root")
    path = "/".join(([root] if absolute else []) + parts) or "."
    try:
        accepted = judge(root, (root,)).path(path)
    except PoolsError as error:
        assert (error.code, "allow.roots" in error.next) == ("not_allowed", True)
        assert not inside(os.path.join(root, path), [root])
    else:
        assert accepted == os.path.realpath(os.path.join(root, path))
        assert accepted == root or accepted.startswith(root + "/")


def test_a_circle_of_symlinks_hides_nothing(tmp_path: Path) -> None:
    """Behind it the next symlink is not resolved at the first look, nor the one after at the second."""
    (tmp_path / "loop").symlink_to("loop")
    for name, target in [
        ("a", "loop/../b"),
        ("b", "loop/../c"),
        ("c", "/etc"),
        ("x", "loop/../y"),
        ("y", "loop/../x"),
    ]:
        (tmp_path / name).symlink_to(target)
    root = str(tmp_path.resolve())
    assert [name for name in "abcxy" if inside(f"{root}/{name}", [root])] == []
    for name in "abcxy":
        with pytest.raises(PoolsError, match="outside the allowed"):
            judge(root, (root,)).path(name)


def test_a_sibling_whose_name_begins_like_the_root_is_outside(tree: Path) -> None:
    """`/x/rooted` is not inside `/x/root`."""
    with pytest.raises(PoolsError) as error:
        judge(str(tree), (str(tree / "root"),)).path("rooted/file")
    assert refused(error, "roots")


def test_roots_may_be_globs_home_or_everything(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that is a glob stands for what it matches, `~` for the home, `*` for the whole machine."""
    monkeypatch.setenv("HOME", str(tree / "outside"))
    assert judge("/", (str(tree / "root*"),)).path(str(tree / "rooted/file"))
    assert judge("/", ("~",)).path("~/file") == str(tree / "outside/file")
    assert judge("/", ("*",)).path("/etc") == os.path.realpath("/etc")
    assert judge(str(tree), ("root",)).path("root/file") == str(tree / "root/file")


def test_a_root_whose_name_looks_like_a_glob_stands_for_itself(tmp_path: Path) -> None:
    """`[ab]` as an existing directory does not let anybody into `a`."""
    (tmp_path / "[ab]").mkdir()
    (tmp_path / "a").mkdir()
    judging = judge(str(tmp_path), (str(tmp_path / "[ab]"),))
    assert judging.path("[ab]/x") == str(tmp_path.resolve() / "[ab]/x")
    with pytest.raises(PoolsError):
        judging.path("a")


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_what_cannot_be_a_path_is_invalid(path: str) -> None:
    """NUL and what no file system could hold are the payload's fault, not the configuration's."""
    with pytest.raises(PoolsError) as error:
        judge("/", ("*",)).path(path)
    assert error.value.code == "invalid_payload"


def test_the_default_root_is_the_callers_directory_but_neither_home_nor_slash(tmp_path: Path) -> None:
    """`/` and the home directory hold far more than a project."""
    home = str(tmp_path)
    assert default_roots("/", home) == ()
    assert default_roots(home, home) == ()
    project = tmp_path / "project"
    project.mkdir()
    assert default_roots(str(project), home) == (str(project.resolve()),)


# --- commands ------------------------------------------------------------------------------


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on PATH with the programs `tool` and `other`."""
    folder = tmp_path.resolve() / "bin"
    folder.mkdir()
    for name in ("tool", "other"):
        program = folder / name
        program.write_text("#!/bin/sh\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("entry", "argv", "allowed"),
    [
        ("*", ["tool", "anything", "at all"], True),
        ("tool", ["tool"], True),
        ("tool", ["tool", "any", "--thing"], True),
        ("tool", ["other"], False),
        ("to*", ["tool"], True),
        ("tool status", ["tool", "status"], True),
        ("tool status", ["tool"], False),
        ("tool status", ["tool", "status", "--short"], False),
        ("tool log *", ["tool", "log", "a/b"], True),
        ("tool log *", ["tool", "log"], False),
        ("tool log *", ["tool", "log", "a", "b"], False),
        ("tool --out=*", ["tool", "--out=x"], True),
        ("tool 'two words'", ["tool", "two words"], True),
        ("tool [a]", ["tool", "[a]"], True),
        ("{bin}/tool", ["tool"], True),
        ("{bin}/*", ["tool"], True),
        ("{top}/*", ["tool"], False),
        ("/usr/bin/*", ["tool"], False),
        ("", ["tool"], False),
    ],
)
def test_an_entry_matches_the_executable_and_the_arguments_one_by_one(
    bin_dir: Path, entry: str, argv: list[str], allowed: bool
) -> None:
    """The table of what `allow.commands` means."""
    judging = judge(commands=(entry.format(bin=bin_dir, top=bin_dir.parent),))
    if allowed:
        assert judging.command(argv, "/") == [str(bin_dir / argv[0]), *argv[1:]]
    else:
        with pytest.raises(PoolsError) as error:
            judging.command(argv, "/")
        assert refused(error, "commands")


@given(
    pattern=st.lists(st.sampled_from(["*", "a", "b", "a*", "[ab]"]), min_size=1, max_size=4),
    arguments=st.lists(st.sampled_from(["a", "b", "ab", "*", ""]), max_size=5),
)
def test_an_entry_with_arguments_never_permits_more_or_fewer(
    pattern: list[str], arguments: list[str]
) -> None:
    """No glob stretches over two arguments or none."""
    entry = " ".join(["sh", *pattern])
    try:
        judge(commands=(entry,)).command(["sh", *arguments], "/")
    except PoolsError as error:
        assert error.code == "not_allowed"
    else:
        assert len(pattern) == len(arguments)


def test_a_detour_cannot_pass_for_an_allowed_directory(bin_dir: Path, tmp_path: Path) -> None:
    """`/allowed/../elsewhere/tool` and a symlinked directory are judged by where they really lie."""
    allowed = tmp_path.resolve() / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(bin_dir)
    judging = judge(commands=(f"{allowed}/*", f"{allowed}/*/*", f"{allowed}/../*/*/*"))
    for detour in ("../bin/tool", "link/tool", "link/../bin/tool"):
        with pytest.raises(PoolsError) as error:
            judging.command([f"{allowed}/{detour}"], "/")
        assert refused(error, "commands")


def test_an_entry_may_name_a_directory_through_a_symlink(bin_dir: Path, tmp_path: Path) -> None:
    """`/bin/ls` stays allowed where `/bin` is a symlink to `/usr/bin`."""
    (tmp_path / "link").symlink_to(bin_dir)
    entry = f"{tmp_path}/link/tool"
    assert judge(commands=(entry,)).command([entry], "/") == [str(bin_dir / "tool")]


def test_a_relative_program_starts_at_the_directory_it_runs_in(bin_dir: Path) -> None:
    """`./tool` is looked up in the command's directory, not in this process's."""
    assert judge(commands=("tool",)).command(["./tool"], str(bin_dir)) == [str(bin_dir / "tool")]
    with pytest.raises(PoolsError, match=r"no program '\./tool'"):
        judge(commands=("tool",)).command(["./tool"], "/")


@pytest.mark.parametrize("argv", [[], [""], ["sh", "a\0b"]])
def test_what_is_no_command_is_invalid(argv: list[str]) -> None:
    """Nobody could allow these."""
    with pytest.raises(PoolsError) as error:
        judge(commands=("*",)).command(argv, "/")
    assert error.value.code == "invalid_payload"


def test_an_entry_that_is_no_command_line_says_so() -> None:
    """An unbalanced quote in the configuration is reported, not ignored."""
    with pytest.raises(PoolsError, match="No closing quotation"):
        judge(commands=("sh 'x",)).command(["sh"], "/")


def test_nothing_is_allowed_by_default() -> None:
    """Each judgement refuses while its list is empty, naming its own key."""
    empty = judge()
    asked = {
        "commands": lambda: empty.command([sys.executable], "/"),
        "python": lambda: empty.python("os:getcwd"),
        "hosts": lambda: empty.host("https://example.com"),
        "prompts": lambda: empty.prompt("terminal-claude"),
        "env": lambda: empty.env(["LANG"]),
        "endpoints": lambda: empty.endpoint("http://example.com/mcp"),
        "images": lambda: empty.image("python:3.13-slim"),
        "roots": lambda: empty.path("/etc/passwd"),
    }
    for key, ask in asked.items():
        with pytest.raises(PoolsError) as error:
            ask()
        assert refused(error, key)


# --- names ---------------------------------------------------------------------------------


def test_a_python_pattern_names_modules_or_with_a_colon_functions() -> None:
    """`jobs.*` allows every module below `jobs`; `jobs:run` one function."""
    judging = judge(python=("jobs.*", "jobs:run"))
    assert judging.python("jobs.daily:send") == "jobs.daily:send"
    assert judging.python("jobs:run") == "jobs:run"
    for function in ("jobs:other", "jobsx.a:run", "os:system"):
        with pytest.raises(PoolsError) as error:
            judging.python(function)
        assert refused(error, "python")


@pytest.mark.parametrize("function", ["jobs", "jobs:", ":run", "jobs:os.system", "a b:c", "a..b:c"])
def test_what_names_no_function_is_invalid(function: str) -> None:
    """Dotted names would reach through a module into what it imports."""
    with pytest.raises(PoolsError) as error:
        judge(python=("*",)).python(function)
    assert error.value.code == "invalid_payload"


def test_globs_name_worker_types_endpoints_and_images() -> None:
    """The three lists of plain globs."""
    judging = judge(prompts=("terminal-*",), endpoints=("http://127.0.0.1:*",), images=("python:*",))
    assert judging.prompt("terminal-claude") == "terminal-claude"
    assert judging.endpoint("http://127.0.0.1:8680/mcp")
    assert judging.image("python:3.13-slim")
    with pytest.raises(PoolsError):
        judging.image("evil/python:3")
    with pytest.raises(PoolsError) as error:
        judging.prompt("python")
    assert refused(error, "prompts")


def test_no_prompt_is_taken_while_no_worker_type_is_allowed() -> None:
    """Which one it will be is not known yet."""
    judge(prompts=("terminal-claude",)).prompts()
    with pytest.raises(PoolsError) as error:
        judge().prompts()
    assert refused(error, "prompts")


def test_a_payload_sets_only_allowed_variables_and_never_ours() -> None:
    """`*` allows all but the variables that the nesting cap and the clean-up rest on."""
    assert judge(env=("APP_*",)).env(["APP_MODE"]) == ("APP_MODE",)
    with pytest.raises(PoolsError) as error:
        judge(env=("APP_*",)).env(["APP_MODE", "LD_PRELOAD"])
    assert refused(error, "env") and "LD_PRELOAD" in error.value.message
    for name in ("MCP_POOLS_DEPTH", "mcp_pools_attempt", "", "A=B", "A\0"):
        with pytest.raises(PoolsError) as error:
            judge(env=("*",)).env([name])
        assert error.value.code == "invalid_payload"


# --- hosts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "url", "pinned"),
    [
        (("example.com",), "https://example.com/x?y", ("93.184.216.34",)),
        (("example.com",), "https://EXAMPLE.com./", ("93.184.216.34",)),
        (("*.com",), "http://example.com", ("93.184.216.34",)),
        (("*",), "http://example.com", ("93.184.216.34",)),
        (("example.com:8443",), "https://example.com:8443", ("93.184.216.34",)),
        (("example.com:8443",), "https://example.com", None),
        (("example.com",), "https://example.com@both.example.com/", None),
        (("*",), "http://localhost:8680", None),
        (("*:8680",), "http://localhost:8680", None),
        (("?*",), "http://localhost", None),
        (("[!x]*",), "http://localhost", None),
        (("localhost",), "http://localhost:8680", ("127.0.0.1", "::1")),
        (("*", "localhost"), "http://localhost", ("127.0.0.1", "::1")),
        (("*",), "http://both.example.com", None),
        (("*", "10.0.0.0/8"), "http://both.example.com", ("93.184.216.34", "10.0.0.5")),
        (("*",), "http://metadata.example.com", None),
        (("*",), "http://mapped.example.com", None),
        (("*",), "http://six.example.com", None),
        (("*",), "http://nat.example.com", None),
        (("*",), "http://127.0.0.1", None),
        (("*",), "http://[::1]/", None),
        (("::1",), "http://[::1]/", ("::1",)),
        (("*",), "http://0.0.0.0", None),
        (("10.*",), "http://10.0.0.5", ("10.0.0.5",)),
        (("10.*",), "http://db.internal", ("10.0.0.5",)),
        (("10.*",), "http://10.evil.com", None),
        (("10.0.0.5:80",), "http://10.0.0.5", ("10.0.0.5",)),
        (("10.0.0.5:80",), "http://10.0.0.5:81", None),
        (("*.internal",), "http://db.internal", ("10.0.0.5",)),
    ],
)
def test_a_host_is_judged_after_dns_and_pinned(
    hosts: tuple[str, ...], url: str, pinned: tuple[str, ...] | None
) -> None:
    """The table of what `allow.hosts` means; addresses that are not public must be named."""
    if pinned is not None:
        assert judge(hosts=hosts).host(url) == pinned
    else:
        with pytest.raises(PoolsError) as error:
            judge(hosts=hosts).host(url)
        assert error.value.code == "not_allowed" and "allow.hosts" in error.value.next


def test_a_host_nobody_listed_is_not_even_looked_up() -> None:
    """A question to the DNS could carry data away."""
    asked: list[str] = []

    def record(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.216.34"]

    judging = Judge(Allow(hosts=("example.com",)), (), "/", resolve_host=record)
    with pytest.raises(PoolsError):
        judging.host("https://data.evil.com")
    assert asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "example.com",
        "http://",
        "http://exam ple.com",
        "http://a\\@b",
        "http://a:b:c",
        "",
    ],
)
def test_what_is_no_http_url_is_invalid(url: str) -> None:
    """Also URLs that two parsers could read differently."""
    with pytest.raises(PoolsError) as error:
        judge(hosts=("*",)).host(url)
    assert error.value.code == "invalid_payload"


def test_a_host_that_does_not_resolve_may_be_tried_again() -> None:
    """A DNS failure is not a refusal."""
    with pytest.raises(PoolsError) as error:
        judge(hosts=("*",)).host("https://nowhere.example")
    assert (error.value.code, error.value.retryable) == ("task_error", True)


def test_the_default_resolver_knows_this_machine() -> None:
    """Without an argument the system's resolver answers."""
    assert Judge(Allow(hosts=("127.0.0.1",)), (), "/").host("http://127.0.0.1") == ("127.0.0.1",)


# --- children ------------------------------------------------------------------------------


def test_children_get_four_variables_and_what_is_named() -> None:
    """Credentials of the owner never reach a child by inheritance."""
    parent = {"PATH": "/bin", "HOME": "/h", "AWS_SECRET_ACCESS_KEY": "s", "APP_MODE": "m", "LD_PRELOAD": "x"}
    assert child_environment(parent) == {"PATH": "/bin", "HOME": "/h"}
    extra = {"MCP_POOLS_DEPTH": "1", "HOME": "/other"}
    expected = {"PATH": "/bin", "HOME": "/other", "APP_MODE": "m", "MCP_POOLS_DEPTH": "1"}
    assert child_environment(parent, ["APP_*"], extra) == expected


def test_the_programs_found_are_those_of_the_childrens_path() -> None:
    """The default looks where children look."""
    assert judge(commands=("sh",)).command(["sh"], "/")[0].endswith("/sh")
    assert shutil.which("sh")
