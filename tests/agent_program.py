"""A program that behaves like an agent CLI: it reads a prompt, works, says what it does as it goes, exits.

The prompt is a list of orders, one a line; with `--verbatim` it is only said again. Standard
library only. With `--argument TEXT` the prompt is that argument instead of standard input.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Do what the prompt says."""
    words = sys.argv[1:]
    prompt = os.fsencode(words[words.index("--argument") + 1]) if "--argument" in words else read()
    if "--verbatim" in words:
        sys.stdout.buffer.write(prompt)
        return
    for order in prompt.decode().splitlines():
        name, _, rest = order.partition(" ")
        ORDERS[name](rest)


def read() -> bytes:
    """Standard input to its end, as a CLI in a pipe reads its prompt."""
    return sys.stdin.buffer.read()


def say(text: str) -> None:
    """On standard output, at once."""
    print(text, flush=True)


def mutter(text: str) -> None:
    """On standard error."""
    print(text, file=sys.stderr, flush=True)


def ask(question: str) -> None:
    """A question to whoever is there: on the terminal if there is one, else on standard input."""
    try:
        with open("/dev/tty", "r+") as terminal:
            answer = terminal.readline()
    except OSError:
        answer = sys.stdin.readline()
    say(f"{question} {answer!r}")


def wait(gate: str) -> None:
    """Until a file is there."""
    while not os.path.exists(gate):
        time.sleep(0.005)


def write(words: str) -> None:
    """A file with a text."""
    name, _, text = words.partition(" ")
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def git(words: str) -> None:
    """A git command, as somebody."""
    who = ["-c", "user.name=Agent", "-c", "user.email=agent@example.org"]
    subprocess.run(["git", *who, *words.split()], check=True, stdout=subprocess.DEVNULL)


def console(words: str) -> None:
    """A console command of mcp-pools; what it says and how it exits."""
    argv = [str(Path(sys.executable).with_name("mcp-pools")), *words.split()]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    say(f"{done.stdout}{done.stderr}exit {done.returncode}")


ORDERS = {
    "say": say,
    "mutter": mutter,
    "ask": ask,
    "wait": wait,
    "write": write,
    "git": git,
    "console": console,
    "where": lambda _: say(os.getcwd()),
    "environment": lambda _: say(repr(sorted(os.environ))),
    "variable": lambda name: say(os.environ.get(name, "(unset)")),
    "exit": lambda status: sys.exit(int(status)),
    "die": lambda _: os.kill(os.getpid(), signal.SIGKILL),
}

if __name__ == "__main__":
    main()
