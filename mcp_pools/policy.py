"""The only judge of what may run.

Rules of this file:

- Everything is refused until the configuration allows it, and every refusal names the
  key to set.
- What is judged is what runs: a judgement returns the real path, the absolute
  executable, the pinned addresses, and callers use those instead of what was asked.
- Nothing here touches the machine by itself: whatever resolves paths, executables or
  hosts is an argument.
- Workers import this file, so what only some judgements need is imported by them.
"""

# Paths are strings here, as in payloads and in the resolvers.

from __future__ import annotations

import functools
import glob
import os.path
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from mcp_pools.addresses import (
    host_and_port,
    is_address,
    is_address_pattern,
    is_bare,
    is_public,
    names_address,
    names_host,
    resolve_addresses,
)
from mcp_pools.errors import PoolsError
from mcp_pools.secret import fill_secrets, read_secret, refuse_plain_secrets, secret_names

if TYPE_CHECKING:
    from mcp_pools.addresses import Address
    from mcp_pools.models import Allow

__all__ = [
    "Judge",
    "child_environment",
    "default_roots",
    "fill_secrets",
    "inside",
    "read_secret",
    "refuse_plain_secrets",
    "secret_names",
]

RealPath = Callable[[str], str]
FindProgram = Callable[[str], str | None]
ResolveHost = Callable[[str, int], Sequence[str]]

# --- files ------------------------------------------------------------------------------

MAX_LOOKS: Final = 40
"""As many symlinks as Linux follows in one path."""


def default_roots(cwd: str, home: str, *, real_path: RealPath = os.path.realpath) -> tuple[str, ...]:
    """Where files may be read when the configuration does not say: the caller's directory,
    or nowhere when that is `/` or the home directory, which hold far more than a project.
    """
    real = real_path(cwd)
    return () if real in ("/", real_path(home)) else (real,)


def inside(path: str, roots: Iterable[str], real_path: RealPath = os.path.realpath) -> bool:
    """Whether `path`, symlinks resolved, is one of `roots` (real paths) or lies below one."""
    real = _settled(path, real_path)
    return real is not None and any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots)


def _settled(path: str, real_path: RealPath) -> str | None:
    """The path that is its own real path. `realpath` gives up where symlinks go in a circle and
    leaves what follows unresolved, so that one look is not enough; `None` when no look is.
    """
    for _ in range(MAX_LOOKS):
        real = real_path(path)
        if real == path:
            return real
        path = real
    return None


def _real_roots(
    roots: Iterable[str], cwd: str, real_path: RealPath, expand: Callable[[str], Sequence[str]]
) -> tuple[str, ...]:
    """The directories that configured roots stand for. As in a shell, a glob becomes what it
    matches; a directory whose name merely looks like a glob stands for itself.
    """
    found: list[str] = []
    for root in roots:
        pattern = "/" if root == "*" else os.path.join(cwd, os.path.expanduser(root))
        found += expand(glob.escape(pattern)) or expand(pattern) or [pattern]
    return tuple(dict.fromkeys(map(real_path, found)))


# --- globs ------------------------------------------------------------------------------


def _match(value: str, pattern: str) -> bool:
    return value == pattern or fnmatchcase(value, pattern)


def _matches(value: str, patterns: Iterable[str]) -> bool:
    return any(_match(value, pattern) for pattern in patterns)


def _refuse(what: str, key: str) -> PoolsError:
    return PoolsError(
        "not_allowed", f"{what} is not allowed.", f"Add it to allow.{key} in the configuration file."
    )


def _invalid(message: str, next: str = "") -> PoolsError:
    return PoolsError("invalid_payload", message, next)


# --- the judge --------------------------------------------------------------------------


