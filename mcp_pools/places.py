"""The numbered places of a pool whose workers are made for each launch: `POOL-1`, `POOL-2`, …. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Set


def lowest_free(taken: Set[int]) -> int:
    """The first place that nobody has."""
    return next(number for number in itertools.count(1) if number not in taken)


def place_of(worker: str, taken: Set[int]) -> int:
    """The place that a worker's name says, if it is free; else the first that is."""
    _, _, said = worker.rpartition("-")
    known = int(said) if said.isdecimal() else 0
    return known if known and known not in taken else lowest_free(taken)
