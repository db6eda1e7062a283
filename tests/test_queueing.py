"""The order of a pool's queue and its lanes, held against a sorted list."""

from dataclasses import dataclass
from itertools import count

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


LANES = st.sampled_from(["", "x", "y", "z"])
"""Few lanes, so that several tasks wait in each."""


class AgainstAList(RuleBasedStateMachine):
    """Whatever is pushed, popped and removed, the queue agrees with a sorted list.

    Lanes only say which of the list's tasks count: those of closed ones are passed over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue: PoolQueue[Waiting] = PoolQueue()
        self.model: list[Waiting] = []

    @rule(
        task_id=st.sampled_from("abcdefgh"),
        priority=st.integers(-2, 2),
        created_at=st.integers(0, 90).map(float),
        lane=LANES,
    )
    def push(self, task_id: str, priority: int, created_at: float, lane: str) -> None:
        """A task of the same id takes the place of the earlier one, also in another lane."""
        task = Waiting(task_id, priority, created_at, lane)
        self.queue.push(task)
        self.model = [other for other in self.model if other.task_id != task_id] + [task]
        self.model.sort(key=lambda task: task.created_at - task.priority * AGEING_SECONDS)

    @rule()
    def pop(self) -> None:
        """The first of the list."""
        assert self.queue.peek() == self.queue.pop() == (self.model.pop(0) if self.model else None)

    @rule(open_lanes=st.sets(LANES))
    def pop_from_some(self, open_lanes: set[str]) -> None:
        """The first of the list that waits in an open lane; when none does, nothing is taken."""
        asked: list[str] = []

        def may(lane: str) -> bool:
            asked.append(lane)
            return lane in open_lanes

        found = next((task for task in self.model if task.lane in open_lanes), None)
        assert self.queue.peek(may) == self.queue.pop(may) == found
        self.model = [task for task in self.model if task is not found]
        assert set(asked) >= {task.lane for task in self.model}

    @rule(task_id=st.sampled_from("abcdefgh"))
    def remove(self, task_id: str) -> None:
        """Out of the middle, or not there at all."""
        found = next((task for task in self.model if task.task_id == task_id), None)
        assert self.queue.remove(task_id) == found
        self.model = [task for task in self.model if task is not found]

    @invariant()
    def agree(self) -> None:
        """Order, length, lanes and age are the list's."""
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)
        assert all((task_id in self.queue) == (task_id in self.ids) for task_id in "abcdefgh")
        assert set(self.queue.lanes) >= {task.lane for task in self.model}
        oldest = max((100 - task.created_at for task in self.model), default=0)
        assert self.queue.oldest(100) == oldest

    @property
    def ids(self) -> set[str]:
        """What waits."""
        return {task.task_id for task in self.model}


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


def test_what_waits_in_a_closed_lane_keeps_its_turn() -> None:
    """It is overtaken only while its lane is closed."""
    queue: PoolQueue[Waiting] = PoolQueue()
    for at, lane in enumerate("xyxy"):
        queue.push(Waiting(f"{lane}{at}", created_at=float(at), lane=lane))
    assert queue.pop(lambda lane: lane == "y") == Waiting("y1", created_at=1.0, lane="y")
    assert queue.pop(lambda lane: lane == "z") is None and len(queue) == 3
    assert [getattr(queue.pop(), "task_id", None) for _ in range(4)] == ["x0", "x2", "y3", None]


def test_a_task_that_comes_back_through_another_lane_waits_once() -> None:
    """The earlier one is gone from its own."""
    queue: PoolQueue[Waiting] = PoolQueue()
    queue.push(Waiting("a", lane="x"))
    queue.push(Waiting("a", lane="y"))
    assert queue.pop(lambda lane: lane == "x") is None
    assert queue.pop(lambda lane: lane == "y") == Waiting("a", lane="y")
    assert queue.pop() is None


def test_lanes_that_nobody_waits_in_are_let_go() -> None:
    """A thousand callers, one after the other, leave none behind."""
    queue: PoolQueue[Waiting] = PoolQueue()
    for turn in range(1000):
        queue.push(Waiting(str(turn), lane=str(turn)))
        assert queue.pop() is not None
        assert len(queue.lanes) <= 2


def test_a_closed_lane_lets_go_of_what_was_removed_from_it() -> None:
    """Though nobody pops from it."""
    queue: PoolQueue[Waiting] = PoolQueue()
    numbers = count()
    for _ in range(10_000):
        task = Waiting(str(next(numbers)), lane="closed")
        queue.push(task)
        assert queue.pop(lambda lane: lane == "open") is None
        queue.remove(task.task_id)
    assert sum(map(len, queue._lanes.values())) < 200
