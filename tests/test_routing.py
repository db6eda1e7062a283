"""Strategies over a fleet, held against a model that looks at every pool each time."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_pools.errors import PoolsError
from mcp_pools.routing import ANY, STRATEGIES, Fleet, PoolLoad, rendezvous

RNG = random.Random(7)
NAMES = st.sampled_from([f"pool-{i}" for i in range(6)])
KINDS = st.sampled_from([ANY, frozenset({"echo"}), frozenset({"echo", "sleep"}), frozenset({"prompt"})])
SELECTORS = st.sampled_from([{}, {"gpu": "yes"}, {"region": "eu"}, {"region": "eu", "gpu": "yes"}])
LIMIT = 5


def fleet_of(*pools: PoolLoad) -> Fleet:
    """A fleet that holds these pools."""
    fleet = Fleet(max_queue=LIMIT)
    for pool in pools:
        fleet.put(pool)
    return fleet


def plain(count: int) -> Fleet:
    """A fleet of equal pools `p0`, `p1`, ..."""
    return fleet_of(*(PoolLoad(name=f"p{i}", capacity=4) for i in range(count)))


class AgainstTheModel(RuleBasedStateMachine):
    """Whatever happens to the fleet, each choice is one a naive search could have made."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(max_queue=LIMIT)
        self.pools: dict[str, PoolLoad] = {}
        self.chosen: dict[str, int] = {}
        self.choices = 0

    @initialize()
    def something(self) -> None:
        """Start with a pool, so that early choices mean something."""
        self.put("pool-0", 4, ANY, {}, "default")

    @rule(
        name=NAMES,
        capacity=st.integers(0, 4),
        types=KINDS,
        labels=st.sampled_from([{}, {"gpu": "yes"}]),
        region=st.sampled_from(["default", "eu"]),
    )
    def put(
        self, name: str, capacity: int, types: frozenset[str], labels: dict[str, str], region: str
    ) -> None:
        """Add or replace a pool."""
        self.fleet.put(PoolLoad(name=name, capacity=capacity, types=types, labels=labels, region=region))
        self.pools[name] = PoolLoad(name=name, capacity=capacity, types=types, labels=labels, region=region)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        """Forget a pool, known or not."""
        self.fleet.remove(name)
        self.pools.pop(name, None)
        self.chosen.pop(name, None)

    @rule(
        name=NAMES,
        values=st.fixed_dictionaries(
            {},
            optional={
                "busy": st.integers(0, 4),
                "queued": st.integers(0, LIMIT),
                "healthy": st.booleans(),
                "open": st.booleans(),
                "capacity": st.integers(0, 4),
            },
        ),
    )
    def change(self, name: str, values: dict[str, Any]) -> None:
        """Change what is known of a pool."""
        self.fleet.change(name, **values)
        if name in self.pools:
            for key, value in values.items():
                setattr(self.pools[name], key, value)

    @rule(
        strategy=st.sampled_from(["least_loaded", "round_robin", "random", "map_reduce"]),
        task_type=st.sampled_from(["echo", "sleep", "prompt"]),
        selector=SELECTORS,
        avoid=st.one_of(st.none(), NAMES),
    )
    def choose(self, strategy: str, task_type: str, selector: dict[str, str], avoid: str | None) -> None:
        """A choice is a best candidate, or the refusal the model expects."""
        candidates = [
            pool
            for pool in self.pools.values()
            if pool.open and pool.matches(selector) and (pool.types == ANY or task_type in pool.types)
        ]
        roomy = [pool for pool in candidates if pool.queued < LIMIT]
        ready = [pool for pool in roomy if pool.healthy]
        try:
            name = self.fleet.choose(strategy, task_type=task_type, selector=selector, rng=RNG, avoid=avoid)
        except PoolsError as refused:
            assert refused.code == ("queue_full" if candidates else "unsupported")
            assert not roomy
            return
        among = ready or roomy
        if len(ready) > 1:
            among = [pool for pool in ready if pool.name != avoid]
        if strategy in ("least_loaded", "map_reduce") or not ready:
            best = min(among, key=lambda pool: (pool.load, self.chosen.get(pool.name, 0), pool.name))
            assert name == best.name
        assert name in {pool.name for pool in among}
        self.choices += 1
        self.chosen[name] = self.choices

    @rule(
        task_type=st.sampled_from(["echo", "sleep", "prompt"]),
        selector=SELECTORS,
        all=st.booleans(),
        used=st.integers(0, 4),
    )
    def spread(self, task_type: str, selector: dict[str, str], all: bool, used: int) -> None:
        """Several tasks are placed: on candidates, the one whose turn is next first, as the model has it."""
        candidates = [
            pool
            for pool in self.pools.values()
            if pool.open and pool.matches(selector) and (pool.types == ANY or task_type in pool.types)
        ]
        names = {pool.name for pool in candidates}
        assert {name for name in self.fleet if self.fleet.admits(name, task_type, selector)} == names
        assert not self.fleet.admits("nowhere", task_type, selector)
        if not candidates:
            with pytest.raises(PoolsError) as refused:
                self.fleet.rooms(task_type, selector, all=all)
            assert refused.value.code == "unsupported"
            return
        well = [pool for pool in candidates if pool.healthy]
        among = candidates if all or not well else well
        expected = sorted(among, key=lambda pool: (self.chosen.get(pool.name, 0), pool.name))
        rooms = [pool.name for pool in self.fleet.rooms(task_type, selector, all=all)]
        assert rooms == [pool.name for pool in expected]
        placed = (rooms * 2)[:used]
        self.fleet.placed(placed)
        for name in rooms[: min(used, len(rooms))]:
            self.choices += 1
            self.chosen[name] = self.choices
        if used > len(rooms):  # some have got a second one, after all had their first
            for name in rooms[: used - len(rooms)]:
                self.choices += 1
                self.chosen[name] = self.choices

    @invariant()
    def knows_the_same_pools(self) -> None:
        """The fleet holds what the model holds."""
        assert set(self.fleet) == set(self.pools)


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


