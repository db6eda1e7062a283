"""The live view on a terminal: what is seen, what keys do, and that the terminal comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pseudo_terminal import COMMAND, PseudoTerminal

Open = Callable[..., PseudoTerminal]
LEFT = "\x1b[?7h\x1b[?25h\x1b[?1049l"


def console(surroundings: dict[str, str], *words: str) -> None:
    """Run another command, as from another window."""
    done = subprocess.run([COMMAND, *words], env=surroundings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def echo(surroundings: dict[str, str]) -> None:
    """One task that is done at once."""
    console(surroundings, "execute", "-t", "echo", "--payload", "a=1")


def test_pools_and_events_are_there_and_q_quits(terminal: Open, surroundings: dict[str, str]) -> None:
    """Work done elsewhere shows by itself; the terminal is as it was before."""
    shown = terminal("watch", "--refresh", "0.1")
    shown.shows("local")
    shown.shows("Nothing has happened yet.")
    echo(surroundings)
    shown.shows("task.completed")
    shown.until(lambda: "1 running" in shown.picture[0])
    shown.type("q")
    assert shown.status() == 0
    assert shown.written.endswith(LEFT)
    assert shown.settings() == shown.mode


def test_a_picture_is_as_large_as_the_terminal(terminal: Open) -> None:
    """Also after that has changed, without waiting for the next look."""
    shown = terminal("watch", "-r", "60")
    shown.shows("local")
    shown.until(lambda: (len(shown.picture), {len(line) for line in shown.picture}) == (24, {80}))
    shown.resize(40, 15)
    shown.until(lambda: (len(shown.picture), {len(line) for line in shown.picture}) == (15, {40}))
    shown.resize(160, 50)
    shown.until(lambda: (len(shown.picture), {len(line) for line in shown.picture}) == (50, {160}))


def test_keys_sort_reverse_and_pause(terminal: Open, surroundings: dict[str, str]) -> None:
    """A paused view shows nothing new until it goes on; then it has missed nothing."""
    shown = terminal("watch", "--refresh", "0.1")
    shown.shows("POOL▲")
    shown.type("s")
    shown.shows("QUEUE▼")
    shown.type("r")
    shown.shows("QUEUE▲")
    shown.type("p")
    shown.shows("paused")
    echo(surroundings)
    shown.type("s")
    shown.shows("BUSY▼")
    shown.shows("Nothing has happened yet.")
    shown.type("p")
    shown.shows("task.completed")


@pytest.mark.parametrize(("ending", "status"), [("Ctrl-C", 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_whatever_ends_it_gives_the_terminal_back(
    terminal: Open, ending: str | signal.Signals, status: int
) -> None:
    """The other screen is left, the cursor is there, and typing is echoed again."""
    shown = terminal("watch")
    shown.shows("local")
    assert shown.settings() != shown.mode
    if isinstance(ending, str):
        shown.type("\x03")
    else:
        shown.process.send_signal(ending)
    assert shown.status() == status
    assert LEFT in shown.written
    assert shown.settings() == shown.mode


def test_a_view_that_is_to_stop_gives_the_terminal_back_first(terminal: Open) -> None:
    """Ctrl-Z. The kernel stops nobody whose shell is not there, as here: the view goes on at once."""
    shown = terminal("watch", "-r", "0.1")
    shown.shows("local")
    shown.type("\x1a")
    shown.until(lambda: f"{LEFT}\x1b[?1049h" in shown.written)
    shown.until(lambda: "\x1b[H" in shown.written.rpartition(LEFT)[2])
    shown.type("q")
    assert shown.status() == 0
    assert shown.settings() == shown.mode


def test_an_owner_that_dies_is_replaced(terminal: Open, surroundings: dict[str, str], home: Path) -> None:
    """The view says so, finds the next one, and goes on with what happens there."""
    shown = terminal("watch", "-r", "0.1")
    shown.shows("local")
    first = json.loads((home / "owner.json").read_text())["pid"]
    os.kill(first, signal.SIGKILL)
    shown.shows("the owner is gone")
    shown.shows("q quit")
    assert json.loads((home / "owner.json").read_text())["pid"] != first
    echo(surroundings)
    shown.shows("task.completed")


def test_nobody_there_is_said_before_the_screen_is_taken(terminal: Open) -> None:
    """One line, and exit status 4."""
    shown = terminal("watch", "--server", "http://127.0.0.1:1")
    assert shown.status() == 4
    assert "nothing answers at http://127.0.0.1:1" in shown.written
    assert "\x1b[?1049h" not in shown.written


def test_a_question_on_a_terminal_gets_one_answer(terminal: Open) -> None:
    """With a format for documents, or for programs, or with what only one answer can have."""
    for words in (["-f", "markdown"], ["-f", "json"], ["--wait-seconds", "0"]):
        shown = terminal("watch", *words)
        assert shown.status() == 0
        assert "\x1b[?1049h" not in shown.written
        assert "local" in shown.written
