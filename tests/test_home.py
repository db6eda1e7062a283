"""A home, its lock, and how its owner is found or started."""

# ruff: noqa: F811 - fixtures are imported by name

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "doors"))

from processes import alive, directory, events, home, owner_pid, until  # noqa: F401 - fixtures
from standin import StandInHome

from mcp_pools.doors import hello as first_line
from mcp_pools.doors.hello import Flags, Hello, Reply, newer
from mcp_pools.errors import PoolsError
from mcp_pools.home import Home, NoOwner, connect, require_private, start_owner
from mcp_pools.settings import load

CONSOLE = Hello.here("console")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_environment_names_the_home_in_this_order(monkeypatch):
    for name in ("MCP_POOLS_HOME", "MAHAVISHNU_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert Home.default().path == Path(
        os.path.realpath("~/.local/state/mcp-pools".replace("~", str(Path.home())))
    )
    monkeypatch.setenv("XDG_STATE_HOME", "/a")
    assert Home.default().path == Path("/a/mcp-pools")
    monkeypatch.setenv("MAHAVISHNU_HOME", "/b")
    assert Home.default().path == Path("/b")
    monkeypatch.setenv("MCP_POOLS_HOME", "/c")
    assert Home.default().path == Path("/c")


def test_a_new_home_is_closed_to_others(home):
    home.create()
    assert mode(home.path) == 0o700


def test_an_empty_directory_becomes_a_home_and_is_closed(home):
    home.path.mkdir(mode=0o755)
    home.create()
    assert mode(home.path) == 0o700


def test_an_open_directory_with_other_files_is_left_alone(home):
    home.path.mkdir(mode=0o755)
    (home.path / "thesis.txt").touch()
    with pytest.raises(PoolsError, match="other files and is open to other users") as refused:
        home.create()
    assert refused.value.code == "conflict"
    assert mode(home.path) == 0o755


def test_a_file_is_no_home(home):
    home.path.touch()
    with pytest.raises(PoolsError, match="is not a directory"):
        home.create()


@as_root
def test_a_home_of_another_user_is_refused(home):
    home.path.mkdir(mode=0o700)
    os.chown(home.path, 65534, 65534)
    with pytest.raises(PoolsError, match="belongs to user 65534, not to 0"):
        home.create()


