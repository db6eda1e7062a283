"""Handlers that do what handlers should not; workers import them by name.

Each takes `(payload, context)`. Marks on disk say what really ran: a line per run, added
with O_APPEND, so that a second run would show.
"""

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time


def mark(payload, context=None):
    """Add a line to the file `to`."""
    descriptor = os.open(payload["to"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{payload['word']}\n".encode())
    os.close(descriptor)


def echo(payload, context):
    """The payload, and a mark if one is asked for."""
    if "to" in payload:
        mark(payload)
    return payload


def size(payload, context):
    """A text of this size, and the size of the one that came in."""
    return {"got": len(payload.get("text", "")), "text": "x" * payload.get("give", 0)}


def wait(payload, context):
    """Mark, and wait until the file `until` is there."""
    if "to" in payload:
        mark(payload)
    while not os.path.exists(payload["until"]):
        time.sleep(0.002)
    return "waited"


def steps(payload, context):
    """Progress and output, in turns."""
    for number in range(payload["count"]):
        context.progress(number + 1, payload["count"], f"step {number}")
        context.output(f"{number},")
    return payload["count"]


def fail(payload, context):
    """An ordinary failure."""
    raise ValueError(payload.get("words", "no"))


# Forks and runaways.


def fork_child_returns(payload, context):
    """Both sides of a fork return."""
    if os.fork() == 0:
        return "child"
    os.wait()
    return "parent"


def fork_child_raises(payload, context):
    """The child's side of a fork raises."""
    if os.fork() == 0:
        raise ValueError("child")
    os.wait()
    return "parent"


def fork_child_stays(payload, context):
    """The child's side of a fork stays behind, and would speak for the task."""
    if os.fork() == 0:
        time.sleep(600)
    return "parent"


def daemonise(payload, context):
    """A daemon by the book, deaf to polite signals."""
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            mark({"to": payload["to"], "word": os.getpid()})
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not (os.path.exists(payload["to"]) and os.path.getsize(payload["to"])):  # its mark is whole
        time.sleep(0.002)
    if payload.get("then"):
        return globals()[payload["then"]](payload, context)
    return "daemonised"


def spawn_bare(payload, context):
    """A program in a session of its own that inherits the worker's environment as it is."""
    mark({"to": payload["to"], "word": subprocess.Popen(["sleep", "600"], start_new_session=True).pid})
    return spin({}, context)


def block_signals(payload, context):
    """Every signal that can be blocked is, for good."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return spin(payload, context)


# Ends.


def exit_at_once(payload, context):
    """No cleaning up."""
    os._exit(payload["status"])


def sys_exit(payload, context):
    """As scripts end."""
    sys.exit(payload["status"])


def raise_named(payload, context):
    """A built-in exception by name."""
    raise getattr(builtins, payload["name"])("said")


def killed(payload, context):
    """By a signal of its own."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    os.kill(os.getpid(), payload["signal"])
    time.sleep(600)


class Unspeakable(Exception):
    """Cannot be put in words."""

    def __str__(self):
        raise RuntimeError("no words")


def raise_unspeakable(payload, context):
    """An exception that raises when it is printed."""
    raise Unspeakable


def raise_surrogate(payload, context):
    """Words that are no text."""
    raise ValueError("\ud800")


def raise_refusal(payload, context):
    """A refusal whose details are no JSON."""
    from mcp_pools.errors import PoolsError

    raise PoolsError("task_error", "refused", details={"odd": {1, 2}, "nan": float("nan")})


# Never.


def spin(payload, context):
    """Never returns."""
    while True:
        time.sleep(0)


def hold_the_lock(payload, context):
    """Never returns, and never lets another thread run."""
    return re.match(r"(a+)+$", "a" * 64 + "b")


# Memory.


def eat_memory(payload, context):
    """Until there is none."""
    eaten = []
    while True:
        eaten.append(bytearray(8 << 20))


def children_eat_memory(payload, context):
    """Two children, each within the limit; their sum is not."""
    code = f"import time; eaten = bytearray({payload['each']}); time.sleep(600)"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    return [child.wait() for child in children]


def leak(payload, context):
    """Keep some memory for good."""
    builtins.leaked = bytearray(payload["bytes"])
    return len(builtins.leaked)


# Output.


def print_everywhere(payload, context):
    """From Python, from below it, and from children, of both kinds."""
    print("python")
    os.write(1, b"below\n")
    os.write(2, b"error\n")
    subprocess.run(["echo", "child"], check=True)
    os.system("echo shell")
    sys.stderr.write("last\n")


def print_much(payload, context):
    """Numbered lines."""
    for number in range(payload["lines"]):
        print(f"{number:07d}", "." * 91)
    return payload["lines"]


def print_raw(payload, context):
    """Bytes that are no text."""
    os.write(1, b"\xff\xfe\x00ok")
    print("\ud800 \u00e9")


def print_forever_behind(payload, context):
    """A thread that goes on printing after the handler has returned."""

    def chatter():
        while True:
            os.write(1, b"x" * 512)

    threading.Thread(target=chatter, daemon=True).start()
    return "returned"


def close_output(payload, context):
    """Nobody can print any more."""
    sys.stdout.close()
    return "closed"


def grow_pipe_and_die(payload, context):
    """Leave more in the pipe than anybody expects there."""
    import fcntl

    fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    sys.setswitchinterval(100)
    os.write(1, b"y" * (1 << 19))
    os._exit(3)


# Results that are none.


def result(payload, context):
    """What JSON cannot hold."""
    kind = payload["kind"]
    circle = []
    circle.append(circle)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    odd = {
        "set": {1},
        "nan": float("nan"),
        "bytes": b"x",
        "surrogate": "\ud800",
        "circle": circle,
        "deep": deep,
        "key": {(1, 2): 3},
        "object": object(),
    }
    return odd[kind]


def nested(payload, context):
    """A list this deep."""
    deep = []
    for _ in range(payload["levels"]):
        deep = [deep]
    return deep


# Vandals.


def close_descriptors(payload, context):
    """All but the standard ones."""
    os.closerange(3, 256)
    return "closed"


def change_directory(payload, context):
    """Leave the worker in a directory that is gone."""
    os.makedirs(payload["directory"])
    os.chdir(payload["directory"])
    os.rmdir(payload["directory"])
    return "changed"


def where(payload, context):
    """The directory."""
    return os.getcwd()


def break_json(payload, context):
    """Put something else in a module that everybody uses."""
    json.dumps = json.loads = lambda *args, **options: "broken"
    return "broken"


def bad_progress(payload, context):
    """Progress that is no number."""
    value = {"nan": float("nan"), "text": "half", "surrogate": 1.0}[payload["kind"]]
    context.progress(value, None, "\ud800" if payload["kind"] == "surrogate" else None)
    return "said"


def environment(payload, context):
    """What a child sees when nothing is said of its environment."""
    return dict(
        line.partition("=")[::2]
        for line in subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
    )


def change_environment(payload, context):
    """Set a variable for good."""
    os.environ[payload["name"]] = "left behind"
    return dict(context.env)


def variables(payload, context):
    """What the context offers to children."""
    return dict(context.env)
