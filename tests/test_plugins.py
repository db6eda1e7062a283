"""What is on offer, by name: built in, published by others, or marked in a module."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_pools import plugins
from mcp_pools.errors import PoolsError
from mcp_pools.settings import Settings

SHOUT = """
from mcp_pools.task_type import task_type

@task_type(summary="Repeat a text")
def shout(text: str, times: int = 1) -> str:
    return text.upper() * times
"""


@pytest.fixture
def path(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that modules and distributions are found in."""
    monkeypatch.syspath_prepend(home)
    plugins._entries.cache_clear()
    yield home
    plugins._entries.cache_clear()


def publish(path: Path, group: str, entry: str, module: str, text: str) -> None:
    """Install a distribution with one entry point, as pip would leave it."""
    info = path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    (path / f"{module}.py").write_text(text)


def refusal(code: str, call: Any, *arguments: Any) -> str:
    """What a call is refused with."""
    with pytest.raises(PoolsError) as refused:
        call(*arguments)
    assert refused.value.code == code
    return str(refused.value)


def test_the_built_in_task_types_are_always_there(home: Path) -> None:
    """Every entry point of this distribution is a task type of that name."""
    found = plugins.task_types(Settings(home=home))
    assert {"echo", "sleep", "command"} <= set(found)
    assert all(name == kind.name for name, kind in found.items())


def test_a_marked_function_of_a_module_is_a_task_type(path: Path) -> None:
    """Its parameters become the payload."""
    (path / "my_types.py").write_text(SHOUT)
    kind = plugins.task_types(Settings(home=path, task_modules=["my_types"]))["shout"]
    assert kind.handler == "my_types:shout"
    assert kind.payload(text="a").model_dump() == {"text": "a", "times": 1}


def test_another_distributions_type_must_be_named(path: Path) -> None:
    """Installed is not yet offered; nobody's module is imported unasked."""
    publish(path, plugins.TASK_TYPES, "shout = other_types:shout", "other_types", SHOUT)
    assert "shout" not in plugins.task_types(Settings(home=path))
    assert "shout" in plugins.task_types(Settings(home=path, plugins=["shout"]))
    said = refusal("invalid_payload", plugins.task_types, Settings(home=path, plugins=["shot"]))
    assert "'shot'" in said and "Did you mean 'shout'?" in said


@pytest.mark.parametrize(
    ("text", "code", "fact"),
    [
        ("x = 1", "invalid_payload", "has no task type"),
        ("import nowhere_at_all", "invalid_payload", "'nowhere_at_all'"),
        ("raise ValueError('secret words')", "invalid_payload", "raised ValueError"),
        (SHOUT.replace("shout", "echo"), "conflict", "Two task types are named 'echo'"),
    ],
)
def test_a_module_that_cannot_be_used_is_told_apart(path: Path, text: str, code: str, fact: str) -> None:
    """Missing, empty, failing and conflicting modules each get their own words."""
    module = f"bad_{abs(hash(text))}"
    (path / f"{module}.py").write_text(text)
    said = refusal(code, plugins.task_types, Settings(home=path, task_modules=[module]))
    assert fact in said and "secret words" not in said


def test_the_seeds_name_of_the_local_pool_still_works() -> None:
    """`mahavishnu` is `local`."""
    assert plugins.adapter("mahavishnu") is plugins.adapter("local")


def test_another_distributions_pool_type_must_be_named(path: Path) -> None:
    """The refusal says where to name it."""
    publish(path, plugins.ADAPTERS, "mine = my_pool:Mine", "my_pool", "class Mine: pass")
    assert "`adapters`" in refusal("invalid_payload", plugins.adapter, "mine")
    assert plugins.adapter("mine", ["mine"]).__name__ == "Mine"
    assert "mine" in plugins.adapter_names(["mine"]) and "mine" not in plugins.adapter_names()


def test_ours_wins_over_another_distributions_type_of_the_same_name(path: Path) -> None:
    """Naming `local` does not let anybody replace it."""
    publish(path, plugins.ADAPTERS, "local = evil:Local", "evil", "raise SystemExit('imported')")
    assert plugins.adapter("local", ["local"]).__module__ == "mcp_pools.adapters.local"


def test_a_mistyped_pool_type_gets_the_nearest() -> None:
    """The names there are, the alias included."""
    assert "Did you mean 'local'?" in refusal("invalid_payload", plugins.adapter, "locl")
    assert "Did you mean 'mahavishnu'?" in refusal("invalid_payload", plugins.adapter, "mahavisnu")


@pytest.mark.parametrize("name", plugins.DECLARED)
def test_a_type_this_version_lacks_is_known_by_name(name: str) -> None:
    """The refusal says so, and names the extra when there will be one."""
    if name in plugins.adapter_names():
        pytest.skip(f"{name} is there")
    said = refusal("invalid_payload", plugins.adapter, name)
    assert f"no pool type '{name}'" in said
    assert (f"mcp-pools[{name}]" in said) == (name in plugins.EXTRAS)