def refusal_for_another_user(home):
    """What `create` says to a process that is not root, which no mode bits stop."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            home.create()
        except PoolsError as refused:
            os.write(tell, str(refused).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(told) as answer:
        return answer.read()


@as_root
def test_a_place_that_may_not_be_written_is_refused_by_name(home, directory):
    directory.chmod(0o755)
    assert f"The home {home.path} may not be written by this user" in refusal_for_another_user(home)


@as_root
def test_a_read_only_home_is_refused_by_name(home, directory):
    directory.chmod(0o755)
    home.path.mkdir(mode=0o500)
    os.chown(home.path, 65534, 65534)
    said = refusal_for_another_user(home)
    assert f"The home {home.path} may not be written by this user" in said
    assert "MCP_POOLS_HOME" in said


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EROFS, "is read-only"),
        (errno.EACCES, "may not be written by this user"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_each_failure_of_the_disk_says_what_to_do(home, number, says):
    refused = home.refused(OSError(number, os.strerror(number)))
    assert says in refused.message
    assert refused.code == "conflict"
    assert refused.next


def test_a_full_disk_is_named_when_the_owner_file_cannot_be_written(home):
    home.create()
    home.owner_file.with_suffix(".new").symlink_to("/dev/full")
    with pytest.raises(PoolsError, match="is full"):
        home.write_owner(None)


def test_only_one_holds_the_lock_and_the_kernel_drops_it_with_its_holder(home):
    home.create()
    assert not home.locked()
    script = (
        "from mcp_pools.home import Home;"
        f"Home({str(home.path)!r}).acquire_lock(); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        assert home.locked()
        assert home.acquire_lock(patience=0) is None
        holder.kill()
    assert not home.locked()
    lock = home.acquire_lock(patience=0)
    assert lock is not None and not os.get_inheritable(lock)
    os.close(lock)


def test_a_probe_does_not_take_the_lock_from_an_owner_that_starts(home):
    home.create()
    home.lock.touch()
    stop = threading.Event()

    def probe():
        while not stop.is_set():
            home.locked()

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        for _ in range(20):
            lock = home.acquire_lock()
            assert lock is not None
            os.close(lock)
    finally:
        stop.set()
        prober.join()


def test_the_owner_file_says_who_owns_and_only_its_user_reads_it(home):
    home.create()
    home.write_owner("/etc/pools.yaml")
    said = home.read_owner()
    assert said["pid"] == os.getpid()
    assert said["config"] == "/etc/pools.yaml"
    assert said["socket"] == str(home.socket)
    assert set(said) == {"pid", "version", "started_at", "socket", "config"}
    assert mode(home.owner_file) == 0o600


def test_a_path_too_long_for_a_socket_gets_one_elsewhere(directory, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    far = StandInHome(directory / ("x" * 100))
    assert far.socket.parent.parent == directory
    assert str(os.geteuid()) in far.socket.parent.name
    assert len(os.fsencode(far.socket)) < 108
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory / ("y" * 90)))
    assert Home(far.path).socket.is_relative_to("/tmp")
    assert Home(directory / "near").socket == directory / "near" / "owner.sock"


def test_a_home_with_a_long_path_is_served(directory, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    far = StandInHome(directory / ("x" * 100))
    with closing(connect(far, CONSOLE)):
        assert mode(far.socket.parent) == 0o700
        pid = owner_pid(far)
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        # Who runs in another environment still finds the socket, by owner.json.
        with closing(connect(StandInHome(far.path), CONSOLE, start=False)):
            os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid))


def test_a_socket_directory_open_to_others_is_refused(directory):
    (directory / "open").mkdir()
    (directory / "open").chmod(0o755)
    with pytest.raises(PoolsError, match="mode 0755"):
        require_private(directory / "open")


def test_nobody_is_started_when_nobody_shall_be(home):
    with pytest.raises(NoOwner):
        connect(home, CONSOLE, start=False)
    assert not home.path.exists()


def test_what_a_dead_owner_left_behind_is_no_problem(home):
    home.create()
    home.lock.touch()
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(home.socket))
    home.owner_file.write_text(json.dumps({"pid": 1, "socket": str(home.socket)}))
    with closing(connect(home, CONSOLE)):
        assert owner_pid(home) != 1


def test_two_clients_at_the_same_moment_get_the_same_owner(home):
    doors, failures = [], []

    def enter():
        try:
            doors.append(connect(home, CONSOLE))
        except BaseException as failure:
            failures.append(failure)

    clients = [threading.Thread(target=enter) for _ in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert not failures
    assert len(doors) == 6
    assert len(events(home, "owner.listening")) == 1
    for door in doors:
        door.close()


def test_an_owner_that_cannot_start_says_why_at_once(home, monkeypatch):
    monkeypatch.setenv("STANDIN_FAILS", "pools.yaml: unknown key 'polls'.")
    with pytest.raises(PoolsError, match="unknown key 'polls'") as refused:
        connect(home, CONSOLE, timeout=60)
    assert refused.value.next == "Mend it."


def test_a_crash_at_start_is_told_by_its_last_line(home):
    home.owner_command = (sys.executable, "-c", "raise RuntimeError('no such thing')")
    with pytest.raises(PoolsError, match="RuntimeError: no such thing"):
        connect(home, CONSOLE, timeout=60)


def test_a_stopped_owner_is_reported_when_the_time_is_over(home):
    with closing(connect(home, CONSOLE)):
        pid = owner_pid(home)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(PoolsError, match=f"process {pid}\\) does not answer"):
            connect(home, CONSOLE, timeout=0.3)
        os.kill(pid, signal.SIGCONT)


@as_root
def test_a_socket_answered_by_another_user_is_refused(home):
    home.create()
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);"
        "os.chmod(sys.argv[1], 0o777); os.setgid(65534); os.setuid(65534); s.listen();"
        "print(1, flush=True); s.accept(); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home.socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(PoolsError, match="answered by user 65534"):
            connect(home, CONSOLE)
        other.kill()


def test_a_detached_owner_has_nothing_of_its_starter_but_the_environment(home, monkeypatch):
    monkeypatch.setenv("STANDIN_MARK", "kept")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    with closing(connect(home, CONSOLE)):
        pid = owner_pid(home)
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        open_files = {int(each.name): str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
        assert open_files[0] == "/dev/null"
        assert open_files[1] == open_files[2] == str(home.log)
        # Its own lock, loop and sockets; nothing else from here.
        rest = {name.partition(":")[0] for number, name in open_files.items() if number > 2}
        assert rest <= {str(home.lock), "anon_inode", "socket"}
        assert b"STANDIN_MARK=kept" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
        assert parent != os.getpid()
    os.close(leaked)


def test_starting_leaves_no_child_behind(home):
    starting = start_owner(home, None)
    with pytest.raises(ChildProcessError):
        os.waitpid(starting.pid, os.WNOHANG)
    until(lambda: events(home, "owner.listening"))
    assert not starting.ended()


def test_a_long_log_is_set_aside(home):
    home.create()
    home.log.write_bytes(b"x" * (2 << 20))
    with closing(connect(home, CONSOLE)):
        assert home.log.stat().st_size < 1 << 20
        assert home.log.with_name("owner.log.1").stat().st_size == 2 << 20


def test_the_hello_says_where_and_how_deep_its_process_is(monkeypatch, directory):
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MCP_POOLS_DEPTH", "2")
    hello = Hello.here("mcp", "pools.yaml", Flags(read_only=True, tools=("pool_list",)))
    assert hello.cwd == str(directory)
    assert hello.depth == 2
    assert hello.config == str(directory / "pools.yaml")
    assert Hello.read(hello.line()) == hello


def test_replies_survive_the_wire():
    for reply in (
        Reply(ok=True, version="1.2", pid=7),
        Reply(ok=False, code="conflict", message="m", next="n"),
    ):
        assert Reply.read(reply.line()) == reply


def test_a_restriction_that_is_not_known_is_refused():
    hello = Hello.here("mcp").line().replace(b"read_only", b"read_twice")
    with pytest.raises(ValueError, match="read_twice"):
        Hello.read(hello)


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"nonsense\n", b'{"version":1,"kind":"mcp","cwd":"/"}\n'])
def test_what_is_no_hello_is_a_value_error(line):
    with pytest.raises(ValueError):
        Hello.read(line)


def test_versions_compare_by_their_numbers():
    assert newer("0.10.0", "0.9.9")
    assert not newer("0.1.0", "0.1.0")
    assert not newer("0.1.0", "0.1.1")


def test_finding_an_owner_imports_nothing_slow():
    heavy = ["asyncio", "pydantic", "subprocess", "dataclasses", "inspect", "logging", "mcp"]
    script = f"import sys, mcp_pools.bridge; print([name for name in {heavy} if name in sys.modules])"
    said = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(first_line.__file__).parents[2],
    )
    assert said.stdout.strip() == "[]", said


@pytest.mark.parametrize(
    ("said", "home"),
    [
        ("home: /a/b", "/a/b"),
        ("pools: {}\nhome: '/a b/c'  # state", "/a b/c"),
        ('home:  "state"', "{config}/state"),
        ("home: state   # beside this file", "{config}/state"),
        ("# home: /no\nother:\n  home: /no", "{state}/mcp-pools"),
    ],
)
def test_the_configuration_may_name_the_home(monkeypatch, tmp_path, said, home):
    """Whoever looks for an owner finds the home that the owner's settings have."""
    for name in ("MCP_POOLS_HOME", "MAHAVISHNU_HOME", "MCP_POOLS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (file := tmp_path / "config.yaml").write_text(said)
    expected = home.format(config=tmp_path, state=tmp_path / "state")
    assert str(Home.default(str(file)).path) == expected
    if "other" not in said:
        assert str(load(config_file=file).home) == expected
    monkeypatch.setenv("MCP_POOLS_HOME", str(tmp_path / "first"))
    assert Home.default(str(file)).path == tmp_path / "first"
