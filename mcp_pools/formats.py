"""Results as text: tables for people, GitHub tables for documents, JSON for programs.

Text that came from outside never reaches a terminal with its control characters. Rich
is imported only when a table is drawn.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_RISKY_IN_JSON: Final = re.compile(r"[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON does not escape by itself, though a terminal obeys it or cannot be sent it."""


def render(
    tool_name: str, data: dict[str, Any], format: str, width: int, color: bool, *, indent: bool = False
) -> str:
    """A tool's structured content as text.

    Args:
        format: `table`, `json` or `markdown`; `progress` shows the table.
        width: columns no line of a table exceeds.
        color: whether to use colours and status marks: only for a terminal.
        indent: whether to lay JSON out for reading.
    """
    if format == "json":
        return as_json(data, indent)
    from mcp_pools.terminal import views

    page = views.page(tool_name, data)
    if format == "markdown":
        from mcp_pools.terminal import markdown

        return markdown.draw(page)
    from mcp_pools.terminal import tables

    return tables.draw(page, width, color)


def as_json(data: Any, indent: bool) -> str:
    """Exactly the data; what a terminal would obey is escaped."""
    separators = None if indent else (",", ":")
    text = json.dumps(data, ensure_ascii=False, indent=2 if indent else None, separators=separators)
    return _RISKY_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
