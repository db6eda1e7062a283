"""What the tests of the terminal share."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pseudo_terminal import COMMAND, PseudoTerminal


@pytest.fixture
def surroundings(home: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home and a configuration of this test's own; its owner, if there is one, ends with it."""
    yield {
        **{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")},
        "MCP_POOLS_HOME": str(home),
        "XDG_CONFIG_HOME": str(tmp_path),
        "MCP_POOLS_OWNER_IDLE_SECONDS": "2",
        "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
    }
    if (file := home / "owner.json").exists():
        with suppress(ProcessLookupError):
            os.kill(json.loads(file.read_text())["pid"], signal.SIGTERM)


@pytest.fixture
def terminal(surroundings: dict[str, str]) -> Iterator[Callable[..., PseudoTerminal]]:
    """`terminal("watch", columns=80, lines=24)`: a command on a terminal of its own."""
    opened: list[PseudoTerminal] = []

    def start(*words: str, columns: int = 80, lines: int = 24) -> PseudoTerminal:
        opened.append(PseudoTerminal(words, surroundings, columns, lines))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
