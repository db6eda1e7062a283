"""What this machine's files and environment name that could be a pool: places, not yet asked.

Nothing is started, contacted or expanded here. Of a client's entry only its name and its
address are taken: arguments, headers and environment may hold secrets. A file that is
missing names nothing; one that cannot be used is skipped and the owner's log says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from mcp_pools.policy import inside

log = logging.getLogger(__name__)

OWN_FILES: Final = (
    ".claude.json",
    ".config/Claude/claude_desktop_config.json",
    ".cursor/mcp.json",
    ".config/Code/User/mcp.json",
    ".codeium/windsurf/mcp_config.json",
    ".gemini/settings.json",
    ".qwen/settings.json",
)
"""Where MCP clients keep the user's servers, below the home directory."""
WORKING_FILES: Final = (".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json")
"""Where they look in a working directory, which may be a stranger's clone."""
RAY_CLUSTER: Final = Path("/tmp/ray/ray_current_cluster")  # noqa: S108 - ours only when we own it
"""Where Ray writes the address of the cluster that it started on this machine."""

STARTED_BY_CLIENT: Final = "its client starts it, and nothing is started from here"
STRANGERS: Final = "not contacted, because somebody else may have written that file"
_OLD_TRANSPORT: Final = "not contacted, because it speaks the older SSE transport"
_PLACEHOLDER: Final = "not contacted, because its address has placeholders that only its client can fill"
_HIDDEN: Final = "not contacted and not shown whole, because its address may hold a secret"
_NO_ADDRESS: Final = "it has no address that can be contacted"

_OWN_BYTES: Final = 8 << 20
_OTHER_BYTES: Final = 1 << 18
_LONGEST_NAME: Final = 100
_LONGEST_ADDRESS: Final = 500
_DASK_FILES: Final = 32

