"""Who may do what over HTTP: the scopes, and the contract of whoever judges tokens.

| scope | what it allows |
|---|---|
| `pools:read` | tools that only read, resources, prompts, looking at tasks |
| `pools:execute` | the same, and to submit and cancel tasks |
| `pools:admin` | everything: also pools, and the tasks of all callers |

A token's subject is its caller's name: on tasks, events, quotas and idempotency keys. Who is
no admin sees the tasks of its own name; those of others are not there for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from mcp.server.auth.provider import AccessToken

    from mcp_pools.tool import Tool

READ: Final = "pools:read"
EXECUTE: Final = "pools:execute"
ADMIN: Final = "pools:admin"
SCOPES: Final = (READ, EXECUTE, ADMIN)
"""From the narrowest on: each covers those before it."""
METHODS: Final = {"tasks/update": EXECUTE, "tasks/cancel": EXECUTE}
"""Requests beside `tools/call` that need more than `READ`."""
RESERVED: Final = "local"
"""Who is here without a token, on the owner's own socket; no token stands for it."""
LONGEST_TOKEN: Final = 8192


class Verifier(Protocol):
    """Judges bearer tokens."""

    async def verify(self, token: str) -> AccessToken | None:
        """What a token stands for; `None` when it is not valid here.

        Raises:
            Unavailable: who would know does not answer.
        """


class Unavailable(Exception):
    """A token can be judged neither valid nor invalid just now. Its text names no token."""


def covered(scopes: Iterable[str]) -> frozenset[str]:
    """These scopes of ours and all that they cover."""
    highest = max((SCOPES.index(each) for each in scopes if each in SCOPES), default=-1)
    return frozenset(SCOPES[: highest + 1])


def scope_of(tool: Tool) -> str:
    """The scope that calling a tool needs."""
    if tool.effect == "read":
        return READ
    return EXECUTE if tool.toolset == "execution" else ADMIN
