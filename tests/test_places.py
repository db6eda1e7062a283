"""Which numbered place a launch has."""

import pytest

from mcp_pools.places import lowest_free, place_of


@pytest.mark.parametrize(("taken", "number"), [(set(), 1), ({1, 2}, 3), ({2, 3}, 1)])
def test_the_first_that_nobody_has_is_taken(taken, number) -> None:
    """Numbers stay small."""
    assert lowest_free(taken) == number


@pytest.mark.parametrize(
    ("worker", "number"), [("cloud-7", 7), ("a-b-7", 7), ("cloud-1", 2), ("cloud-0", 2), ("cloud", 2)]
)
def test_a_launch_keeps_its_place_where_it_can(worker, number) -> None:
    """Place 1 is somebody else's."""
    assert place_of(worker, {1}) == number
