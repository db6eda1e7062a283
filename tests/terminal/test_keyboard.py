"""Keys: what a terminal sends, and where it leads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_pools.terminal.keyboard import SORTS, View, keys, press


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"q", ["q"]),
        (b"ss", ["s", "s"]),
        (b"\x1b[A\x1b[B", ["k", "j"]),
        (b"\x1bOA", ["k"]),
        (b"\x1b[5~\x1b[6~ ", ["page up", "page down", "page down"]),
        (b"\x1b[H\x1b[4~", ["g", "G"]),
        (b"\x1b", []),
        (b"\x00\xff\xc3\xa4", []),
    ],
)
def test_sequences_are_one_key(sent: bytes, expected: list[str]) -> None:
    """And what no key here sends is none."""
    assert keys(sent) == expected


def test_sorting_goes_round_and_starts_at_the_top() -> None:
    """A new order is neither reversed nor scrolled."""
    view = View(reverse=True, top=5)
    seen = []
    for _ in SORTS:
        view = press(view, "s", 10, 100)
        seen.append(view.sort)
    assert seen == [*SORTS[1:], SORTS[0]]
    assert (view.reverse, view.top) == (False, 0)


@pytest.mark.parametrize(
    ("typed", "top"),
    [("j", 1), ("k", 0), ("jjk", 1), ("G", 90), ("Gk", 89), ("Gg", 0), ("Gj", 90)],
)
def test_scrolling_stays_on_the_pools(typed: str, top: int) -> None:
    """A hundred pools, ten on the screen."""
    view = View()
    for key in typed:
        view = press(view, key, 10, 100)
    assert view.top == top


def test_pages_are_as_long_as_the_screen() -> None:
    """Up and down again."""
    down = press(View(), "page down", 10, 100)
    assert down.top == 10
    assert press(down, "page up", 10, 100).top == 0


@given(st.lists(st.sampled_from(["j", "k", "g", "G", "page up", "page down", "s", "r", "p", "x"])), st.data())
def test_no_keys_lead_past_the_end(typed: list[str], data: st.DataObject) -> None:
    """Also when there are fewer pools than rows."""
    shown, of = data.draw(st.integers(1, 50)), data.draw(st.integers(0, 300))
    view = View()
    for key in typed:
        view = press(view, key, shown, of)
        assert 0 <= view.top <= max(0, of - shown)
