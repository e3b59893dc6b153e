"""The canary."""

from __future__ import annotations

import pytest

from kvroute.router.core.canary import ENOUGH, WINDOW, Canary, Comparison, Hint
from kvroute.router.core.sources import Source


def one(predicted: float, reported: float, **kind: bool) -> Comparison:
    """A request with a tolerance of 16 tokens."""
    return Comparison(predicted, reported, 16.0, **kind)


def nothing(prompt: int) -> Comparison:
    """A prompt of which nothing is found."""
    return Comparison(900.0, 0.0, 16.0, prompt=prompt)


def hint(canary: Canary, **facts: bool) -> Hint:
    """The hint where prompts are tokenised, events come and their blocks fit, unless said otherwise."""
    return canary.hint(Source.EXACT, **{"tokenized": True, "events_seen": True, "mismatched": False, **facts})


def test_agreement_is_quiet() -> None:
    """Differences of a block mean nothing: the engine computes the end of a full hit again."""
    canary = Canary()
    for _ in range(WINDOW):
        canary.saw(one(1024.0, 1008.0))
    assert not canary.alarm
    assert canary.disagreement == 0.0
    assert hint(canary) is Hint.NONE


def test_parting_raises_the_alarm_once_and_agreement_ends_it() -> None:
    """The alarm is raised when a quarter is off, not before enough requests were seen, and ends when they agree."""
    canary = Canary()
    changes = [canary.saw(one(1000.0, 0.0)) for _ in range(ENOUGH)]
    assert changes == [False] * (ENOUGH - 1) + [True]
    assert (canary.alarm, canary.alarms) == (True, 1)
    for _ in range(WINDOW):
        canary.saw(one(1000.0, 1000.0))
    assert (canary.alarm, canary.alarms) == (False, 1)


def test_cold_requests_say_nothing() -> None:
    """Prompts that nobody believes to be cached and that are not do not count as agreement or alarm."""
    canary = Canary()
    for _ in range(WINDOW):
        canary.saw(one(0.0, 0.0))
    assert (canary.alarm, canary.disagreement) == (False, 0.0)


@pytest.mark.parametrize(("kind", "expected"), [("adapter", Hint.ADAPTER), ("salted", Hint.SALT), ("chat", Hint.CHAT)])
def test_a_kind_that_alone_is_off_is_named(kind: str, expected: Hint) -> None:
    """Where plain requests agree and one kind does not, the hint is that kind's."""
    canary = Canary()
    for _ in range(ENOUGH):
        canary.saw(one(500.0, 500.0))
        canary.saw(one(0.0, 900.0, **{kind: True}))
    assert canary.alarm
    assert hint(canary) is expected


@pytest.mark.parametrize(
    ("predicted", "reported", "facts", "expected"),
    [
        (0.0, 900.0, {}, Hint.TOKENIZER),
        (0.0, 900.0, {"tokenized": False}, Hint.UNSEEN),
        (900.0, 100.0, {}, Hint.EVICTED),
        (0.0, 900.0, {"mismatched": True}, Hint.BLOCK_SIZE),
        (0.0, 900.0, {"events_seen": False}, Hint.NO_EVENTS),
    ],
)
def test_the_hint_follows_the_direction(
    predicted: float, reported: float, facts: dict[str, bool], expected: Hint
) -> None:
    """More found than known points at the lens, less found than believed at evictions, silence at the publisher."""
    canary = Canary()
    for _ in range(ENOUGH):
        canary.saw(one(predicted, reported))
    assert hint(canary, **facts) is expected


def test_a_reset_shows_as_nothing_found_by_several_prompts() -> None:
    """Three prompts in a row that find nothing of much are a reset; one that is repeated is not, nor are evictions."""
    canary = Canary()
    for prompt in (1, 1, 1, 2):
        canary.saw(nothing(prompt))
    assert not canary.reset_suspected
    canary.saw(nothing(3))
    assert canary.reset_suspected
    canary.forget()
    assert not canary.reset_suspected
    canary.saw(nothing(1))
    canary.saw(nothing(2))
    canary.saw(one(900.0, 880.0))
    canary.saw(nothing(3))
    assert not canary.reset_suspected
