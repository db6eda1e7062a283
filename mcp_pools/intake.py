"""From a call to a task that may be kept, and from a kept task to a launch.

Everything that can refuse a task is here: its type, its payload's shape and size, what
policy says, how deep tasks may start tasks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mcp_pools import tracing
from mcp_pools.adapter import Ended, Launch
from mcp_pools.distribution import items_of
from mcp_pools.errors import PoolsError, explain, nearest
from mcp_pools.filling import fill
from mcp_pools.models import Caller
from mcp_pools.policy import Judge, default_roots
from mcp_pools.secret import REFERENCE, fill_secrets, read_secret, refuse_plain_secrets, secret_names
from mcp_pools.store import TaskRow

if TYPE_CHECKING:
    from mcp_pools.settings import Settings
    from mcp_pools.task_type import TaskType

_REFERENCE = json.dumps(REFERENCE).encode()
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def new_id(kind: str) -> str:
    """An id nobody can guess: `kind`, the time in microseconds, 72 random bits. Ids sort by time."""
    return new_ids(kind, 1)[0]


def new_ids(kind: str, count: int) -> list[str]:
    """Several ids, in the order in which they sort."""
    now, random = time.time_ns() // 1000, os.urandom(9 * count).hex()
    return [f"{kind}_{now + at:014x}{random[18 * at : 18 * at + 18]}" for at in range(count)]


@contextmanager
def nesting_refused() -> Iterator[None]:
    """Refuse a payload that is nested deeper than Python goes."""
    try:
        yield
    except RecursionError:
        raise PoolsError("invalid_payload", "The payload is nested too deeply.", "Flatten it.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A task as it was asked for."""

    task_type: str
    payload: dict[str, Any]
    pool: str | None
    strategy: str
    selector: dict[str, str] | None
    affinity_key: str | None
    timeout: float
    priority: int
    max_attempts: int
    idempotency_key: str | None

    def digest(self) -> str:
        """The same for the same request."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Parts:
    """The payloads of a distribution's parts, how many items each holds, and the roots they were judged
    under.
    """

    payloads: list[bytes]
    items: list[int | None]
    roots: tuple[str, ...]


class Intake:
    """Checks requests against the task types and the policy of one configuration."""

    def __init__(self, settings: Settings, task_types: Mapping[str, TaskType]) -> None:
        self._settings = settings
        self.task_types = task_types

    def row(self, request: Request, caller: Caller) -> TaskRow:
        """The task to keep; raises `PoolsError` when it may not be."""
        kind = self.admitted(request, caller)
        with nesting_refused():
            payload, roots = self._payload(kind, request.payload, caller)
        return TaskRow(
            task_id=new_id("t"),
            payload=payload,
            roots=roots,
            pinned=request.pool is not None,
            idempotency_key=request.idempotency_key,
            request_hash=request.digest() if request.idempotency_key else None,
            trace=tracing.here(),
            **self.common(request, caller),
        )

    def admitted(self, request: Request, caller: Caller) -> TaskType:
        """The type of a task that may be kept if its payload may; raises `PoolsError`."""
        if not self._settings.pools_enabled:
            raise PoolsError("not_allowed", "Pools are switched off.", "Set pools_enabled to true.")
        kind = self._type(request.task_type)
        if caller.depth > self._settings.max_depth:
            raise PoolsError(
                "nesting_too_deep",
                f"This task would be {caller.depth} tasks deep; max_depth is {self._settings.max_depth}.",
                "Start it from outside, or raise max_depth.",
            )
        in_bounds(request)
        valid_text(request, caller)
        return kind

    def common(self, request: Request, caller: Caller) -> dict[str, Any]:
        """What a task and each part of a distribution have from their request."""
        return {
            "task_type": request.task_type,
            "caller": caller.name,
            "created_at": time.time(),
            "cwd": caller.cwd,
            "timeout": request.timeout,
            "priority": request.priority,
            "max_attempts": request.max_attempts,
            "depth": caller.depth,
            "strategy": request.strategy,
            "selector": request.selector,
            "affinity_key": request.affinity_key,
        }

    def whole(self, kind: TaskType, payload: dict[str, Any], caller: Caller) -> Parts:
        """The one payload of a broadcast."""
        with nesting_refused():
            encoded, roots = self._payload(kind, payload, caller)
        return Parts([encoded], [None], roots)

    def chunks(
        self, kind: TaskType, payload: dict[str, Any], caller: Caller, split: Callable[[int], Sequence[range]]
    ) -> Parts:
        """The payloads of runs of items, for a type that takes items; checked once, as one.

        Args:
            split: how many items -> which of them go together.
        """
        items_of(payload)
        with nesting_refused():
            self._checked_secrets(payload)
            judge = self._judge(caller)
            checked = self._judged(kind, payload, judge)
            runs = split(len(checked["items"]))
            rest = self._encoded({key: value for key, value in checked.items() if key != "items"})
            head = rest[:-1] + (b"," if len(rest) > 2 else b"") + b'"items":'
            chunks = [checked["items"][run.start : run.stop] for run in runs]
            encoded = [head + self._encoded(chunk) + b"}" for chunk in chunks]
        return self._together(Parts(encoded, [len(run) for run in runs], tuple(judge.roots)))

    def filled_items(self, kind: TaskType, payload: dict[str, Any], caller: Caller) -> Parts:
        """A payload for each item, `{item}` and `{item.key}` filled in, for a type that takes none.

        A text that is nothing but a placeholder becomes the item itself; where the type wants text
        there, its text.
        """
        items = items_of(payload)
        template = {key: value for key, value in payload.items() if key != "items"}
        with nesting_refused():
            self._checked_secrets(payload)
            judge = self._judge(caller)
            encoded = []
            for index, item in enumerate(items):
                try:
                    encoded.append(self._encoded(self._filled_item(kind, template, item, judge)))
                except PoolsError as refused:
                    message = f"Item {index}: {refused.message}"
                    raise PoolsError(refused.code, message, refused.next) from None
        return self._together(Parts(encoded, [None] * len(items), tuple(judge.roots)))

    def _filled_item(
        self, kind: TaskType, template: dict[str, Any], item: Any, judge: Judge
    ) -> dict[str, Any]:
        try:
            return self._judged(kind, fill(template, item, whole=True), judge)
        except PoolsError as refused:
            as_text = fill(template, item, whole=False)
            if refused.code != "invalid_payload" or isinstance(item, str):
                raise
            try:
                return self._judged(kind, as_text, judge)
            except PoolsError:
                raise refused from None

    def _together(self, parts: Parts) -> Parts:
        size, limit = sum(map(len, parts.payloads)), self._settings.max_payload_bytes
        if size > limit:
            raise PoolsError(
                "invalid_payload",
                f"The parts together have {size} bytes; max_payload_bytes is {limit}.",
                "Put the data in files and name the files, or distribute fewer items at a time.",
            )
        return parts

    def _type(self, name: str) -> TaskType:
        kind = self.task_types.get(name)
        if kind is None:
            message = f"There is no task type {name!r}."
            raise PoolsError("unknown_task_type", message, nearest(name, self.task_types))
        return kind

    def _payload(
        self, kind: TaskType, payload: dict[str, Any], caller: Caller
    ) -> tuple[bytes, tuple[str, ...]]:
        """The payload as it is kept, and the roots it was judged under."""
        self._checked_secrets(payload)
        judge = self._judge(caller) if kind.check is not None else None
        checked = self._judged(kind, payload, judge)
        return self._encoded(checked), () if judge is None else tuple(judge.roots)

    def _checked_secrets(self, payload: dict[str, Any]) -> None:
        refuse_plain_secrets(payload)
        self._known_secrets(payload)

    def _judge(self, caller: Caller) -> Judge:
        allow = self._settings.allow
        roots = allow.roots
        if roots is None:
            roots = default_roots(caller.cwd, os.path.expanduser("~"))
        return Judge(allow, roots, caller.cwd)

    def _judged(self, kind: TaskType, payload: dict[str, Any], judge: Judge | None) -> dict[str, Any]:
        """The payload as its type's model has it and policy lets it be."""
        checked = validated(kind, payload)
        return checked if kind.check is None or judge is None else kind.check(checked, judge)

    def _encoded(self, payload: Any) -> bytes:
        try:
            encoded = _encode(payload).encode()
        except (TypeError, ValueError, RecursionError) as error:
            message = f"The payload cannot be written as JSON: {error}."
            raise PoolsError("invalid_payload", message, "Use finite numbers and valid text.") from None
        limit = self._settings.max_payload_bytes
        if len(encoded) > limit:
            message = f"The payload has {len(encoded)} bytes; max_payload_bytes is {limit}."
            raise PoolsError("invalid_payload", message, "Put the data in a file and name the file.")
        return encoded

    def _known_secrets(self, payload: dict[str, Any]) -> None:
        for name in secret_names(payload):
            if name not in self._settings.secrets:
                hint = (
                    nearest(name, self._settings.secrets) or "Add it under secrets in the configuration file."
                )
                raise PoolsError("not_allowed", f"There is no secret {name!r} in the configuration.", hint)

    def launch(self, row: TaskRow, payload: bytes) -> Launch:
        """The launch of a task that is kept as running; without a handler when its type is gone."""
        return Launch(
            attempt_id=row.attempt_id,
            task_id=row.task_id,
            attempt=row.attempt,
            task_type=row.task_type,
            handler=self.task_types[row.task_type].handler if row.task_type in self.task_types else "",
            payload=payload,
            timeout=row.timeout,
            cwd=row.cwd,
            roots=row.roots,
            depth=row.depth,
            worker=row.worker or "",
            seq=row.seq,
            traceparent=None if row.trace is None else tracing.run_of(row.trace, row.attempt_id),
        )

    def needs_secrets(self, row: TaskRow) -> bool:
        """Whether a payload must be filled before it goes out."""
        return _REFERENCE in row.payload

    async def filled(self, payload: bytes) -> tuple[bytes, tuple[str, ...]]:
        """The payload with its secrets, read now, and what they are; they are in no store and no log."""
        sources = {
            name: source.model_dump(exclude_none=True, mode="json")
            for name, source in self._settings.secrets.items()
        }

        read: dict[str, str] = {}

        def fill() -> bytes:
            whole = json.loads(payload)
            read.update((name, read_secret(name, sources)) for name in secret_names(whole))
            return json.dumps(fill_secrets(whole, read.__getitem__)).encode()

        return await asyncio.to_thread(fill), tuple(read.values())

    def within_limits(self, ended: Ended) -> Ended:
        """The end of an attempt, unless its result is larger than results may be."""
        size, limit = len(ended.result or b""), self._settings.max_result_bytes
        if size <= limit:
            return ended
        message = f"The result has {size} bytes; max_result_bytes is {limit}. Write it to a file instead."
        return replace(ended, code="result_too_large", result=None, message=message)


