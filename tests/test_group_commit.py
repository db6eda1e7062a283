"""Group commit: what shares a commit, what is applied where it is, and that nothing is lost."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from mcp_pools.group_commit import QUICK_SECONDS, GroupCommit, Outcome

pytestmark = pytest.mark.anyio


class Disk:
    """Keeps batches and where each was applied; `hold` makes the thread wait."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.hold = threading.Event()
        self.hold.set()

    def apply(self, jobs: Sequence[int]) -> Sequence[Outcome]:
        self.threads.append(threading.current_thread().name)
        if self.threads[-1] == "group-commit":
            self.hold.wait(30)
        self.batches.append(list(jobs))
        return [ValueError("odd") if job < 0 else job % 2 == 0 for job in jobs]


async def test_a_lone_change_on_a_quick_disk_is_applied_on_the_event_loop() -> None:
    """No thread is woken for it, and it is durable when its future resolves."""
    disk = Disk()
    group = GroupCommit(disk.apply)
    assert await group.add(2) is True
    assert await group.add(3) is False
    assert disk.threads == [threading.current_thread().name] * 2
    await group.close()


async def test_many_changes_of_one_turn_share_one_commit() -> None:
    """They go to the thread together, in order."""
    disk = Disk()
    group = GroupCommit(disk.apply)
    outcomes = await asyncio.gather(*(group.add(number) for number in range(100)))
    assert outcomes == [number % 2 == 0 for number in range(100)]
    assert disk.batches == [list(range(100))]
    assert disk.threads == ["group-commit"]
    await group.close()


async def test_changes_that_come_during_a_commit_share_the_next_one() -> None:
    """Also a lone one: two batches are never applied at once."""
    disk = Disk()
    disk.hold.clear()
    group = GroupCommit(disk.apply)
    first = [group.add(number) for number in range(3)]
    await asyncio.sleep(0)
    later = []
    for number in range(3, 7):
        later.append(group.add(number))
        await asyncio.sleep(0)
    assert disk.batches == []
    disk.hold.set()
    await asyncio.gather(*first, *later)
    assert [job for batch in disk.batches for job in batch] == list(range(7))
    assert set(disk.threads) == {"group-commit"}
    await group.close()


async def test_each_change_learns_its_own_outcome() -> None:
    """An exception among the outcomes is raised for its change alone."""
    group = GroupCommit(Disk().apply)
    outcomes = await asyncio.gather(*map(group.add, (2, -1, 3)), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["True", "odd", "False"]
    await group.close()


async def test_a_slow_disk_is_left_to_the_thread() -> None:
    """Once commits take long, even a lone one does not hold the event loop up."""
    disk = Disk()
    group = GroupCommit(disk.apply)
    group._usual_seconds = 2 * QUICK_SECONDS
    assert await group.add(2) is True
    assert disk.threads == ["group-commit"]
    await group.close()


async def test_a_heavy_change_is_left_to_the_thread() -> None:
    """However quick the disk is; the next light one is applied where it is again."""
    disk = Disk()
    group = GroupCommit(disk.apply)
    await group.add(2, heavy=True)
    await group.add(2)
    assert disk.threads == ["group-commit", threading.current_thread().name]
    await group.close()


async def test_closing_applies_what_was_handed_over() -> None:
    """Also what came in the same turn."""
    disk = Disk()
    group = GroupCommit(disk.apply)
    futures = [group.add(number) for number in range(10)]
    await group.close()
    assert [await future for future in futures] == [number % 2 == 0 for number in range(10)]


async def test_other_work_is_done_between_batches_and_changes_wait_for_it() -> None:
    """Nothing is applied on the event loop meanwhile; what it raises is its own."""
    disk = Disk()
    group = GroupCommit(disk.apply)
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(30)
        assert disk.batches == []

    aside = group.aside(work)
    await asyncio.to_thread(begun.wait, 30)
    change = group.add(2)
    await asyncio.sleep(0)
    may_end.set()
    assert await aside is True and await change is True
    assert disk.threads == ["group-commit"]
    with pytest.raises(ZeroDivisionError):
        await group.aside(lambda: 1 // 0 and None)
    assert await group.add(4) is True
    await group.close()


async def test_other_work_that_was_handed_over_is_done_before_closing() -> None:
    """In its turn among the batches."""
    disk, done = Disk(), []
    told: list[int] = []
    group = GroupCommit(disk.apply, lambda: told.append(1))
    disk.hold.clear()
    changes = [group.add(2) for _ in range(5)]
    await asyncio.sleep(0)
    asides = [group.aside(lambda: done.append(len(disk.batches))) for _ in range(3)]
    changes.append(group.add(4))
    disk.hold.set()
    await group.close()
    assert await asyncio.gather(*changes, *asides) == [True] * 9
    assert done[0] == done[1] == done[2] == 1 and told
