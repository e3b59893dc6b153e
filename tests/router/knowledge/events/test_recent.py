"""Batches that were applied lately."""

from __future__ import annotations

from kvroute.router.knowledge.events.recent import Recent


def test_the_last_batches_are_known_by_their_content() -> None:
    """Same, another, or not remembered: too old, not yet seen, forgotten."""
    recent = Recent()
    assert recent.is_same(0, b"0") is None
    for sequence in range(5, 2000):
        recent.note(sequence, b"%d" % sequence)
    assert recent.is_same(1999, b"1999") is True
    assert recent.is_same(976, b"976") is True
    assert recent.is_same(1500, b"other") is False
    assert recent.is_same(975, b"975") is None
    assert recent.is_same(2000, b"2000") is None
    recent.clear()
    assert recent.is_same(1999, b"1999") is None


def test_what_was_never_applied_is_not_known() -> None:
    """Numbers below the first one."""
    recent = Recent()
    recent.note(5, b"5")
    assert recent.is_same(4, b"4") is None