def in_bounds(request: Request) -> None:
    """Refuse numbers out of bounds; calls from Python come without any check."""
    bounds = {
        "timeout": (request.timeout > 0, "more than 0 seconds"),
        "max_attempts": (1 <= request.max_attempts <= 100, "1 to 100"),
        "priority": (-100 <= request.priority <= 100, "-100 to 100"),
    }
    for name, (holds, wanted) in bounds.items():
        if not holds:
            message = f"{name} is {getattr(request, name)!r}."
            raise PoolsError("invalid_payload", message, f"Give {wanted}.")


def valid_text(request: Request, caller: Caller) -> None:
    """Refuse text that is no Unicode (lone surrogates): no store can hold it."""
    texts = {"idempotency_key": request.idempotency_key, "affinity_key": request.affinity_key}
    texts |= {"the working directory": caller.cwd}
    texts |= {f"selector {key!r}": key + value for key, value in (request.selector or {}).items()}
    for name, text in texts.items():
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            message = f"{name} holds a character that is no Unicode text."
            raise PoolsError("invalid_payload", message, "Leave it out.") from None


def validated(kind: TaskType, payload: dict[str, Any]) -> dict[str, Any]:
    """The payload as its type's model has it; raises `PoolsError` `invalid_payload` naming the field."""
    from pydantic import ValidationError
    from pydantic_core import PydanticSerializationError

    try:
        model = kind.payload.model_validate(payload)
        dumped: dict[str, Any] = model.model_dump(mode="json", by_alias=True)
    except PydanticSerializationError as unwritable:
        message = f"The payload of {kind.name!r} cannot be written as JSON: {unwritable}."
        raise PoolsError("invalid_payload", message, "Give text, numbers, lists and objects.") from None
    except ValidationError as invalid:
        raise PoolsError(
            "invalid_payload",
            f"The payload of {kind.name!r} is wrong: {explain(invalid)}.",
            f"See `mcp-pools task-types {kind.name}`, or the resource pools://task-types.",
        ) from None
    return dumped
