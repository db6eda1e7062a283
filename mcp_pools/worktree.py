"""A git worktree for one attempt: made before it, and removed after it if nothing changed.

It lies beside the checkout, in `CHECKOUT.worktrees/BRANCH`, so that whoever has the one
finds the other; `git worktree list` shows it too. It starts at the checkout's last commit:
what is not committed there is not in it.

The repository may be a stranger's. None of its hooks runs, and no monitor it configures.
Its filters do (files would not have their contents without them), as they would in any
checkout of it. Standard library only: workers import it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from mcp_pools.errors import PoolsError

FILES_SHOWN: Final = 1000
"""How many changed files are named."""

_NOBODY_ELSES_PROGRAMS: Final = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
_TAIL: Final = 4096
"""Characters of git's complaint that are kept."""


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree and its branch.

    `base` is the commit it started at; `directory` is the place in it that `cwd` is in the
    checkout, or its top when the commit has no such directory; `env` is git's environment.
    """

    checkout: str
    path: str
    branch: str
    base: str
    directory: str
    env: Mapping[str, str]

    @classmethod
    def add(cls, cwd: str, branch: str, env: Mapping[str, str]) -> Worktree:
        """A new worktree of the repository that holds `cwd`, on a new `branch`.

        Raises `PoolsError` `task_error` when there is no git, no repository or no commit,
        when the branch or its directory is there already or cannot be called so, and when
        git cannot make it; `details.stderr` holds git's words then.
        """
        env = {**env, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
        checkout = _checkout(cwd, env)
        base = _git(checkout, env, "rev-parse", "--verify", "HEAD^{commit}")
        if base.returncode:
            _fail(f"The repository {checkout!r} has no commit.", "Commit something first.", base)
        _new_branch(checkout, branch, env)
        path = f"{checkout}.worktrees/{branch.replace('/', '-')}"
        if os.path.lexists(path):
            _fail(f"{path!r} is there already.", "Remove it, or name another branch.")
        directory = os.path.normpath(os.path.join(path, os.path.relpath(os.path.realpath(cwd), checkout)))
        return cls(checkout, path, branch, base.stdout.strip(), directory, env)._added()

    def _added(self) -> Worktree:
        with self._alone():
            added = self._at_checkout("worktree", "add", "--quiet", "-b", self.branch, self.path, self.base)
            if added.returncode:
                self._forget_branch()
        if added.returncode:
            _fail(f"git could not make the worktree {self.path!r}.", "Read stderr in the details.", added)
        if os.path.isdir(self.directory):
            return self
        return replace(self, directory=self.path)

    def finish(self) -> dict[str, Any] | None:
        """Remove it and its branch if nothing changed, and say `None`; else say what it holds.

        Files that git ignores are no change. `{"path", "branch", "base", "commits",
        "changed_files", "changed"}`: the commits since `base`, the files that differ from it
        (committed or not, new ones included; the first thousand), and how many those are.
        """
        commits, changed = self._commits(), self._changed()
        if not commits and not changed and self._removed():
            return None
        return {
            "path": self.path,
            "branch": self.branch,
            "base": self.base,
            "commits": commits,
            "changed_files": changed[:FILES_SHOWN],
            "changed": len(changed),
        }

    def _commits(self) -> int:
        """Those on the branch, or on whatever is checked out instead of it."""
        branch = self._at_checkout("rev-list", "--count", f"refs/heads/{self.branch}", f"^{self.base}").stdout
        here = self._inside("rev-list", "--count", "HEAD", f"^{self.base}")
        return max(int(branch or 0), int(here or 0))

    def _changed(self) -> list[str]:
        known = self._inside("diff", "--name-only", "--no-ext-diff", "--no-renames", "-z", self.base)
        new = self._inside("ls-files", "--others", "--exclude-standard", "-z")
        return sorted({name for name in (known + new).split("\0") if name})

    def _removed(self) -> bool:
        """Whether git removes it: it looks once more, and keeps what holds anything."""
        with self._alone():
            if self._at_checkout("worktree", "remove", self.path).returncode:
                return False
            self._forget_branch()
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.path))  # unless other worktrees lie there
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time in one repository: git trips over worktrees that are half made or half removed."""
        common = self._at_checkout("rev-parse", "--git-common-dir").stdout.removesuffix("\n")
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):  # not every file system has locks
                directory = os.open(os.path.join(self.checkout, common), os.O_RDONLY | os.O_DIRECTORY)
                held.callback(os.close, directory)
                fcntl.flock(directory, fcntl.LOCK_EX)
            yield

    def _forget_branch(self) -> None:
        """Delete the branch, if it still is where it started."""
        self._at_checkout("update-ref", "-d", f"refs/heads/{self.branch}", self.base)

    def _at_checkout(self, *words: str) -> subprocess.CompletedProcess[str]:
        return _git(self.checkout, self.env, *words)

    def _inside(self, *words: str) -> str:
        """What git prints in the worktree; nothing when the agent has broken or removed it."""
        done = _git(self.path, self.env, *words)
        return "" if done.returncode else done.stdout


def _checkout(cwd: str, env: Mapping[str, str]) -> str:
    found = _git(cwd, env, "rev-parse", "--show-toplevel")
    if found.returncode:
        _fail(
            f"The directory {cwd!r} lies in no git checkout.",
            "Give a cwd inside one, or leave worktree out.",
            found,
        )
    return found.stdout.removesuffix("\n")


def _new_branch(checkout: str, branch: str, env: Mapping[str, str]) -> None:
    """Refuse a name that is none, or is taken."""
    ref = f"refs/heads/{branch}"
    if _git(checkout, env, "check-ref-format", ref).returncode:
        _fail(f"{branch!r} is no name for a branch.", "See git help check-ref-format, or give true.")
    if _git(checkout, env, "show-ref", "--verify", "--quiet", ref).returncode == 0:
        _fail(f"There is a branch {branch!r} already.", "Name another, or give true for a new one.")


def _git(directory: str, env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["git", *_NOBODY_ELSES_PROGRAMS, "-C", directory, *words]
    try:
        return subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        _fail("There is no git in PATH, which worktrees need.", "Install git, or leave worktree out.")


def _fail(message: str, next: str, git: subprocess.CompletedProcess[str] | None = None) -> NoReturn:
    details = {"stderr": git.stderr[-_TAIL:]} if git is not None else {}
    raise PoolsError("task_error", message, next, details=details)
