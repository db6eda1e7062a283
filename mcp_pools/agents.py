"""What a pool's workers may be: Python, or an agent CLI that is run headless.

A pool of worker type `python` runs every task type but `prompt`; one whose worker type is
an agent's name runs `prompt` and nothing else. Pure, and standard library only: workers
import it.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcp_pools.errors import PoolsError, nearest

PYTHON: Final = "python"
"""The worker type of a pool that runs handlers."""
PROMPT: Final = "prompt"
"""The task type of a pool that runs an agent."""
PLACE: Final = "{prompt}"
"""Stands for the prompt in the arguments of an agent that does not read it from its input."""
HOW_TO_REGISTER: Final = (
    'Register a pool of agents: pool_register(name="agents", type="local", worker_type="terminal-claude"); '
    "in a terminal: mcp-pools register -n agents -t local --worker-type terminal-claude"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent CLI: it gets one prompt, prints its answer, exits, and never asks.

    `argv` is the program, a name in PATH or an absolute path, and its arguments. The
    prompt comes on standard input; without `stdin` it is filled in for `{prompt}`, byte for
    byte, so an argument that the program could take for a flag needs a `--` before it.
    `env` names the variables (shell globs) of the owner's environment that it gets
    besides the standard ones. Raises `ValueError` when these do not fit together.
    """

    argv: tuple[str, ...]
    stdin: bool = True
    env: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        program = self.argv[0] if self.argv else ""
        if not program or PLACE in program:
            raise ValueError("must have a program as the first word of argv")
        if "/" in program and not os.path.isabs(program):
            # Relative to what? To the caller's directory, which may be a stranger's clone.
            raise ValueError("must have a name or an absolute path as the first word of argv")
        if any("\0" in word for word in self.argv):
            raise ValueError("must have no NUL character in argv")
        if self.stdin == any(PLACE in word for word in self.argv):
            raise ValueError(f"must have {PLACE} in argv when stdin is false, and only then")

    def command(self, prompt: str) -> tuple[list[str], str | None]:
        """The words to run and the text for standard input (`None`: empty) for `prompt`."""
        if self.stdin:
            return list(self.argv), prompt
        return [word.replace(PLACE, prompt) for word in self.argv], None


BUILT_IN: Final[Mapping[str, Agent]] = {
    # The settings of a repository may name hooks, and headless nobody is asked whether to trust them.
    "terminal-claude": Agent(
        argv=("claude", "-p", "--setting-sources", "user"),
        env=("ANTHROPIC_*", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR"),
    ),
    "terminal-qwen": Agent(
        argv=("qwen",), env=("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "DASHSCOPE_API_KEY")
    ),
}
"""The agents there are without any configuration. What they may do, their user's own settings say."""

_PACKAGES: Final = {"claude": "@anthropic-ai/claude-code", "qwen": "@qwen-code/qwen-code"}


def known(configured: Mapping[str, Agent]) -> dict[str, Agent]:
    """Every agent by its worker type; a configured one replaces the built-in of its name."""
    return {**BUILT_IN, **configured}


def resolve(worker_type: str, configured: Mapping[str, Agent]) -> Agent | None:
    """What a worker type stands for; `None` for Python.

    Raises `PoolsError` `invalid_payload`, naming the nearest, when there is no such worker type.
    """
    if worker_type == PYTHON:
        return None
    agents = known(configured)
    if worker_type not in agents:
        hint = nearest(worker_type, [PYTHON, *agents])
        raise PoolsError(
            "invalid_payload",
            f"There is no worker type {worker_type!r}.",
            f"{hint} Your own go under agents in the configuration file.",
        )
    return agents[worker_type]


def installing(program: str) -> str:
    """What to do about a program that is not there."""
    package = _PACKAGES.get(program)
    if package is not None:
        return f"Install it where the workers run: npm install -g {package}"
    return "Install it where the workers run, or correct agents in the configuration file."
