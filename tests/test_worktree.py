"""Worktrees of real repositories: `mcp_pools.worktree`."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from parts import require

from mcp_pools.errors import PoolsError
from mcp_pools.worktree import FILES_SHOWN, Worktree

ENVIRONMENT = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def git(directory: Path | str, *words: str) -> str:
    """What a git command prints."""
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *who, *words], cwd=directory, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, whose path and files have awkward names."""
    require("git", "install git")
    made = tmp_path / "a shop, é"
    (made / "sub").mkdir(parents=True)
    (made / "sub/file").write_text("old\n")
    (made / ".gitignore").write_text("*.log\n")
    git(made, "init", "-q", "-b", "main")
    git(made, "add", "-A")
    git(made, "commit", "-q", "-m", "first")
    return made


def add(checkout: Path, branch: str = "work", cwd: str = "") -> Worktree:
    """A worktree of the checkout."""
    return Worktree.add(str(checkout / cwd), branch, ENVIRONMENT)


def refusal(cwd: Path, branch: str = "work") -> PoolsError:
    """Why there can be no worktree."""
    with pytest.raises(PoolsError) as refused:
        Worktree.add(str(cwd), branch, ENVIRONMENT)
    assert refused.value.code == "task_error" and refused.value.next
    return refused.value


def nothing_left(checkout: Path, branches: str = "main") -> bool:
    """Whether the repository is as it was before."""
    listed = git(checkout, "branch", "--format=%(refname:short)").split()
    return (
        listed == branches.split()
        and git(checkout, "worktree", "list").count("\n") == 1
        and not Path(f"{checkout}.worktrees").exists()
    )


def test_it_lies_beside_the_checkout_at_its_last_commit(checkout: Path) -> None:
    """On a branch of its own; what is not committed stays in the checkout."""
    (checkout / "sub/file").write_text("not committed\n")
    tree = add(checkout, "fix/it")
    assert tree.path == tree.directory == f"{checkout}.worktrees/fix-it"
    assert Path(tree.path, "sub/file").read_text() == "old\n"
    assert git(tree.path, "branch", "--show-current").strip() == "fix/it"
    assert tree.base == git(checkout, "rev-parse", "main").strip()
    assert tree.finish() is None
    assert (checkout / "sub/file").read_text() == "not committed\n"


def test_the_same_place_in_it_is_the_directory_to_work_in(checkout: Path) -> None:
    """Its top when the commit has no such directory."""
    (checkout / "new").mkdir()
    assert add(checkout, "a", "sub").directory == f"{checkout}.worktrees/a/sub"
    assert add(checkout, "b", "new").directory == f"{checkout}.worktrees/b"


def test_an_unchanged_one_goes_with_its_branch(checkout: Path) -> None:
    """And with the directory around it, unless others lie there; ignored files are no change."""
    one, other = add(checkout, "one"), add(checkout, "other")
    Path(one.path, "build.log").write_text("x")
    assert one.finish() is None
    assert not Path(one.path).exists() and Path(other.path).exists()
    assert other.finish() is None
    assert nothing_left(checkout)


def test_one_with_work_is_kept_and_told(checkout: Path) -> None:
    """Commits are counted, files named: committed, changed, new, deleted, whatever they are called."""
    tree = add(checkout)
    Path(tree.path, "sub/file").write_text("committed\n")
    git(tree.path, "commit", "-qam", "second")
    Path(tree.path, "new é\nfile").write_text("x")
    Path(tree.path, ".gitignore").unlink()
    assert tree.finish() == {
        "path": f"{checkout}.worktrees/work",
        "branch": "work",
        "base": tree.base,
        "commits": 1,
        "changed_files": [".gitignore", "new é\nfile", "sub/file"],
        "changed": 3,
    }
    assert Path(tree.path, "new é\nfile").exists()


def test_commits_alone_are_work(checkout: Path) -> None:
    """Also one that changes no file, and one that the branch no longer shows in the worktree."""
    tree = add(checkout)
    git(tree.path, "commit", "-q", "--allow-empty", "-m", "empty")
    git(tree.path, "checkout", "-q", "--detach", tree.base)
    kept = tree.finish()
    assert kept is not None and (kept["commits"], kept["changed"]) == (1, 0)


def test_only_so_many_files_are_named(checkout: Path) -> None:
    """All are counted."""
    tree = add(checkout)
    for number in range(FILES_SHOWN + 5):
        Path(tree.path, f"{number:05}").touch()
    kept = tree.finish()
    assert kept is not None and (len(kept["changed_files"]), kept["changed"]) == (
        FILES_SHOWN,
        FILES_SHOWN + 5,
    )