@given(count=st.integers(1, 9), sizes=st.lists(st.integers(0, 20), max_size=8))
def test_rounds_of_several_are_even_within_one(count: int, sizes: list[int]) -> None:
    """Whoever had no turn in one distribution is first in the next."""
    fleet, seen = plain(count), Counter[str]()
    for size in sizes:
        names = [pool.name for pool in fleet.rooms("echo")]
        placed = [names[at % count] for at in range(size)]
        fleet.placed(placed)
        seen.update(placed)
        shares = [seen[name] for name in fleet]
        assert max(shares) - min(shares) <= 1


@given(count=st.integers(1, 9), rounds=st.integers(1, 30))
def test_round_robin_is_even_within_one(count: int, rounds: int) -> None:
    """After any number of choices no pool is more than one ahead of another."""
    fleet = plain(count)
    seen = Counter(fleet.choose("round_robin", task_type="echo", rng=RNG) for _ in range(rounds))
    shares = [seen[name] for name in fleet]
    assert max(shares) - min(shares) <= 1


def test_round_robin_stays_even_while_loads_change() -> None:
    """A pool's load is nothing to round robin."""
    fleet = plain(3)
    seen: Counter[str] = Counter()
    for turn in range(31):
        name = fleet.choose("round_robin", task_type="echo", rng=RNG)
        fleet.change(name, busy=turn % 5)
        seen[name] += 1
    assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_random_is_uniform(seed: int) -> None:
    """Chi-square over 10 pools and 10,000 choices stays under the 99.9 % quantile (27.88, 9 degrees)."""
    fleet, rng = plain(10), random.Random(seed)
    seen = Counter(fleet.choose("random", task_type="echo", rng=rng) for _ in range(10_000))
    assert sum((seen[name] - 1000) ** 2 / 1000 for name in fleet) < 27.88


def test_equal_loads_are_spread() -> None:
    """Among equally loaded pools the one chosen longest ago is next."""
    fleet = plain(4)
    first = [fleet.choose("least_loaded", task_type="echo", rng=RNG) for _ in range(4)]
    again = [fleet.choose("least_loaded", task_type="echo", rng=RNG) for _ in range(4)]
    assert first == again == ["p0", "p1", "p2", "p3"]


