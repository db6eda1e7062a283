"""The order of a pool's queue, held against a sorted list."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcp_pools.queueing import AGEING_SECONDS, PoolQueue


@dataclass(frozen=True)
class Waiting:
    """A task, as far as a queue is concerned."""

    task_id: str
    priority: int = 0
    created_at: float = 0.0
    lane: str = ""


class AgainstAList(RuleBasedStateMachine):
    """Whatever is pushed, popped and removed, the queue agrees with a sorted list."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: PoolQueue[Waiting] = PoolQueue()
        self.model: list[Waiting] = []

    @rule(
        task_id=st.sampled_from("abcdefgh"),
        priority=st.integers(-2, 2),
        created_at=st.integers(0, 90).map(float),
    )
    def push(self, task_id: str, priority: int, created_at: float) -> None:
        """A task of the same id takes the place of the earlier one."""
        task = Waiting(task_id, priority, created_at)
        self.queue.push(task)
        self.model = [other for other in self.model if other.task_id != task_id] + [task]
        self.model.sort(key=lambda task: task.created_at - task.priority * AGEING_SECONDS)

    @rule()
    def pop(self) -> None:
        """The first of the list."""
        assert self.queue.peek() == self.queue.pop() == (self.model.pop(0) if self.model else None)

    @rule(task_id=st.sampled_from("abcdefgh"))
    def remove(self, task_id: str) -> None:
        """Out of the middle, or not there at all."""
        found = next((task for task in self.model if task.task_id == task_id), None)
        assert self.queue.remove(task_id) == found
        self.model = [task for task in self.model if task is not found]

    @invariant()
    def agree(self) -> None:
        """Order, length and age are the list's."""
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)
        oldest = max((100 - task.created_at for task in self.model), default=0)
        assert self.queue.oldest(100) == oldest


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(deadline=None, max_examples=100, stateful_step_count=60)


@given(low=st.integers(-9, 9), high=st.integers(-9, 9), arrivals=st.integers(1, 50))
def test_nothing_starves(low: int, high: int, arrivals: int) -> None:
    """A task is overtaken only by those that come within 30 s for each level they are above it."""
    queue: PoolQueue[Waiting] = PoolQueue()
    queue.push(Waiting("old", min(low, high), 0.0))
    ahead = 0
    for turn in range(arrivals * 60):
        queue.push(Waiting(str(turn), max(low, high), float(turn + 1)))
        taken = queue.pop()
        assert taken is not None
        if taken.task_id == "old":
            break
        ahead += 1
    assert ahead <= abs(high - low) * AGEING_SECONDS


def test_equal_priority_is_first_in_first_out() -> None:
    """Also among tasks that were accepted at the same instant."""
    queue: PoolQueue[Waiting] = PoolQueue()
    for name in ("b", "a", "d", "c"):
        queue.push(Waiting(name, created_at=5.0))
    assert [queue.pop() for _ in range(4)] == [Waiting(name, created_at=5.0) for name in "badc"]
    assert queue.pop() is None and queue.oldest(9.0) == 0.0


def test_what_was_removed_is_let_go() -> None:
    """Thousands of cancelled tasks leave a queue no larger than what waits."""
    queue: PoolQueue[Waiting] = PoolQueue()
    queue.push(Waiting("stays"))
    for turn in range(10_000):
        queue.push(Waiting(str(turn), created_at=1.0))
        queue.remove(str(turn))
    assert len(queue) == 1 and "stays" in queue
    assert sum(map(len, queue._lanes.values())) < 200
