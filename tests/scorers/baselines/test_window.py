"""The sliding window of work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvroute.scorers.baselines.window import Window


def test_work_leaves_after_its_time() -> None:
    """180 s in parts of 3 s: what came at 1 s is still there at 179.9 s and gone at 180 s."""
    window = Window(180.0)
    window.add("a", 2.0, 1.0)
    window.add("b", 3.0, 100.0)
    assert window.seconds(["a", "b", "c"], 179.9).tolist() == [2.0, 3.0, 0.0]
    assert window.seconds(["a", "b", "c"], 180.0).tolist() == [0.0, 3.0, 0.0]


def test_an_empty_window_holds_nothing() -> None:
    """Replicas without work in it, gone ones too, take no memory."""
    window = Window(180.0)
    for number in range(1000):
        window.add(f"replica-{number}", 0.1, float(number))
    assert len(window._sums) <= 180
    window.seconds([], 1e6)
    assert not window._sums
    assert not window._slots


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 100.0), st.floats(0.0, 20.0)), max_size=60))
def test_sums_are_what_was_added(works: list[tuple[str, float, float]]) -> None:
    """Whatever came and went, the sums are those of the parts that are left, to a nanosecond each, and never below."""
    window = Window(60.0)
    now = 0.0
    added = []
    for name, seconds, later in works:
        now += later
        window.add(name, seconds, now)
        added.append((name, seconds, now))
    for name in "ab":
        left = sum(seconds for one, seconds, when in added if one == name and now // 1.0 - when // 1.0 < 60)
        assert abs(window.seconds([name], now).item() - left) < 1e-7