@given(keys=st.lists(st.text(max_size=8), min_size=1, max_size=20, unique=True), full=st.booleans())
def test_affinity_returns_home_after_a_failure(keys: list[str], full: bool) -> None:
    """A key keeps its pool; while that one is ill it has one stand-in; then it is home again."""
    fleet = plain(5)

    def where(key: str) -> str:
        return fleet.choose("affinity", task_type="echo", affinity_key=key, rng=RNG)

    homes = {key: where(key) for key in keys}
    assert homes == {key: where(key) for key in keys} == {key: fleet.home(key) for key in keys}
    ill = homes[keys[0]]
    fleet.change(ill, healthy=False)
    away = {key: where(key) for key in keys}
    assert away == {key: where(key) for key in keys}
    assert all((away[key] == home) == (home != ill) for key, home in homes.items())
    fleet.change(ill, healthy=True)
    assert homes == {key: where(key) for key in keys}


def test_affinity_is_never_moved_because_its_pool_is_full() -> None:
    """A full home refuses; other pools with room are not used."""
    fleet = plain(3)
    home = fleet.choose("affinity", task_type="echo", affinity_key="k", rng=RNG)
    fleet.change(home, queued=LIMIT)
    with pytest.raises(PoolsError, match=home) as refused:
        fleet.choose("affinity", task_type="echo", affinity_key="k", rng=RNG)
    assert (refused.value.code, refused.value.retryable) == ("queue_full", True)


def test_affinity_queues_at_an_ill_home_when_nobody_is_well() -> None:
    """Without any healthy candidate the key stays where it belongs."""
    fleet = plain(3)
    fleet.bind("k", "p1")
    for name in fleet:
        fleet.change(name, healthy=False)
    assert fleet.choose("affinity", task_type="echo", affinity_key="k", rng=RNG) == "p1"


def test_affinity_finds_a_new_home_when_the_old_one_is_gone() -> None:
    """Removal is the only thing that rebinds a key; the new home is the earlier stand-in."""
    fleet = plain(4)
    fleet.bind("k", "p2")
    fleet.change("p2", open=False)
    stand_in = fleet.choose("affinity", task_type="echo", affinity_key="k", rng=RNG)
    assert fleet.home("k") == "p2"
    fleet.remove("p2")
    assert fleet.choose("affinity", task_type="echo", affinity_key="k", rng=RNG) == stand_in
    assert fleet.home("k") == stand_in


@given(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=8, unique=True), st.text(max_size=80))
def test_rendezvous_moves_only_the_keys_of_who_left(names: list[str], key: str) -> None:
    """The winner does not change when somebody else leaves, or with the order of names."""
    winner = rendezvous(key, names)
    leaver = next(name for name in names if name != winner)
    assert rendezvous(key, [name for name in reversed(names) if name != leaver]) == winner


def test_rendezvous_spreads_keys() -> None:
    """Of 4,000 keys each of 4 names gets a quarter, give or take 15 %."""
    seen = Counter(rendezvous(f"key-{i}", "abcd") for i in range(4000))
    assert all(850 <= seen[name] <= 1150 for name in "abcd")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_refusals_say_what_was_asked_for_and_what_there_is(strategy: str) -> None:
    """`unsupported` names the task type, the selector and the pools; every strategy alike."""
    fleet = fleet_of(PoolLoad(name="a", capacity=1, types=frozenset({"echo"}), region="us"))
    with pytest.raises(PoolsError) as refused:
        fleet.choose(strategy, task_type="echo", selector={"region": "eu"}, affinity_key="k", rng=RNG)
    assert refused.value.code == "unsupported"
    for fact in ("'echo'", "region=eu", "region=us", "runs echo", "pool_register"):
        assert fact in str(refused.value)


def test_a_mistyped_strategy_gets_a_suggestion() -> None:
    """An unknown strategy and a missing key are the caller's mistakes, said as such."""
    fleet = plain(1)
    with pytest.raises(PoolsError, match=r"Did you mean 'least_loaded'\?"):
        fleet.choose("leastloaded", task_type="echo", rng=RNG)
    with pytest.raises(PoolsError, match="affinity_key"):
        fleet.choose("affinity", task_type="echo", rng=RNG)


def test_more_questions_than_views_are_answered() -> None:
    """Indexes are bounded; a question that was forgotten is answered all the same."""
    fleet = fleet_of(*(PoolLoad(name=f"p{i}", capacity=1, labels={"n": str(i)}) for i in range(100)))
    for turn in range(3):
        for i in range(100):
            assert fleet.choose("random", task_type=f"t{turn}", selector={"n": str(i)}, rng=RNG) == f"p{i}"
    assert fleet.candidates("echo", {"n": "7"}) == ["p7"]
