"""Runs the official conformance suite and reads what it found."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parts import require

HOW = "npm install -g @modelcontextprotocol/conformance@0.2.0-alpha.12 (Node 22)"
PASSED = {"SUCCESS", "INFO"}


def suite() -> str:
    """The suite's program."""
    return require("conformance", HOW)


def run(url: str, out: Path, *which: str) -> dict[str, list[dict[str, Any]]]:
    """The checks of each scenario that `which` selects, with nothing expected to fail."""
    done = subprocess.run(
        [suite(), "server", "--url", url, "-o", str(out), *which], capture_output=True, text=True, timeout=100
    )
    assert "SUMMARY" in done.stdout or "Checks:" in done.stdout or out.exists(), done.stdout + done.stderr
    return {_scenario(file): json.loads(file.read_text()) for file in sorted(out.rglob("checks.json"))}


def _scenario(checks: Path) -> str:
    """The scenario's name in a directory's, which ends with the time."""
    return re.sub(r"-\d{4}-\d\d-\d\dT.*$", "", checks.parent.name.removeprefix("server-"))


def verdict(checks: list[dict[str, Any]]) -> str:
    """What failed; nothing when all held and something was looked at."""
    wrong = [each for each in checks if each["status"] not in PASSED]
    if wrong:
        return "; ".join(f"{each['id']} {each['status']}: {each.get('errorMessage')}" for each in wrong)
    return "" if any(each["status"] == "SUCCESS" for each in checks) else "nothing was checked"


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A server process that ends with the block."""
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)
