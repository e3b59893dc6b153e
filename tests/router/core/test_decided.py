"""The decision log's lines: chains told once, and found again."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.core.decided import VERSION, Broken, Decided, Line, Restored, Shortened, packed, unpacked
from kvroute.scorers.contract import Request

KEY = st.integers(0, 2**64 - 1)


def line(keys: list[int], name: str = "a") -> Decided:
    """A request's line."""
    return Decided(VERSION, name, 0.0, 0.0, 0.0, (1, 0, 2), "completed", keys=keys)


def chain(*steps: int) -> list[int]:
    """Keys of a path through a tree: equal exactly when all before is equal."""
    return [hash(steps[: i + 1]) % 2**64 for i in range(len(steps))]


@given(st.lists(KEY, max_size=50))
def test_keys_survive_their_text(keys: list[int]) -> None:
    """All 64 bits of each."""
    assert unpacked(packed(keys)) == keys


@pytest.mark.parametrize("text", ["AAAA", "!", "AAAAAAAAAAA", "é"])
def test_what_is_no_text_of_keys_is_refused(text: str) -> None:
    """Half keys, other characters."""
    with pytest.raises(Broken):
        unpacked(text)


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=40), st.integers(1, 20))
def test_what_is_left_out_is_found_again(paths: list[list[int]], remembered: int) -> None:
    """Whatever prompts share, and however little is remembered of what was told."""
    shortened, restored = Shortened(remembered), Restored()
    for steps in paths:
        keys = chain(*steps)
        told = line(list(keys))
        shortened.shorten(told)
        read = msgspec.json.decode(msgspec.json.encode(told), type=Line)
        assert isinstance(read, Decided)
        restored.restore(read)
        assert read.keys == keys
        assert (read.after, read.chain) == (None, "")


def test_a_conversation_costs_its_new_turns() -> None:
    """Nothing is told twice."""
    shortened = Shortened()
    sizes = []
    for turns in range(1, 6):
        told = line(chain(*range(40 * turns)))
        shortened.shorten(told)
        sizes.append(len(unpacked(told.chain)))
    assert sizes == [40] * 5


def test_memory_of_what_was_told_is_bounded() -> None:
    """Two generations; what falls out is told again."""
    shortened = Shortened(100)
    for number in range(50):
        shortened.shorten(line(chain(number, *range(30))))
    assert len(shortened._young) + len(shortened._old) < 300
    again = line(chain(0, *range(30)))
    shortened.shorten(again)
    assert (again.after, len(unpacked(again.chain))) == (None, 31)


def test_a_chain_without_its_beginning_is_refused() -> None:
    """The file was cut, or lines were lost."""
    with pytest.raises(Broken, match="no line before it has told key 5"):
        Restored().restore(Decided(VERSION, "a", 0.0, 0.0, 0.0, (1, 0, 2), "failed", after=5))


def test_a_line_has_the_request_that_was_decided_on() -> None:
    """Field by field."""
    request = Request("a", "m", 100, [1, 2], 32.0, "lora", "s", 7, -1, 2, True, 50)
    known = {name: getattr(request, name) for name in request.__struct_fields__ if name != "id"}
    assert Decided(VERSION, "a", 0.0, 0.0, 0.0, (1, 0, 2), "completed", **known).request() == request


def test_a_usual_line_is_short() -> None:
    """What is as it mostly is goes without saying."""
    told = line(chain(1, 2))
    Shortened().shorten(told)
    assert len(msgspec.json.encode(told)) < 200
