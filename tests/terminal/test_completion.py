"""Completion as the shells ask for it: the real command, with words in its environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from parts import require
from pseudo_terminal import COMMAND

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(surroundings: dict[str, str]) -> Complete:
    """`complete("mcp-pools get b")`: what is offered for the last word."""

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        asked = {
            "_MCP_POOLS_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        done = subprocess.run(
            [COMMAND], env=surroundings | asked, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""
        return [each.partition(",")[2] for each in done.stdout.split()]

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mcp-pools st", ["stats"]),
        ("mcp-pools serve --read", ["--read-only"]),
        ("mcp-pools watch --fol", ["--follow"]),
        ("mcp-pools list -f m", ["markdown"]),
        ("mcp-pools execute -s round", ["round_robin"]),
        ("mcp-pools register -t lo", ["local"]),
        ("mcp-pools get l", ["local"]),
        ("mcp-pools execute -t tran", ["transform"]),
        ("mcp-pools task-types comp", ["compute"]),
        ("mcp-pools task t_", []),
        ("mcp-pools register -n l", []),
        ("mcp-pools get --server http://127.0.0.1:1 l", []),
        ("mcp-pools get --config nowhere.yaml l", []),
    ],
)
def test_words_are_completed_without_an_owner(
    complete: Complete, home: Path, line: str, expected: list[str]
) -> None:
    """Commands, flags, choices and names; asking starts no owner, and a mistake elsewhere says nothing."""
    assert complete(line) == expected
    assert not (home / "owner.json").exists()


def test_names_of_pools_and_tasks_are_the_owners(complete: Complete, surroundings: dict[str, str]) -> None:
    """What is there now, not only what was configured."""
    subprocess.run([COMMAND, "register", "-n", "bench", "-t", "local"], env=surroundings, check=True)
    words = [COMMAND, "execute", "-t", "echo", "--payload", "a=1", "-f", "json"]
    done = subprocess.run(words, env=surroundings, capture_output=True, check=True)
    assert complete("mcp-pools execute -p be") == ["bench"]
    assert complete("mcp-pools cancel t_") == [json.loads(done.stdout)["task_id"]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_the_script(surroundings: dict[str, str], shell: str, tmp_path: Path) -> None:
    """It parses, in the shell itself."""
    program = require(shell, f"apt-get install {shell}")
    words = {**surroundings, "_MCP_POOLS_COMPLETE": f"{shell}_source"}
    script = tmp_path / "script"
    with script.open("w") as file:
        subprocess.run([COMMAND], env=words, stdout=file, check=True, timeout=60)
    assert "mcp-pools" in script.read_text()
    subprocess.run([program, "-n", script], check=True, timeout=60)


def test_a_real_bash_completes_the_name_of_a_pool(surroundings: dict[str, str]) -> None:
    """The function that the script defines, called as bash calls it at a Tab."""
    script = """
        eval "$(_MCP_POOLS_COMPLETE=bash_source mcp-pools)"
        COMP_WORDS=(mcp-pools get lo) COMP_CWORD=2
        "$(complete -p mcp-pools | sed 's/.*-F \\([^ ]*\\).*/\\1/')" mcp-pools
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script], env=surroundings, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("local\n", "")
