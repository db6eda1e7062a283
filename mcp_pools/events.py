"""What happens, in the words that the event log, the owner's log and CloudEvents share.

An event is a name such as `pool.unhealthy` and facts about it. `say` is for what only this
process need know; what `tell` writes is in the event log as well, and what it writes at which
level is here. Every line goes through the standard library's loggers: `logs` decides how it
looks, and a program that opens a router itself decides that as it does for any library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mcp_pools.store import EventRow

LOGGER: Final = logging.getLogger("mcp_pools")

LEVELS: Final = {"pool.unhealthy": logging.WARNING, "pool.degraded": logging.WARNING}
"""Events of the event log that are worth a warning."""
_QUIET: Final = ("task.", "distribution.progress")
"""The start of those that only `log_level: debug` writes: there may be thousands a second."""


def say(event: str, level: int = logging.INFO, **facts: Any) -> None:
    """Write one event. Inside an `except` block its traceback goes along as `trace`."""
    if LOGGER.isEnabledFor(level):
        extra = {"event": event, "facts": facts}
        LOGGER.log(level, "%s%s", event, _Words(facts), extra=extra, exc_info=sys.exc_info()[0] is not None)


def tell(event: EventRow, ids: Mapping[str, str]) -> None:
    """Write an event of the event log. `ids`: its trace, if it has one."""
    level = level_of(event.kind)
    if LOGGER.isEnabledFor(level):
        known = {"pool": event.pool, "task_id": event.task_id, **event.data, **ids}
        facts = {name: value for name, value in known.items() if value is not None}
        extra = {"event": event.kind, "facts": facts}
        LOGGER.log(level, "%s%s", event.kind, _Words(facts), extra=extra)


def level_of(kind: str) -> int:
    """The level at which an event of the event log is written."""
    return LEVELS.get(kind) or (logging.DEBUG if kind.startswith(_QUIET) else logging.INFO)


class _Words:
    """Facts as text, made only if somebody reads it as text."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def __str__(self) -> str:
        from mcp_pools.redaction import redacted

        return "".join(f" {name}={value!r}" for name, value in redacted(self._facts).items())
