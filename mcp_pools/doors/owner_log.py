"""An owner's events: one line of JSON each, on stderr, which is `owner.log` when it is detached."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from typing import Any

_LOGGER = logging.getLogger("mcp_pools")


def say(event: str, **facts: Any) -> None:
    """Write one event. Inside an `except` block its traceback goes along as `trace`."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    trace = {"trace": traceback.format_exc()} if sys.exc_info()[0] else {}
    _LOGGER.info(json.dumps({"at": at, "event": event, "pid": os.getpid(), **facts, **trace}, default=str))


def write_to_stderr() -> None:
    """Send the events of this process to its stderr."""
    _LOGGER.handlers[:] = [logging.StreamHandler(sys.stderr)]
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False
