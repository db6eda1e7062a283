"""The code that a Job needs, as one zip file that Python can run.

It holds our own handler files as they are installed here, and the pure-Python libraries
that some of them need, so that a stock image runs the same code as a local worker. The
bytes depend on the content alone: the same version makes the same bundle.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import mcp_pools

_OURS: Final = (
    "__init__",
    "adapter",
    "addresses",
    "agents",
    "carrier",
    "errors",
    "filling",
    "models",
    "policy",
    "processes",
    "program",
    "secret",
    "tabular",
    "task_type",
    "wire",
    "worker",
    "worker_process",
    "worktree",
    "kube/__init__",
    "kube/container",
    "kube/frames",
    "task_types/__init__",
    "task_types/analyze",
    "task_types/command",
    "task_types/compute",
    "task_types/echo",
    "task_types/http_request",
    "task_types/process",
    "task_types/prompt",
    "task_types/python",
    "task_types/query",
    "task_types/sleep",
    "task_types/transform",
)
_LIBRARIES: Final = ("jmespath", "simpleeval")
_MAIN: Final = "import sys\n\nfrom mcp_pools.kube.container import main\n\nsys.exit(main(sys.argv))\n"


@functools.cache
def bundle() -> tuple[str, bytes]:
    """The zip file, and a short name that stands for its content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in sorted(_files()):
            packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    data = out.getvalue()
    return hashlib.sha256(data).hexdigest()[:12], data


def _files() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN.encode()
    root = Path(mcp_pools.__file__).parent
    for name in _OURS:
        yield f"mcp_pools/{name}.py", (root / f"{name}.py").read_bytes()
    for library in _LIBRARIES:
        found = importlib.util.find_spec(library)
        assert found is not None and found.origin is not None, library  # a dependency of this package
        place = Path(found.origin)
        files = place.parent.rglob("*.py") if place.name == "__init__.py" else [place]
        base = place.parent.parent if place.name == "__init__.py" else place.parent
        for file in files:
            yield str(file.relative_to(base)), file.read_bytes()
