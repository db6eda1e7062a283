"""The reference of the console is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from mcp_pools.terminal import own
from mcp_pools.terminal.reference import reference
from mcp_pools.tool import TOOLS

PAGE = Path(__file__).parents[2] / "docs" / "console.md"


def test_the_committed_page_is_what_would_be_generated() -> None:
    """A command that changed changes the page with it."""
    say = "docs/console.md is out of date: run python -m mcp_pools.terminal.reference > docs/console.md"
    assert PAGE.read_text() == reference(), say


def test_every_command_has_a_chapter_with_usage_and_an_example() -> None:
    """Tools' commands and the console's own alike."""
    chapters = {part.split("\n", 1)[0]: part for part in reference().split("\n## ")}
    for name in [*(tool.command for tool in TOOLS.values()), *own.COMMANDS]:
        assert f"mcp-pools {name}" in chapters[name].split("```")[1]
        assert "```sh\n" in chapters[name]


def test_every_flag_of_every_tool_is_listed() -> None:
    """With its words."""
    page = reference()
    for tool in TOOLS.values():
        for each in tool.parameters:
            if each.name not in tool.positional:
                assert f"--{each.name.replace('_', '-')}" in page
            assert each.help in page