_STRING: Final = r'("(?:[^"\\]|\\.)*"?)'
"""With or without its end: a search that fails would begin anew at each quote."""
_COMMENTS: Final = re.compile(_STRING + r"|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TRAILING_COMMAS: Final = re.compile(_STRING + r"|,(?=\s*[}\]])", re.DOTALL)
_KEYLIKE: Final = re.compile(r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[\w.~+=%-]{20,}")


@dataclass(frozen=True, slots=True)
class Place:
    """Something that could be a pool. `name` and `endpoint` come from outside, as they may be shown.

    `source` says who names it. `hands_off` says why it is not contacted; `None`: it may be. `context` is
    the kubeconfig's, of a cluster that one names.
    """

    name: str
    type: str
    endpoint: str | None
    source: str
    hands_off: str | None = None
    context: str | None = None


def place(type: str, name: str, address: object, source: str, hands_off: str | None = None) -> Place:
    """A place at `address`, shown without what may be a secret."""
    shown, problem = shown_address(address)
    return Place(printable(name, _LONGEST_NAME), type, shown, source, hands_off or problem)


def shown_address(address: object) -> tuple[str | None, str | None]:
    """An address as it may be shown, and why it is not contacted, if it is not.

    User names, passwords, queries and what looks like a key in the path are left out.
    """
    if not isinstance(address, str) or not address or printable(address, _LONGEST_ADDRESS) != address:
        return None, _NO_ADDRESS
    try:
        parts = split_address(address)
    except ValueError:
        return None, _NO_ADDRESS
    if not parts.netloc:
        return None, _NO_ADDRESS
    segments = ["…" if _KEYLIKE.fullmatch(each) else each for each in parts.path.split("/")]
    netloc = parts.netloc.rpartition("@")[2]
    bare = parts._replace(netloc=netloc, path="/".join(segments), query="", fragment="")
    shown = bare.geturl() if parts.scheme else netloc + bare.path
    if "…" in segments or netloc != parts.netloc or parts.query or parts.fragment:
        return shown, _HIDDEN
    return shown, _PLACEHOLDER if "${" in shown else None


def split_address(address: str) -> SplitResult:
    """The parts of an address with or without a scheme; raises `ValueError`."""
    return urlsplit(address if "://" in address else f"//{address}")


def printable(text: str, most: int) -> str:
    """Text from outside in one line of at most `most` characters, each of which can be written."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text[:most])


def merged(places: Iterable[Place]) -> list[Place]:
    """Each place once, in the order of first mention. What one source may contact, may be contacted."""
    found: dict[tuple[str, str, str | None], Place] = {}
    for each in places:
        key = (each.type, each.name, each.endpoint)
        known = found.get(key)
        if known is None:
            found[key] = each
        elif each.source not in known.source:
            hands_off = known.hands_off and each.hands_off and known.hands_off
            found[key] = replace(known, source=f"{known.source}, {each.source}", hands_off=hands_off)
    return list(found.values())


def named_here(environ: Mapping[str, str], cwd: str, ray_cluster: Path = RAY_CLUSTER) -> Iterator[Place]:
    """All that this machine names, for a caller in `cwd`."""
    home = Path(environ.get("HOME") or Path.home())
    yield from _clients(environ, home, cwd)
    yield from _kubernetes(environ, home)
    yield from _dask(environ, home)
    yield from _ray(environ, ray_cluster)


# MCP clients.


def _clients(environ: Mapping[str, str], home: Path, cwd: str) -> Iterator[Place]:
    own = [_below(environ, home, name) for name in OWN_FILES]
    for file in own:
        yield from _servers_of(file, cwd, f"named in {_tilde(file, home)}")
    try:
        here = os.path.realpath(cwd)
    except ValueError:  # callers say where they are, and this is nowhere
        return
    known = {os.path.realpath(file) for file in own}
    for name in WORKING_FILES:
        file = Path(here, name)
        if os.path.realpath(file) in known or not os.path.lexists(file):
            continue
        source = f"named in {name} of the working directory"
        if inside(str(file), [here]):
            yield from _servers_of(file, None, source, most=_OTHER_BYTES, hands_off=STRANGERS)
        else:
            _skipped(file, "it leads out of its directory")


def _servers_of(
    file: Path, project: str | None, source: str, *, most: int = _OWN_BYTES, hands_off: str | None = None
) -> Iterator[Place]:
    text = read_text(file, most)
    if text is None:
        return
    try:
        named = client_servers(text, project)
    except (ValueError, RecursionError):
        _skipped(file, "it is no JSON object")
        return
    yield from (_server(name, entry, source, hands_off) for name, entry in named if not _is_ours(entry))


def client_servers(text: str, project: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """The servers that a client's file names, with those it names for the directory `project`.

    Raises:
        ValueError: it is no JSON object, with or without comments.
        RecursionError: it is nested too deeply.
    """
    data = _json(text)
    if not isinstance(data, dict):
        raise ValueError("no object")
    projects = data.get("projects")
    groups = [data, projects.get(project) if isinstance(projects, dict) and project else None]
    tables = [
        group.get(key) for group in groups if isinstance(group, dict) for key in ("mcpServers", "servers")
    ]
    named = [pair for table in tables if isinstance(table, dict) for pair in table.items()]
    return [(name, entry) for name, entry in named if isinstance(entry, dict)]


def _json(text: str) -> Any:
    """JSON; else what is left without the comments and trailing commas that VS Code allows."""
    try:
        return json.loads(text)
    except ValueError:
        for superfluous in (_COMMENTS, _TRAILING_COMMAS):
            text = superfluous.sub(lambda found: found[1] or "", text)
        return json.loads(text)


def _server(name: str, entry: dict[str, Any], source: str, hands_off: str | None) -> Place:
    address = next((entry[key] for key in ("url", "serverUrl", "httpUrl") if entry.get(key)), None)
    if address is None:
        return Place(printable(name, _LONGEST_NAME), "mcp", None, source, STARTED_BY_CLIENT)
    if entry.get("type") == "sse":
        hands_off = hands_off or _OLD_TRANSPORT
    return place("mcp", name, address, source, hands_off)


def _is_ours(entry: dict[str, Any]) -> bool:
    """Whether it starts mcp-pools itself: `mcp-pools serve`, `python -m mcp_pools serve`."""
    arguments = entry.get("args")
    words = [entry.get("command"), *(arguments if isinstance(arguments, list) else ())]
    names = {os.path.basename(word) for word in words if isinstance(word, str)}
    return "serve" in names and not names.isdisjoint({"mcp-pools", "mcp_pools"})


# Clusters.


def _kubernetes(environ: Mapping[str, str], home: Path) -> Iterator[Place]:
    listed = environ.get("KUBECONFIG")
    files = (
        [Path(each) for each in listed.split(os.pathsep) if each] if listed else [home / ".kube" / "config"]
    )
    clusters: dict[str, object] = {}
    contexts: dict[str, tuple[str, object]] = {}
    for file in files:
        data = _yaml(file)
        for name, cluster in _entries(data, "clusters", "cluster"):
            clusters.setdefault(name, cluster.get("server"))
        for name, context in _entries(data, "contexts", "context"):
            contexts.setdefault(name, (f"a context of {_tilde(file, home)}", context.get("cluster")))
    for name, (source, its_cluster) in contexts.items():
        named = place("kubernetes", name, clusters.get(str(its_cluster)), source)
        yield replace(named, context=name)


def _entries(data: dict[str, Any], key: str, inner: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The named entries of one of a kubeconfig's lists."""
    entries = data.get(key)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry["name"], entry[inner] if isinstance(entry.get(inner), dict) else {}


def _dask(environ: Mapping[str, str], home: Path) -> Iterator[Place]:
    if address := environ.get("DASK_SCHEDULER_ADDRESS"):
        yield place("dask", "dask", address, "$DASK_SCHEDULER_ADDRESS")
    try:
        found = os.listdir(folder := _below(environ, home, ".config/dask"))
    except OSError:
        return
    for name in [each for each in sorted(found) if each.endswith((".yaml", ".yml"))][:_DASK_FILES]:
        data = _yaml(folder / name)
        for key in ("scheduler-address", "scheduler_address"):
            if data.get(key):
                yield place("dask", "dask", data[key], f"named in {_tilde(folder / name, home)}")


def _ray(environ: Mapping[str, str], current: Path) -> Iterator[Place]:
    address = environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto", "local"):
        yield place("ray", "ray", address, "$RAY_ADDRESS")
    if (started := read_text(current, _OTHER_BYTES, ours=True)) and started.strip():
        yield place("ray", "ray", started.strip(), f"named in {current}")


# Files.


def _below(environ: Mapping[str, str], home: Path, name: str) -> Path:
    """A file below the home directory; `.config` may be elsewhere."""
    config = environ.get("XDG_CONFIG_HOME")
    first, _, rest = name.partition("/")
    return Path(config, rest) if config and first == ".config" else home / name


def _tilde(file: Path, home: Path) -> str:
    return f"~/{file.relative_to(home)}" if file.is_relative_to(home) else str(file)


def _yaml(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; an empty one when it holds none."""
    text = read_text(file, _OWN_BYTES)
    if text is None:
        return {}
    import yaml

    try:
        data = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - the safe ones
    except (yaml.YAMLError, RecursionError, ValueError):
        data = None
    if not isinstance(data, dict):
        _skipped(file, "it is no YAML mapping")
        return {}
    return data


def read_text(file: Path, most: int, *, ours: bool = False) -> str | None:
    """The text of a regular file of at most `most` bytes; `None` when there is none that can be used.

    Args:
        ours: whether it must belong to this user, in a directory where anybody may write.
    """
    try:
        # Opening a pipe that nobody writes to would wait for ever.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as opened:
            status = os.fstat(opened.fileno())
            problem = "it is no file" if not stat.S_ISREG(status.st_mode) else None
            problem = "it is somebody else's" if ours and status.st_uid != os.geteuid() else problem
            data = b"" if problem else opened.read(most + 1)
        problem = f"it is larger than {most} bytes" if len(data) > most else problem
        text = data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as failure:
        problem = failure.strerror or type(failure).__name__
    except ValueError:
        problem = "it is no UTF-8 text"
    if problem:
        _skipped(file, problem)
        return None
    return text


def _skipped(file: Path, why: str) -> None:
    log.warning("discover: %r is skipped: %s", str(file), why)
