"""A home: the directory that holds all state, and the way to the process that owns it.

One process owns a home: it holds the lock, which the kernel drops when that process
dies, so a lock, a socket or an `owner.json` that was left behind never needs cleaning.
`connect` finds the owner, or starts one.

Standard library only, and nothing slow to import: every bridge pays for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcp_pools import __version__
from mcp_pools.doors.hello import LEAVING, Flags, Hello, greet, peer_uid
from mcp_pools.errors import PoolsError

if TYPE_CHECKING:
    from mcp_pools.doors.detached import Starting

__all__ = ["Flags", "Hello", "Home", "NoOwner", "connect", "start_owner"]

_SOCKET_PATH_BYTES: Final = 108
"""What the kernel holds of a socket's path, its closing NUL included."""
_PROBE_PATIENCE: Final = 0.2
"""Seconds. Who looks whether the lock is free holds it for microseconds."""
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.05

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LEAVE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class NoOwner(PoolsError):
    """Nobody owns the home, and nobody was to be started."""

    def __init__(self, home: Home) -> None:
        super().__init__(
            "pool_unreachable",
            f"Nobody owns {home.path}.",
            "Run `mcp-pools serve` or any command that starts an owner.",
        )


class Home:
    """The state directory. Paths are absolute and real; nothing is created before `create`.

    `owner_command` is how an owner is started; `--home` and `--config` are added to it.
    """

    owner_command: tuple[str, ...] = (sys.executable, "-P", "-m", "mcp_pools.owner")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.realpath(Path(path).expanduser()))
        self.store = self.path / "pools.db"
        self.lock = self.path / "owner.lock"
        self.owner_file = self.path / "owner.json"
        self.log = self.path / "owner.log"
        self.run_dir = self.path / "run"
        self.socket = _socket_path(self.path)

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @classmethod
    def default(cls, config: str | None = None) -> Home:
        """The home the environment names, else the configuration; else the user's own state directory's.

        Args:
            config: what `--config` named.
        """
        named = os.environ.get("MCP_POOLS_HOME") or os.environ.get("MAHAVISHNU_HOME")
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return cls(named or _configured(config) or Path(state) / "mcp-pools")

    def create(self) -> None:
        """Make the directory, for its user alone, if it is not there.

        Raises:
            PoolsError: `conflict`: it cannot be made or written, or is somebody else's.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_directory()
        except OSError as failure:
            raise self.refused(failure) from failure

    def acquire_lock(self, patience: float = _PROBE_PATIENCE) -> int | None:
        """Own the home: the lock's descriptor, to be kept open, or `None` when somebody else does.

        Args:
            patience: seconds to try for; a client that probes the lock holds it for a moment.

        Raises:
            PoolsError: `conflict`: the lock file cannot be written.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as failure:
                raise self.refused(failure) from failure
            if _locked_now(descriptor, fcntl.LOCK_EX) and _still_there(descriptor, self.lock):
                return descriptor
            os.close(descriptor)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.005)

    def locked(self) -> bool:
        """Whether somebody owns the home. Creates nothing."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _locked_now(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def write_owner(self, config: str | None) -> None:
        """Say in `owner.json` that this process owns the home.

        Raises:
            PoolsError: `conflict`: the file cannot be written.
        """
        import json

        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        facts = {"pid": os.getpid(), "version": __version__, "started_at": started}
        written = self.owner_file.with_suffix(".new")
        try:
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(facts | {"socket": str(self.socket), "config": config}, file)
            written.replace(self.owner_file)
        except OSError as failure:
            raise self.refused(failure) from failure

    def read_owner(self) -> dict[str, Any] | None:
        """What `owner.json` says: `pid`, `version`, `started_at`, `socket`, `config`. It may be stale."""
        import json

        try:
            said = json.loads(self.owner_file.read_bytes())
        except (OSError, ValueError):
            return None
        return said if isinstance(said, dict) else None

    def forget_owner(self) -> None:
        """Remove `owner.json` and the socket. Only for who holds the lock."""
        self.owner_file.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)

    def prepare_socket_directory(self) -> None:
        """Make the socket's directory, and check that only its user can enter it.

        Raises:
            PoolsError: `conflict`: it is somebody else's, or open to others.
        """
        try:
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
            require_private(self.socket.parent)
        except OSError as failure:
            raise self.refused(failure) from failure

    def refused(self, failure: OSError) -> PoolsError:
        """The error that names the home, what is wrong with it, and the way out."""
        elsewhere = "or set MCP_POOLS_HOME to another directory."
        if failure.errno in _NO_ROOM:
            return PoolsError(
                "conflict", f"The disk that holds {self.path} is full.", f"Free some space, {elsewhere}"
            )
        if failure.errno in _NO_LEAVE:
            why = "is read-only" if failure.errno == errno.EROFS else "may not be written by this user"
            return PoolsError("conflict", f"The home {self.path} {why}.", f"Make it writable, {elsewhere}")
        if failure.errno in (errno.ENOTDIR, errno.EEXIST):
            return PoolsError(
                "conflict", f"The home {self.path} is not a directory.", f"Remove the file, {elsewhere}"
            )
        return PoolsError(
            "conflict", f"The home {self.path} cannot be used: {failure.strerror}.", f"Mend it, {elsewhere}"
        )

    def _check_directory(self) -> None:
        found = self.path.stat()
        if found.st_uid != os.geteuid():
            raise PoolsError(
                "conflict",
                f"The home {self.path} belongs to user {found.st_uid}, not to {os.geteuid()}.",
                "Set MCP_POOLS_HOME to a directory of your own.",
            )
        if found.st_mode & 0o077:
            self._close_to_others(stat.S_IMODE(found.st_mode))
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")

    def _close_to_others(self, mode: int) -> None:
        # A directory that was there before us may be anything, `/tmp` included.
        if any(self.path.iterdir()) and not (self.lock.exists() or self.store.exists()):
            raise PoolsError(
                "conflict",
                f"The home {self.path} holds other files and is open to other users (mode {mode:04o}).",
                f"Run `chmod 700 {self.path}` if it is meant, or set MCP_POOLS_HOME to another directory.",
            )
        self.path.chmod(0o700)


def connect(home: Home, hello: Hello, start: bool = True, timeout: float = 15.0) -> socket.socket:
    """A blocking socket to the home's owner, hello said and accepted.

    Args:
        start: whether to start an owner when there is none.
        timeout: seconds until an owner must have answered.

    Raises:
        NoOwner: there is none, and `start` is false.
        PoolsError: the owner refused (`conflict`), could not be started (what it said
            last is the message), or does not answer (`pool_unreachable`).
    """
    if start:
        home.create()
    deadline = time.monotonic() + timeout
    starting: Starting | None = None
    pause = _FIRST_PAUSE
    while (door := _knock(home, hello, deadline)) is None:
        if starting is not None and starting.ended():
            starting.require_no_failure()
            starting = None
        if starting is None and not home.locked():
            if not start:
                raise NoOwner(home)
            starting = start_owner(home, hello.config)
        if time.monotonic() + pause > deadline:
            raise _silent(home)
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    return door


def start_owner(home: Home, config: str | None) -> Starting:
    """Start a detached owner, and return at once; `connect` does this by itself.

    Raises:
        PoolsError: `conflict`: the home cannot be made or written.
    """
    from mcp_pools.doors.detached import start

    home.create()
    named = ["--config", config] if config else []
    try:
        return start([*home.owner_command, "--home", str(home.path), *named], home.log)
    except OSError as failure:
        raise home.refused(failure) from failure


def require_private(directory: Path) -> None:
    """Check that `directory` is this user's and closed to all others.

    Raises:
        PoolsError: `conflict`: it is not.
        OSError: it is not there.
    """
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PoolsError(
            "conflict",
            f"{directory} must be a directory of user {os.geteuid()} with mode 0700; "
            f"it belongs to {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}.",
            "Remove it, or set MCP_POOLS_HOME to a shorter path.",
        )


def _knock(home: Home, hello: Hello, deadline: float) -> socket.socket | None:
    """One try: an accepted connection, or `None` when nobody answers or the owner leaves."""
    said = (home.read_owner() or {}).get("socket")
    path = Path(said) if isinstance(said, str) else home.socket
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        door.connect(str(path))
        if _accepted(door, hello, path):
            door.settimeout(None)
            return door
    except (FileNotFoundError, ConnectionError, BlockingIOError):
        pass
    except TimeoutError:
        door.close()
        raise _silent(home) from None
    except OSError as failure:
        door.close()
        raise home.refused(failure) from failure
    except BaseException:
        door.close()
        raise
    door.close()
    return None


def _accepted(door: socket.socket, hello: Hello, path: Path) -> bool:
    require_private(path.parent)
    uid = peer_uid(door)
    if uid != os.geteuid():
        raise PoolsError(
            "conflict", f"{path} is answered by user {uid}, not by {os.geteuid()}.", "Remove the socket."
        )
    try:
        reply = greet(door, hello)
    except ValueError as other:
        raise PoolsError(
            "conflict",
            f"What answers at {path} is no owner: {other}.",
            "End that process, or use another home.",
        ) from other
    if reply is None or reply.code == LEAVING:
        return False
    if not reply.ok:
        raise reply.refusal()
    return True


def _silent(home: Home) -> PoolsError:
    pid = (home.read_owner() or {}).get("pid", "unknown")
    return PoolsError(
        "pool_unreachable",
        f"The owner of {home.path} (process {pid}) does not answer.",
        f"See {home.log}; end the process if it hangs, then try again.",
        retryable=True,
    )


def _configured(config: str | None) -> Path | None:
    """The `home` of the configuration file, read without a YAML parser: a line of its own that says it.

    `settings` reads the same file whole; every other mistake in it is reported there.
    """
    import re

    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    file = Path(
        config or os.environ.get("MCP_POOLS_CONFIG") or base / "mcp-pools" / "config.yaml"
    ).expanduser()
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return None
    said = re.search(r"""^home:[ \t]+(?:"([^"]+)"|'([^']+)'|([^\s#'"][^#\n]*))""", text, re.MULTILINE)
    named = next(filter(None, said.groups()), "").strip() if said else ""
    return file.absolute().parent / Path(named).expanduser() if named else None


def _socket_path(home: Path) -> Path:
    beside = home / "owner.sock"
    if len(os.fsencode(beside)) < _SOCKET_PATH_BYTES:
        return beside
    import hashlib

    name = f"mcp-pools-{os.geteuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"
    for base in (os.environ.get("XDG_RUNTIME_DIR"), "/tmp"):  # noqa: S108  a checked 0700 directory in it
        if base and len(os.fsencode(f"{base}/{name}/owner.sock")) < _SOCKET_PATH_BYTES:
            return Path(base, name, "owner.sock")
    raise AssertionError("a path below /tmp always fits")


def _locked_now(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one at `path`: a lock on a removed file guards nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
