"""What a live view has seen: pools, the latest events, and how fast tasks end.

Pure: a snapshot and an answer of `pool_watch` make the next snapshot; the clock is an
argument. A snapshot never changes and is of bounded size, however long one looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

Record = dict[str, Any]

MOST_EVENTS: Final = 200
"""Events in one answer of `pool_watch`; a full answer means that there are more."""
KEPT_EVENTS: Final = 100
RATE_SECONDS: Final = 10.0
"""Throughput is an average over this long."""
HISTORY_SECONDS: Final = 60.0
_BUCKET_SECONDS: Final = 0.5
_ENDS: Final = {"completed": False, "failed": True, "timed_out": True}
"""Statuses that count as finished, and whether as failed."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tasks that finished about the same time, by pool. `at`: seconds of a monotonic clock."""

    at: float
    finished: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Observed:
    """All that the view shows; times are seconds of a monotonic clock.

    `events`: the newest last. `failed` and `finished`: tasks since `since`, by pool. `behind`:
    more events wait than one answer holds. `trouble`: why there is nothing new.
    """

    cursor: str | None
    since: float
    pools: tuple[Record, ...] = ()
    events: tuple[Record, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    finished: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    behind: bool = False
    trouble: str = ""

    def with_trouble(self, words: str, forget_cursor: bool = False) -> Observed:
        """The same, and why it is not newer."""
        return replace(self, trouble=words, behind=False, cursor=None if forget_cursor else self.cursor)

    def rates(self, now: float) -> Mapping[str, float]:
        """Tasks that finished per second, on every pool on which some did lately."""
        long = max(min(RATE_SECONDS, now - self.since), 1.0)
        total: Counter[str] = Counter()
        for each in self.buckets:
            if each.at > now - RATE_SECONDS:
                total.update(each.finished)
        return {pool: count / long for pool, count in total.items()}

    def history(self, now: float, steps: int) -> list[int]:
        """Tasks that finished in each step of the last minute, the newest last."""
        counts = [0] * steps
        for each in self.buckets:
            step = int((now - each.at) / HISTORY_SECONDS * steps)
            if 0 <= step < steps:
                counts[-1 - step] += sum(each.finished.values())
        return counts


def first(answer: Record, now: float) -> Observed:
    """What the first answer shows. Its events are from before: they count for no rate."""
    return Observed(answer["cursor"], now, tuple(answer["pools"]), tuple(answer["events"]))


def take(seen: Observed, answer: Record, now: float) -> Observed:
    """What is seen after one more answer."""
    if seen.cursor is None:
        return first(answer, now)
    events: list[Record] = answer["events"]
    finished: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for pool, status, count in (end for event in events for end in _ends(event)):
        finished[pool] += count
        failed[pool] += count * _ENDS[status]
    return Observed(
        cursor=answer["cursor"],
        since=seen.since,
        pools=tuple(answer["pools"]),
        events=(*seen.events, *events)[-KEPT_EVENTS:],
        buckets=_with(seen.buckets, finished, now),
        finished=Counter(seen.finished) + finished,
        failed=Counter(seen.failed) + failed,
        behind=len(events) >= MOST_EVENTS,
    )


def _ends(event: Record) -> Iterator[tuple[str, str, int]]:
    """What an event tells of ends: pool, status, how many tasks. One of a distribution tells of many."""
    kind, _, status = event["kind"].partition(".")
    if kind == "task" and status in _ENDS:
        yield event.get("pool") or "", status, 1
    elif kind == "distribution":
        for pool, counts in event["data"].get("pools", {}).items():
            yield from ((pool, status, count) for status, count in counts.items() if status in _ENDS)


def _with(buckets: tuple[Bucket, ...], finished: Counter[str], now: float) -> tuple[Bucket, ...]:
    """The buckets of the last minute, the newest joined by what comes right after it."""
    kept = tuple(each for each in buckets if each.at > now - HISTORY_SECONDS)
    if not finished:
        return kept
    if kept and now - kept[-1].at < _BUCKET_SECONDS:
        return (*kept[:-1], Bucket(kept[-1].at, Counter(kept[-1].finished) + finished))
    return (*kept, Bucket(now, finished))
