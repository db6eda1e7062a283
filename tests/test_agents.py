"""What worker types stand for: `mcp_pools.agents`."""

import pytest

from mcp_pools.agents import BUILT_IN, Agent, installing, known, resolve
from mcp_pools.errors import PoolsError


def test_python_is_no_agent() -> None:
    """And every other worker type is one, or nothing."""
    assert resolve("python", {}) is None
    assert resolve("terminal-claude", {}) is BUILT_IN["terminal-claude"]


def test_a_configured_agent_stands_beside_the_built_in_ones_or_in_their_place() -> None:
    """By its name."""
    mine, other = Agent(argv=("mine",)), Agent(argv=("claude", "-p", "--model", "opus"))
    agents = known({"mine": mine, "terminal-claude": other})
    assert sorted(agents) == ["mine", "terminal-claude", "terminal-qwen"]
    assert resolve("mine", agents) is mine and resolve("terminal-claude", agents) is other


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("terminal-claud", "Did you mean 'terminal-claude'?"),
        ("pythn", "Did you mean 'python'?"),
        ("", "python, terminal-claude, terminal-qwen"),
    ],
)
def test_an_unknown_worker_type_names_what_there_is(name: str, hint: str) -> None:
    """Python included."""
    with pytest.raises(PoolsError) as refused:
        resolve(name, {})
    assert refused.value.code == "invalid_payload" and hint in refused.value.next


def test_the_prompt_goes_to_standard_input_or_into_the_arguments() -> None:
    """Into the program's own words only: what the prompt itself holds is never filled again."""
    prompt = "-x {prompt} $(id)"
    assert Agent(argv=("a", "-p")).command(prompt) == (["a", "-p"], prompt)
    agent = Agent(argv=("a", "--ask={prompt}", "{prompt}"), stdin=False)
    assert agent.command(prompt) == (["a", f"--ask={prompt}", prompt], None)


@pytest.mark.parametrize(
    ("argv", "stdin", "said"),
    [
        ((), True, "a program"),
        (("",), True, "a program"),
        (("./agent",), True, "absolute path"),
        (("bin/agent",), True, "absolute path"),
        (("{prompt}",), False, "a program"),
        (("a", "b\0"), True, "NUL"),
        (("a", "{prompt}"), True, "stdin is false"),
        (("a",), False, "stdin is false"),
    ],
)
def test_a_definition_that_cannot_be_is_refused(argv: tuple[str, ...], stdin: bool, said: str) -> None:
    """A program found from the caller's directory would be whatever lies there."""
    with pytest.raises(ValueError, match=said):
        Agent(argv=argv, stdin=stdin)


def test_what_is_missing_can_be_installed() -> None:
    """The built-in ones by their package."""
    for agent in BUILT_IN.values():
        assert "npm install -g" in installing(agent.argv[0])
    assert "agents in the configuration" in installing("mine")
