"""What the README shows is run here; what it installs, the gate runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes_api import cluster

from mcp_pools.settings import load
from mcp_pools.tool import TOOLS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    """The README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines that start with a prompt, in order."""
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def surroundings(home: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a home of its own, whose owner ends with the test."""
    environment = {
        **os.environ,
        "MCP_POOLS_HOME": str(home),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "user"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "MCP_POOLS_OWNER_IDLE_SECONDS": "1",
    }
    yield environment
    owner = home / "owner.json"
    if owner.exists():
        os.kill(json.loads(owner.read_text())["pid"], 15)


def test_every_command_of_the_readme_works_in_its_order(surroundings: dict[str, str], tmp_path: Path) -> None:
    """They build on each other: a pool is registered, used, closed."""
    assert len(commands()) > 8
    for command in commands():
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip(), command


def test_the_first_transcript_is_what_the_command_prints(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    """But for ids, times and the marks of a terminal."""
    command, *shown = blocks("console")[0].splitlines()
    done = subprocess.run(
        shlex.split(command[2:]),
        cwd=tmp_path,
        env={**surroundings, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    table = shown.index("items")
    assert done.stdout.splitlines()[-len(shown[table:]) :] == shown[table:]
    assert done.stdout.startswith("completed")


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """The script runs as it stands, and the task type is one."""
    script, task_type = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("completed {'x': 1}\n", 0), done.stderr
    (tmp_path / "shouting.py").write_text(task_type)
    (tmp_path / "config.yaml").write_text("task_modules: [shouting]\n")
    done = subprocess.run(
        [BIN / "mcp-pools", "task-types", "shout", "--config", tmp_path / "config.yaml", "-f", "json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["name"] == "shout", done.stderr


def test_the_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    """Every key exists and every value fits."""
    (file := tmp_path / "config.yaml").write_text(blocks("yaml")[0])
    settings = load(config_file=file, environ={})
    assert "pytest" in settings.allow.commands
    assert list(settings.secrets) == ["GITHUB_TOKEN"]


def test_the_clients_are_told_a_command_that_exists() -> None:
    """`claude mcp add` and `.mcp.json` start the same bridge."""
    servers = json.loads(blocks("json")[0])["mcpServers"]
    assert servers["mcp-pools"]["args"] == ["serve"]
    added = next(line for line in shell_lines() if "claude mcp add" in line)
    assert added.endswith(f"-- {servers['mcp-pools']['command']} serve")
    assert shutil.which("mcp-pools", path=str(BIN))


def shell_lines() -> list[str]:
    """What the README has people type in a shell, beside the commands that are run above."""
    return [line for block in blocks("sh") for line in block.splitlines()]


RUN_ELSEWHERE = (
    "python3 -m venv .venv && .venv/bin/pip install",  # by the gate
    "claude mcp add mcp-pools -- /path/to/.venv/bin/mcp-pools serve",  # what follows `--`: test_end_to_end
    "claude mcp add mcp-pools -- uvx --from /path/to/clone mcp-pools serve",  # test_packaging
    "mcp-pools register -n cloud -t kubernetes --max-workers 20",  # below
    "mcp-pools execute -t compute",  # below
    "claude mcp add --transport http mcp-pools http://127.0.0.1:8680/mcp",  # the address: test_http
    "pip wheel -q --no-deps -w mcpb . && npx @anthropic-ai/mcpb pack mcpb mcp-pools.mcpb",  # test_packaging
)


def test_every_other_line_is_run_elsewhere() -> None:
    """A new one says where."""
    assert not [line for line in shell_lines() if not line.startswith(RUN_ELSEWHERE)]
    said = "\n".join(shell_lines())
    assert not [known for known in RUN_ELSEWHERE if known not in said]


def test_the_first_command_runs_on_a_cluster_by_its_pool_alone(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    """Nothing but `--pool cloud` is new, and the answer is the same."""
    lines = [line for line in shell_lines() if line.startswith("mcp-pools ")]
    assert lines[1].replace(" --pool cloud", "") == commands()[0]
    with cluster(tmp_path / "cluster") as world:
        named = {"clusters": "cluster", "users": "user", "contexts": "context"}
        about = {"cluster": {"server": world.url}, "user": {}, "context": {"cluster": "it", "user": "it"}}
        config = {kinds: [{"name": "it", kind: about[kind]}] for kinds, kind in named.items()}
        (tmp_path / "kubeconfig").write_text(json.dumps({"current-context": "it", **config}))
        environment = {**surroundings, "KUBECONFIG": str(tmp_path / "kubeconfig")}
        for line in lines:
            done = subprocess.run(
                shlex.split(line), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stderr
        shown = blocks("console")[0].splitlines()
        assert done.stdout.splitlines()[-3:] == shown[-3:] and "on cloud" in done.stdout
        assert len(world.created_jobs) == 1


def test_the_readme_names_every_tool() -> None:
    """And no tool that is not there."""
    assert set(re.findall(r"`(pool_\w+)`", README)) == set(TOOLS)
