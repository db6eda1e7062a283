"""What files and environment name is listed, whoever wrote them; nothing of them is obeyed."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.ecosystem import (
    OWN_FILES,
    STARTED_BY_CLIENT,
    STRANGERS,
    WORKING_FILES,
    Place,
    client_servers,
    merged,
    named_here,
    place,
    read_text,
    shown_address,
)

URL = "http://127.0.0.1:1/mcp"


def written(file: Path, content: Any) -> Path:
    """A file with this text, or with this JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def look(user: Path, cwd: Path | None = None, **environ: str) -> list[Place]:
    """What is named for a caller in `cwd`."""
    given = {"HOME": str(user), **environ}
    return list(named_here(given, str(cwd or "/"), ray_cluster=user / "ray" / "ray_current_cluster"))


@pytest.fixture
def clone(home: Path) -> Path:
    """A working directory that a stranger may have filled."""
    (home / "clone").mkdir()
    return home / "clone"


# MCP clients.


@pytest.mark.parametrize("name", OWN_FILES)
@pytest.mark.parametrize("key", ["mcpServers", "servers"])
def test_each_clients_file_is_read(user: Path, name: str, key: str) -> None:
    """A server at a URL may be contacted; the note says which file names it."""
    written(user / name, {key: {"a": {"url": URL}}})
    assert look(user) == [Place("a", "mcp", URL, f"named in ~/{name}")]


@pytest.mark.parametrize("key", ["url", "serverUrl", "httpUrl"])
def test_each_clients_word_for_a_url_is_known(user: Path, key: str) -> None:
    """Windsurf and Gemini have their own."""
    written(user / ".cursor/mcp.json", {"mcpServers": {"a": {key: URL}}})
    assert [each.endpoint for each in look(user)] == [URL]


def test_a_server_that_a_client_starts_has_no_endpoint(user: Path) -> None:
    """Its name is all that is taken: the rest may hold secrets."""
    hidden = {
        "command": "C",
        "args": ["--key", "K"],
        "env": {"TOKEN": "T"},
        "headers": {"authorization": "H"},
    }
    written(user / ".claude.json", {"mcpServers": {"a": hidden}})
    assert look(user) == [Place("a", "mcp", None, "named in ~/.claude.json", STARTED_BY_CLIENT)]


def test_a_project_has_its_own_servers(user: Path, clone: Path) -> None:
    """Those of the caller's directory, and of no other; the user added them, so they may be contacted."""
    projects = {
        str(clone): {"mcpServers": {"mine": {"url": URL}}},
        "/other": {"mcpServers": {"b": {"url": URL}}},
    }
    written(user / ".claude.json", {"projects": projects})
    assert [(each.name, each.hands_off) for each in look(user, clone)] == [("mine", None)]
    assert look(user, user) == []


def test_the_configuration_directory_may_be_elsewhere(user: Path, home: Path) -> None:
    """`$XDG_CONFIG_HOME` stands for `~/.config`."""
    file = written(home / "xdg/Code/User/mcp.json", {"servers": {"a": {"url": URL}}})
    [found] = look(user, XDG_CONFIG_HOME=str(home / "xdg"))
    assert found.source == f"named in {file}"


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "mcp-pools", "args": ["serve"]},
        {"command": "/opt/venv/bin/mcp-pools", "args": ["serve", "--read-only"]},
        {"command": "uvx", "args": ["--from", "x", "mcp-pools", "serve"]},
        {"command": "python3", "args": ["-m", "mcp_pools", "serve"]},
    ],
)
def test_we_do_not_find_ourselves(user: Path, entry: dict[str, Any]) -> None:
    """However a client starts us."""
    written(user / ".claude.json", {"mcpServers": {"pools": entry, "other": {"command": "serve"}}})
    assert [each.name for each in look(user)] == ["other"]


def test_comments_and_trailing_commas_are_allowed(user: Path) -> None:
    """As VS Code writes them; what looks like a comment inside a string is none."""
    text = """
    // servers
    {"servers": { /* one, */ "a": {"url": "http://h/x", "b": "//,}\\"/*"}, // last
    },}
    """
    written(user / ".config/Code/User/mcp.json", text)
    assert [each.endpoint for each in look(user)] == ["http://h/x"]


def test_the_older_transport_is_not_spoken_to(user: Path) -> None:
    """It is listed, with the reason."""
    written(user / ".claude.json", {"mcpServers": {"a": {"type": "sse", "url": URL}}})
    assert "SSE" in (look(user)[0].hands_off or "")


# A working directory.


@pytest.mark.parametrize("name", WORKING_FILES)
def test_a_working_directorys_servers_are_not_contacted(user: Path, clone: Path, name: str) -> None:
    """Somebody else may have written the file."""
    written(clone / name, {"mcpServers": {"a": {"url": URL}}})
    source = f"named in {name} of the working directory"
    assert look(user, clone) == [Place("a", "mcp", URL, source, STRANGERS)]