def test_one_that_git_would_not_remove_is_kept(checkout: Path) -> None:
    """Git looks for itself: here the index differs, though no file does."""
    tree = add(checkout)
    Path(tree.path, "staged").touch()
    git(tree.path, "add", "staged")
    Path(tree.path, "staged").unlink()
    kept = tree.finish()
    assert kept is not None and Path(kept["path"]).exists()


def test_one_that_the_agent_has_broken_does_not_fail_the_task(checkout: Path) -> None:
    """It is named, whatever is left of it."""
    tree = add(checkout)
    Path(tree.path, ".git").write_text("gitdir: /nowhere\n")
    kept = tree.finish()
    assert kept is not None and kept["path"] == tree.path and Path(tree.path, "sub/file").exists()


def test_a_repository_that_the_agent_has_removed_does_not_fail_the_task(checkout: Path) -> None:
    """The worktree is still there, whatever it is worth."""
    tree = add(checkout)
    shutil.rmtree(checkout)
    kept = tree.finish()
    assert kept is not None and Path(kept["path"], "sub/file").exists()


def test_commits_outlive_a_worktree_that_the_agent_has_removed(checkout: Path) -> None:
    """They are on its branch."""
    tree = add(checkout)
    git(tree.path, "commit", "-q", "--allow-empty", "-m", "empty")
    git(checkout, "worktree", "remove", tree.path)
    kept = tree.finish()
    assert kept is not None and kept["commits"] == 1
    assert "work" in git(checkout, "branch")


def test_no_hook_and_no_monitor_of_the_repository_runs(checkout: Path, tmp_path: Path) -> None:
    """It may be a stranger's."""
    ran = tmp_path / "ran"
    program = checkout / ".git/hooks/post-checkout"
    program.write_text(f"#!/bin/sh\ntouch '{ran}'\n")
    program.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(program))
    tree = add(checkout)
    Path(tree.path, "sub/file").write_text("new\n")
    assert tree.finish() and not ran.exists()
    git(checkout, "checkout", "-q", "-b", "other")
    assert ran.exists()  # the trap works


def test_where_there_is_no_checkout_there_is_no_worktree(tmp_path: Path, checkout: Path) -> None:
    """A plain directory, a repository without commits, one without files."""
    empty, bare = tmp_path / "empty", tmp_path / "bare"
    git(tmp_path, "init", "-q", str(empty))
    git(tmp_path, "init", "-q", "--bare", str(bare))
    assert "lies in no git checkout" in refusal(tmp_path).message
    assert "has no commit" in refusal(empty).message
    assert "lies in no git checkout" in refusal(bare).message and refusal(bare).details["stderr"]


@pytest.mark.parametrize("branch", ["a..b", "a.lock", "/a", "a/", "@{-1}", "a\\b", "."])
def test_a_name_that_git_does_not_take_is_refused(checkout: Path, branch: str) -> None:
    """Before anything is made."""
    assert "no name for a branch" in refusal(checkout, branch).message
    assert nothing_left(checkout)


def test_what_is_there_already_is_left_alone(checkout: Path) -> None:
    """A branch, a directory, another worktree whose name becomes the same."""
    assert "a branch 'main' already" in refusal(checkout, "main").message
    first = add(checkout, "a/b")
    Path(first.path, "work").touch()
    assert "is there already" in refusal(checkout, "a-b").message
    assert Path(first.path, "work").exists()
    assert git(checkout, "branch", "--format=%(refname:short)").split() == ["a/b", "main"]


def test_one_that_git_cannot_make_leaves_nothing(checkout: Path) -> None:
    """Not even its branch."""
    Path(f"{checkout}.worktrees").touch()
    assert refusal(checkout).details["stderr"]
    Path(f"{checkout}.worktrees").unlink()
    assert nothing_left(checkout)


def test_without_git_it_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    """The agent may run without."""
    with pytest.raises(PoolsError, match="Install git"):
        Worktree.add(str(checkout), "work", {"PATH": str(tmp_path)})


def test_many_at_once_do_not_hinder_each_other(checkout: Path) -> None:
    """Several agents may work on one repository; git alone would fail."""

    def one(number: int) -> object:
        return add(checkout, f"work-{number}").finish()

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(one, range(60))) == {None}
    assert nothing_left(checkout)


def test_a_worktree_has_worktrees_too(checkout: Path) -> None:
    """An agent in one may ask for another."""
    outer = add(checkout, "outer")
    inner = add(Path(outer.path), "inner")
    assert inner.finish() is None and outer.finish() is None
    assert nothing_left(checkout)
