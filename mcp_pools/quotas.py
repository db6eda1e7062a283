"""How often and how many at once: limits of pools and of callers.

Pure: no I/O; the clock is an argument. A *rate* is a bucket of tokens: each start takes
one, they come back at `rate` a second, and `burst` of them may lie there. *Concurrency*
bounds what runs at the same time. A limit whose name is a glob holds for each pool or
caller that it matches, separately; a task must fit all that match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["pool", "caller"]
Reason = Literal["rate_limited", "concurrency_limited"]


@dataclass(frozen=True, slots=True)
class Limit:
    """What one pool or caller may use: `rate` starts a second, `concurrency` tasks at a time."""

    rate: float | None = None
    burst: int | None = None
    """Starts at once after a quiet time; none: a second's worth, at least 1."""
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a task may not start yet: whose limit, which one, and in how many seconds to ask again.

    `seconds` is `None` when only the end of another task helps.
    """

    reason: Reason
    kind: Kind
    name: str
    limit: float
    seconds: float | None

    @property
    def message(self) -> str:
        """The same in words."""
        if self.seconds is None:
            return f"The {self.kind} {self.name} runs as many tasks as its limit allows: {self.limit:g}."
        return f"The {self.kind} {self.name} may start {self.limit:g} tasks a second."


@dataclass(slots=True)
class _Meter:
    """One limit at work for one name."""

    kind: Kind
    name: str
    limit: Limit
    running: int = 0
    tokens: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    @property
    def burst(self) -> float:
        return float(self.limit.burst or max(1.0, self.limit.rate or 0.0))

    def refill(self, now: float) -> None:
        if self.limit.rate is not None:
            self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.limit.rate)
            self.at = max(now, self.at)

    def refused(self, now: float) -> Refused | None:
        most = self.limit.concurrency
        if most is not None and self.running >= most:
            return Refused("concurrency_limited", self.kind, self.name, most, None)
        self.refill(now)
        rate = self.limit.rate
        # A hair's breadth: waiting exactly as long as was said must be enough.
        if rate is not None and self.tokens < 1 - 1e-6:
            return Refused("rate_limited", self.kind, self.name, rate, (1 - self.tokens) / rate)
        return None


class Quotas:
    """The limits of one configuration, and how far each is used.

    Args:
        pools, callers: limits by name or glob. Times are monotonic seconds.
    """

    def __init__(
        self, pools: Mapping[str, Limit] | None = None, callers: Mapping[str, Limit] | None = None
    ) -> None:
        self._limits: dict[Kind, Mapping[str, Limit]] = {"pool": pools or {}, "caller": callers or {}}
        self._meters: dict[tuple[Kind, str], list[_Meter]] = {}
        self.limited = bool(pools or callers)
        """Whether there is any limit at all."""

    def refused(self, pool: str, caller: str, now: float) -> Refused | None:
        """Why a task of `caller` may not start on `pool` now, or `None`. Of several, what lasts longest."""
        found = [meter.refused(now) for meter in self._of(pool, caller)]
        return max(filter(None, found), key=_lasts, default=None)

    def started(self, pool: str, caller: str, now: float) -> None:
        """A task has been given a place."""
        for meter in self._of(pool, caller):
            meter.refill(now)
            meter.tokens -= 1
            meter.running += 1

    def ended(self, pool: str, caller: str) -> None:
        """Its place is free again; the end of one that was never counted, as an earlier owner had
        started it, frees none.
        """
        for meter in self._of(pool, caller):
            meter.running = max(meter.running - 1, 0)

    def _of(self, pool: str, caller: str) -> Sequence[_Meter]:
        if not self.limited:
            return ()
        return [*self._meters_of("pool", pool), *self._meters_of("caller", caller)]

    def _meters_of(self, kind: Kind, name: str) -> list[_Meter]:
        meters = self._meters.get((kind, name))
        if meters is None:
            matching = [limit for glob, limit in self._limits[kind].items() if fnmatchcase(name, glob)]
            meters = self._meters[kind, name] = [_Meter(kind, name, limit) for limit in matching]
        return meters


def _lasts(refused: Refused) -> float:
    return float("inf") if refused.seconds is None else refused.seconds
