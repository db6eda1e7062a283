"""How an owner's log looks: a JSON object a line, or, on a terminal, lines for people.

    at        RFC 3339, UTC
    level     debug, info, warning, error, critical
    event     its name; `log` for a line of a library, whose text is then `message`
    pid       of the process
    logger    the library's logger, or our module's
    trace     a traceback
    trace_id, span_id   of the call, or of the task, where there is a trace
    task_id, pool, ...  the event's facts

Secrets are masked in all of it (`redaction`), and JSON is in ASCII, so that a line is one line
whatever reads it. structlog does the rendering, for the standard library's loggers too:
importing it takes a while, so only owners do.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

from mcp_pools import tracing
from mcp_pools.events import LOGGER
from mcp_pools.redaction import redacted

Line = MutableMapping[str, Any]
Processor = Callable[[Any, str, Line], Any]

FIRST: Final = ("at", "level", "event", "pid")
"""The order in which a line begins."""


def write_to(stream: TextIO | None = None) -> None:
    """Send all that this process logs to a stream; none: its stderr."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(people=stream.isatty()))
    logging.getLogger().handlers[:] = [handler]
    set_level("info")


def set_level(level: str) -> None:
    """Write our own lines from this level on, those of libraries from warnings on; with debug, from info."""
    LOGGER.setLevel(level.upper())
    logging.getLogger().setLevel(logging.INFO if level == "debug" else logging.WARNING)


def formatter(*, people: bool) -> logging.Formatter:
    """What turns a record into a line."""
    stamp = structlog.processors.TimeStamper("iso", utc=True, key="at")
    last = _for_people() if people else [_ordered, structlog.processors.JSONRenderer()]
    return ProcessorFormatter(processors=[_facts, _trace, stamp, _clean, *last])


def _for_people() -> list[Processor]:
    return [
        _short,
        structlog.dev.ConsoleRenderer(
            timestamp_key="at", exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        ),
    ]


def _facts(logger: logging.Logger | None, name: str, line: Line) -> Line:
    """An event's name and facts; a line of words is the event `log`."""
    record: logging.LogRecord = line["_record"]
    event, facts = getattr(record, "event", None), getattr(record, "facts", None)
    known: dict[str, Any] = {"level": record.levelname.lower(), "pid": os.getpid()}
    if isinstance(event, str) and isinstance(facts, dict):
        known |= {"event": event, **facts}
    else:
        known |= {"event": "log", "message": line["event"], "logger": record.name}
    if "exc_info" in line:
        known["trace"] = logging.Formatter().formatException(line["exc_info"])
    return known


def _trace(logger: logging.Logger | None, name: str, line: Line) -> Line:
    """The trace of the call in which it was logged, unless the event says which."""
    if "trace_id" not in line and (ids := tracing.ids()) is not None:
        line["trace_id"], line["span_id"] = ids
    return line


def _clean(logger: logging.Logger | None, name: str, line: Line) -> Line:
    """Without secrets, and of JSON values only."""
    cleaned: Line = redacted(line)
    return cleaned


def _ordered(logger: logging.Logger | None, name: str, line: Line) -> Line:
    return {**{key: line[key] for key in FIRST}, **line}


def _short(logger: logging.Logger | None, name: str, line: Line) -> Line:
    """What a person at a terminal need not read on every line goes, and a traceback comes last."""
    line.pop("pid")
    if "trace" in line:
        line["exception"] = line.pop("trace")
    return line
