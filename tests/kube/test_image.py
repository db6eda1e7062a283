"""The image that the examples build: it cannot be built here, but it must fit this package."""

import re
from pathlib import Path

from mcp_pools.kube import deployment, manifest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "examples" / "kubernetes" / "Dockerfile").read_text()


def test_the_image_installs_this_package_with_an_extra_that_exists() -> None:
    """From the context it is built in."""
    extras = re.findall(r"pip install .*/src\[(\w+)\]", DOCKERFILE)
    assert extras and all(f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text() for extra in extras)


def test_the_image_runs_as_the_user_that_pods_are_given() -> None:
    """Restricted Pod Security wants a number."""
    assert "USER 65532:65532" in DOCKERFILE


def test_the_documentation_has_every_option() -> None:
    """Of both modes, and none that is not there."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {
        *manifest.OPTIONS,
        *deployment.OPTIONS,
    }