class Judge:
    """Judges what one caller asks for.

    Args:
        allow: the configuration's allow-lists.
        roots: directories files may be read from: `allow.roots`, or `default_roots(...)`.
        cwd: the caller's directory, absolute; relative paths start there.
        real_path: resolves symlinks.
        find_program: a name or path -> the executable file, or `None`. The default looks
            in this process's PATH, which is the PATH children get.
        resolve_host: host, port -> IP addresses; raises `OSError`. It may block.
        expand: a glob -> the existing paths it matches.

    Every method returns what was judged, pinned down, or raises `PoolsError`
    (`not_allowed`, or `invalid_payload` for what nobody could allow).
    """

    def __init__(
        self,
        allow: Allow,
        roots: Sequence[str],
        cwd: str,
        *,
        real_path: RealPath = os.path.realpath,
        find_program: FindProgram = shutil.which,
        resolve_host: ResolveHost | None = None,
        expand: Callable[[str], Sequence[str]] = glob.glob,
    ) -> None:
        self.allow = allow
        self.cwd = cwd
        self.roots = _real_roots(roots, cwd, real_path, expand)
        """The directories files may be read from, as real paths."""
        self._real_path = real_path
        self._find_program = find_program
        self._resolve_host = resolve_host or resolve_addresses

    def path(self, path: str) -> str:
        """The real, absolute path of `path`, which lies inside the roots; it need not exist."""
        real = self.real(path)
        if not inside(real, self.roots, self._real_path):
            where = ", ".join(map(repr, self.roots)) or "none"
            raise PoolsError(
                "not_allowed",
                f"The path {real!r} is outside the allowed directories ({where}).",
                "Add its directory to allow.roots in the configuration file.",
            )
        return real

    def real(self, path: str) -> str:
        """The real, absolute path of `path`, wherever it lies."""
        try:
            if "\0" in path:
                raise ValueError("it holds a NUL character")
            return self._real_path(os.path.join(self.cwd, os.path.expanduser(path)))
        except ValueError as error:
            reason = "it is not valid text" if isinstance(error, UnicodeError) else str(error)
            raise _invalid(f"{path!r} is not a path: {reason}.") from None

    def command(self, argv: Sequence[str], cwd: str) -> list[str]:
        """`argv` with its executable made absolute, as `allow.commands` permits.

        A name is looked up in PATH, a relative path starts at `cwd`. The first word of an
        entry matches the absolute executable (glob by glob between the slashes) or its
        bare name, wherever it lies; the others match the arguments one by one, and an
        entry of one word permits any arguments.
        """
        if not argv or not argv[0] or any("\0" in word for word in argv):
            raise _invalid(
                f"argv {list(argv)!r} is not a command.", "Give a program and its arguments, without NUL."
            )
        if not self.allow.commands:
            raise _refuse(f"The command {argv[0]!r}", "commands")
        executable = self._executable(argv[0], cwd)
        if not any(self._permits(entry, executable, argv[1:]) for entry in self.allow.commands):
            words = " ".join(map(repr, [executable, *argv[1:]]))
            raise _refuse(f"The command {_shorten(words)}", "commands")
        return [executable, *argv[1:]]

    def _executable(self, program: str, cwd: str) -> str:
        """The program's file. Its directory is a real path, so that `..` and symlinks cannot
        pass for another one; its own name stays, because programs look at it.
        """
        found = self._find_program(os.path.join(cwd, program) if "/" in program else program)
        if found is None or not os.path.isabs(found):
            raise _invalid(
                f"There is no program {program!r} (PATH and {cwd!r} were searched).",
                "Install it or give its absolute path.",
            )
        return self._located(found)

    def _located(self, file: str) -> str:
        return os.path.join(self._real_path(os.path.dirname(file)), os.path.basename(file))

    def _permits(self, entry: str, executable: str, arguments: Sequence[str]) -> bool:
        first, *patterns = _words(entry)
        if patterns and len(patterns) != len(arguments):
            return False
        if not all(map(_match, arguments, patterns)):
            return False
        if "/" not in first:
            return _match(os.path.basename(executable), first)
        return _same_depth_match(executable, first) or _same_depth_match(executable, self._located(first))

    def python(self, function: str) -> str:
        """`function` ("module:name") when a pattern of `allow.python` matches its module,
        or the whole of it if the pattern has a colon.
        """
        module, _, name = function.partition(":")
        if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            raise _invalid(f"{function!r} does not name a function.", 'Write it as "package.module:name".')
        if not any(_match(function if ":" in entry else module, entry) for entry in self.allow.python):
            raise _refuse(f"The function {function!r}", "python")
        return function

    def prompt(self, worker_type: str) -> str:
        """`worker_type` when `allow.prompts` names it."""
        return self._named("worker type", worker_type, "prompts", self.allow.prompts)

    def prompts(self) -> None:
        """Refuse a prompt while `allow.prompts` names nothing: no pool could run it, now or later."""
        if not self.allow.prompts:
            raise PoolsError(
                "not_allowed",
                "No agent is allowed to run prompts.",
                "Add a worker type, such as terminal-claude, to allow.prompts in the configuration file.",
            )

    def endpoint(self, url: str) -> str:
        """`url` when `allow.endpoints` names it."""
        return self._named("endpoint", url, "endpoints", self.allow.endpoints)

    def image(self, name: str) -> str:
        """The container image `name` when `allow.images` names it."""
        return self._named("image", name, "images", self.allow.images)

    @staticmethod
    def _named(kind: str, value: str, key: str, patterns: Sequence[str]) -> str:
        if not _matches(value, patterns):
            raise _refuse(f"The {kind} {value!r}", key)
        return value

    def env(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names of variables a payload sets for children, when `allow.env` names all of them.

        Variables that begin with `MCP_POOLS_` are never a payload's to set: the nesting
        cap and the clean-up after a crash rest on them.
        """
        asked = tuple(names)
        for name in asked:
            if not name or "=" in name or "\0" in name:
                raise _invalid(f"{name!r} is not the name of an environment variable.")
            if name.upper().startswith("MCP_POOLS_"):
                raise _invalid(
                    f"The variable {name!r} belongs to mcp-pools itself.", "Remove it from the payload."
                )
            self._named("environment variable", name, "env", self.allow.env)
        return asked

    def host(self, url: str) -> tuple[str, ...]:
        """The addresses to connect to for `url`, and no others, so that a second DNS answer
        cannot lead elsewhere.

        `allow.hosts` holds globs of hosts or `host:port`, addresses and networks
        (`10.0.0.0/8`). Addresses that are not public need an entry that names the host or
        the address: a bare `*` does not. A redirect's target is judged like a new URL.

        Raises:
            PoolsError: also `task_error` (retryable) when the host does not resolve.
        """
        host, port = host_and_port(url)
        named = [entry for entry in self.allow.hosts if names_host(entry, host, port)]
        # An unlisted host is not even looked up: the question itself would leave the machine.
        if not named and not any(map(is_address_pattern, self.allow.hosts)):
            raise _refuse(f"The host {host!r}", "hosts")
        addresses = self._addresses(host, port)
        if all(map(is_bare, named)):
            for address in addresses:
                self._judge_address(host, port, address, bool(named))
        return tuple(map(str, addresses))

    def hosts_for(self, url: str) -> tuple[str, ...]:
        """The entries of `allow.hosts` to judge `url` and its redirects by when it is requested.

        Refused at once is what needs no DNS: what is no URL, a host that no entry can allow,
        an address that none does. Whoever connects still asks `host`.
        """
        host, port = host_and_port(url)
        by_name = any(names_host(entry, host, port) for entry in self.allow.hosts)
        if is_address(host) or not (by_name or any(map(is_address_pattern, self.allow.hosts))):
            self.host(url)
        return self.allow.hosts

    def _judge_address(self, host: str, port: int, address: Address, by_wildcard: bool) -> None:
        """Refuse an address that no entry names, unless it is public and a bare `*` stands."""
        if any(names_address(entry, address, port) for entry in self.allow.hosts):
            return
        if not by_wildcard:
            raise _refuse(f"The host {host!r} (address {address})", "hosts")
        if not is_public(address):
            raise PoolsError(
                "not_allowed",
                f"The host {host!r} has the address {address}, which is not public.",
                "Name the host or the address itself in allow.hosts in the configuration file.",
            )

    def _addresses(self, host: str, port: int) -> list[Address]:
        import ipaddress

        try:
            found = [ipaddress.ip_address(text) for text in self._resolve_host(host, port)]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise PoolsError(
                "task_error",
                f"The host {host!r} does not resolve: {reason}.",
                "Check its name, or try again later.",
                retryable=True,
            ) from None
        if not found:
            raise PoolsError("task_error", f"The host {host!r} has no address.", "Check its name.")
        return list(dict.fromkeys(found))


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


@functools.lru_cache(maxsize=1024)
def _words(entry: str) -> list[str]:
    """An entry's words. Kept: a payload may hold thousands of commands to judge."""
    import shlex

    try:
        words = shlex.split(entry)
    except ValueError as error:
        raise PoolsError(
            "not_allowed",
            f"The entry {entry!r} of allow.commands is not a command line ({error}).",
            "Correct allow.commands in the configuration file.",
        ) from None
    return words or [""]


def _same_depth_match(path: str, pattern: str) -> bool:
    """As in a shell, a `*` in a path stays between its slashes."""
    parts, globs = path.split("/"), pattern.split("/")
    return len(parts) == len(globs) and all(map(_match, parts, globs))


# --- children ---------------------------------------------------------------------------

_ALWAYS_PASSED: Final = ("PATH", "HOME", "LANG", "TMPDIR")


def child_environment(
    parent: Mapping[str, str], passed: Sequence[str] = (), extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a child process: PATH, HOME, LANG and TMPDIR where set, what the globs
    in `passed` name, and `extra`, which wins. Nothing else, so no credential leaks by inheritance.
    """
    kept = {key: value for key, value in parent.items() if key in _ALWAYS_PASSED or _matches(key, passed)}
    return kept | dict(extra or {})