def test_the_home_directory_is_no_strangers(user: Path) -> None:
    """For a caller there, the user's own file is not read a second time as a stranger's."""
    written(user / ".cursor/mcp.json", {"mcpServers": {"a": {"url": URL}}})
    assert [each.hands_off for each in look(user, user)] == [None]


@pytest.mark.parametrize("link", [".mcp.json", ".cursor"])
def test_a_working_directorys_file_must_lie_in_it(
    user: Path, clone: Path, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A link could make any JSON file of the user's one that a stranger chose."""
    written(clone.parent / "outside/mcp.json", {"mcpServers": {"a": {"url": URL}}})
    target = clone.parent / "outside"
    (clone / link).symlink_to(target if link == ".cursor" else target / "mcp.json")
    assert look(user, clone) == []
    assert "leads out of its directory" in caplog.text


# Hostile files.

HOSTILE = {
    "empty": b"",
    "binary": b"\xff\xfe\x00",
    "a list": b"[]",
    "null": b"null",
    "cut off": b'{"mcpServers": {"a": {"url": "x"}',
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "quotes": b'"' + b'\\"' * 1_000_000,
    "comments": b"/* " * 1_000_000,
    "a long number": b'{"a": ' + b"1" * 200_000 + b"}",
    "too large": b" " * (9 << 20),
}


def test_a_file_that_is_not_there_is_not_worth_a_word(user: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is one below something that is no directory."""
    (user / ".cursor").write_text("")
    assert look(user) == [] and not caplog.text


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_no_clients_is_skipped_and_said(
    user: Path, clone: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are read all the same. The long ones would take hours if reading them was quadratic."""
    (user / ".claude.json").write_bytes(content)
    (clone / ".mcp.json").write_bytes(content)
    written(user / ".cursor/mcp.json", {"mcpServers": {"good": {"url": URL}}})
    assert [each.name for each in look(user, clone)] == ["good"]
    assert caplog.text.count("is skipped") == 2


@pytest.mark.parametrize(
    "content",
    [
        {"mcpServers": []},
        {"mcpServers": {"a": 1, "b": None, "c": ["url"]}},
        {"mcpServers": None, "servers": "a", "projects": []},
        {"projects": {"/": [], "/x": None}},
    ],
)
def test_a_file_of_another_shape_names_nothing(user: Path, content: Any) -> None:
    """Shapes that clients do not write do no harm."""
    written(user / ".claude.json", content)
    assert look(user) == []


@pytest.mark.parametrize(
    "address", [1, ["http://h"], {"a": 1}, "http://[", "tcp://", "a\nb", "http://h/\ud800", "x" * 501]
)
def test_an_address_of_another_shape_is_no_address(user: Path, address: Any) -> None:
    """The server is listed, without it."""
    written(user / ".claude.json", {"mcpServers": {"a": {"url": address}}})
    [found] = look(user)
    assert found.endpoint is None and found.hands_off


def test_names_can_be_written_and_are_cut(user: Path) -> None:
    """A lone surrogate, a control sequence, a whole essay."""
    written(user / ".claude.json", {"mcpServers": {"a\ud800\x1b[2J\n" + "b" * 999: {"command": "x"}}})
    [found] = look(user)
    assert found.name.encode() and found.name.isprintable() and len(found.name) == 100


@pytest.mark.parametrize("kind", ["pipe", "loop", "directory"])
def test_what_is_no_file_is_skipped(user: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """No reader waits for a pipe, follows links in a circle, or raises."""
    file = user / ".claude.json"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    else:
        file.mkdir()
    assert look(user) == [] and "is skipped" in caplog.text


def test_a_directory_that_is_no_path_is_nowhere(user: Path) -> None:
    """Callers say where they are; a NUL is nowhere."""
    written(user / ".claude.json", {"mcpServers": {"a": {"url": URL}}})
    assert len(look(user, Path("/no/such/dir"))) == 1
    assert len(list(named_here({"HOME": str(user)}, "/a\0b", user / "none"))) == 1


@given(st.text())
def test_any_text_is_a_clients_file_or_a_value_error(text: str) -> None:
    """Nothing else is raised."""
    with suppress(ValueError):
        client_servers(text)


@given(st.dictionaries(st.text(), st.dictionaries(st.text(), st.text())))
def test_comments_change_nothing(servers: dict[str, dict[str, str]]) -> None:
    """Whatever the strings hold, a file with comments says the same as one without."""
    plain = json.dumps({"servers": servers})
    assert client_servers("/* a, */" + plain[:-1] + ",} // }") == client_servers(plain)


# Addresses.


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:word@h.example/mcp", "https://h.example/mcp"),
        ("https://h.example/mcp?api_key=word", "https://h.example/mcp"),
        ("https://h.example/mcp#word", "https://h.example/mcp"),
        ("https://h.example/s/sk1word0aaaaaaaaaaaaaaaaaa/mcp", "https://h.example/s/…/mcp"),
        ("word@h:6379", "h:6379"),
    ],
)
def test_what_may_be_a_secret_is_neither_shown_nor_used(address: str, shown: str) -> None:
    """And so the place cannot be contacted: a part of its address is missing."""
    found, reason = shown_address(address)
    assert found == shown and "secret" in (reason or "")


@pytest.mark.parametrize(
    "address",
    ["http://h/mcp", "https://h:8443/a/b-c", "tcp://h:8786", "h:6379", "ray://h", "http://[::1]:80/"],
)
def test_an_ordinary_address_stays_as_it_is(address: str) -> None:
    """Schemes are for the clusters' own tools to choose."""
    assert shown_address(address) == (address, None)


def test_placeholders_are_not_filled() -> None:
    """The client would ask its user, or look into its environment."""
    assert "placeholders" in (shown_address("https://${env:HOST}/mcp")[1] or "")


# Clusters.


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://10.0.0.1:6443", certificate-authority-data: WORD}}
contexts:
- {name: prod, context: {cluster: one, user: admin, namespace: x}}
- {name: lost, context: {cluster: gone}}
users:
- {name: admin, user: {token: WORD, exec: {command: touch, args: [trace]}}}
"""


def test_kubernetes_contexts_are_listed(user: Path) -> None:
    """By the name of the context, with its cluster's server; users are not looked at."""
    written(user / ".kube/config", KUBECONFIG)
    source = "a context of ~/.kube/config"
    assert look(user) == [
        Place("prod", "kubernetes", "https://10.0.0.1:6443", source, context="prod"),
        Place("lost", "kubernetes", None, source, "it has no address that can be contacted", "lost"),
    ]


def test_kubeconfig_may_name_several_files(user: Path) -> None:
    """What the first says stands; a context may use a cluster of another file."""
    other = (
        "clusters: [{name: gone, cluster: {server: https://b}}, {name: one, cluster: {server: https://c}}]"
    )
    files = [written(user / "a", KUBECONFIG), written(user / "b", other), user / "none"]
    written(user / ".kube/config", "contexts: [{name: unseen}]")
    found = look(user, KUBECONFIG=":".join(map(str, files)))
    assert [(each.name, each.endpoint) for each in found] == [
        ("prod", "https://10.0.0.1:6443"),
        ("lost", "https://b"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "a: b: c",
        "- 1",
        "clusters: 1",
        "contexts: [1, {name: 2}, {context: x}]",
        "!!python/name:os.abort",
    ],
)
def test_a_file_that_is_no_kubeconfig_names_nothing(user: Path, content: str) -> None:
    """Nor does it run anything."""
    written(user / ".kube/config", content)
    assert look(user) == []


def test_dask_schedulers_are_found(user: Path) -> None:
    """In the environment and in Dask's own configuration."""
    written(user / ".config/dask/a.yaml", "scheduler-address: tcp://a:8786")
    written(user / ".config/dask/b.yml", "scheduler_address: tcp://b:8786")
    written(user / ".config/dask/c.txt", "scheduler-address: tcp://c:8786")
    found = look(user, DASK_SCHEDULER_ADDRESS="tcp://e:8786")
    assert [each.endpoint for each in found] == ["tcp://e:8786", "tcp://a:8786", "tcp://b:8786"]
    assert {each.type for each in found} == {"dask"}
    assert found[1].source == "named in ~/.config/dask/a.yaml"


def test_ray_clusters_are_found(user: Path) -> None:
    """In the environment, and where Ray says what it started; `auto` names nothing."""
    file = written(user / "ray/ray_current_cluster", "127.0.0.1:6379\n")
    assert look(user, RAY_ADDRESS="ray://h:10001") == [
        Place("ray", "ray", "ray://h:10001", "$RAY_ADDRESS"),
        Place("ray", "ray", "127.0.0.1:6379", f"named in {file}"),
    ]
    assert len(look(user, RAY_ADDRESS="auto")) == 1


def test_in_a_directory_for_all_only_our_own_files_count(
    user: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody may write where Ray leaves its address."""
    if os.geteuid() == 0:
        os.chown(written(user / "ray/ray_current_cluster", "h:1"), 12345, -1)
        assert look(user) == []
    else:
        assert read_text(Path("/etc/passwd"), 1 << 20, ours=True) is None
    assert "somebody else's" in caplog.text


# Together.


def test_a_place_that_two_files_name_is_one() -> None:
    """The sources add up; what the user's own file names may be contacted."""
    found = merged(
        [
            place("mcp", "a", URL, "one", STRANGERS),
            place("mcp", "a", URL, "two"),
            place("mcp", "a", URL, "two"),
            place("mcp", "b", URL, "three", STRANGERS),
            place("mcp", "b", URL, "four", STRANGERS),
        ]
    )
    assert found == [Place("a", "mcp", URL, "one, two"), Place("b", "mcp", URL, "three, four", STRANGERS)]


def test_the_log_holds_no_text_of_a_file(user: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It names the file and says what is wrong."""
    caplog.set_level(logging.DEBUG)
    written(user / ".claude.json", "{ignore: previous}")
    written(user / ".kube/config", "[ignore: previous")
    look(user)
    assert caplog.text.count("is skipped") == 2 and "previous" not in caplog.text
