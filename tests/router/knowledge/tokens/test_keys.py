"""Keys of tokens, taken up again at earlier cuts, equal keys of the whole text; and what is remembered is bounded."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core import blocks
from kvroute.router.knowledge.tokens.keys import PAGE, TokenKeys
from kvroute.router.knowledge.tokens.segments import Segments
from tests.router.knowledge.tokens.tokenizers_made import made

BLOCK = 4
ROOT = 11

_bodies = st.builds(
    lambda unit, times: unit * times,
    st.sampled_from(["word ", "<|a|>", "<|a|>b", "x", "é 漢", "<s>", "lines\n", "<|im_end|>\n", "<|im_"]),
    st.integers(0, 60),
)
_talks = st.lists(st.lists(_bodies, max_size=5).map("".join), min_size=1, max_size=6)


@functools.cache
def segments(family: str) -> Segments:
    return Segments(made(family))


def keyed(keys: TokenKeys, one: Segments, text: str, root: int = ROOT, special: bool = False) -> tuple[list[int], int]:
    """The keys of a text, with whatever is remembered."""
    found = keys.find(root, text)
    pieces = one.pieces(text, found.at, special)
    for piece in pieces:
        if piece.packed is None and piece.key is not None:
            piece.packed = one.encoded(text[piece.start : piece.end], piece.key[1])
            one.keep(piece.key, piece.packed)
    around = one.around(special)
    assert around is not None
    return keys.keys(root, text, found, pieces, around)


def whole(one: Segments, text: str, root: int = ROOT, special: bool = False) -> tuple[list[int], int]:
    packed = one.encode_whole(text, special)
    return blocks.extend(root, packed, BLOCK * blocks.TOKEN_BYTES), len(packed) // blocks.TOKEN_BYTES


@pytest.mark.parametrize("family", ["bytes", "metaspace-first", "wordpiece"])
@settings(max_examples=60, deadline=None)
@given(
    talks=_talks,
    most=st.integers(1, 12),
    room=st.sampled_from([10, 100_000]),
    page=st.integers(1, 100),
    special=st.booleans(),
)
def test_taking_up_equals_hashing_the_whole(
    family: str, talks: list[str], most: int, room: int, page: int, special: bool
) -> None:
    """Whatever texts came before, one a longer form of another, cut anywhere, and when most are forgotten again."""
    one = segments(family)
    keys = TokenKeys(one, BLOCK, most=most, most_blocks=room, page=page)
    text = ""
    for more in talks:
        for shown in (more, text + more, (text + more)[: len(text) + len(more) // 2], text + more):
            assert keyed(keys, one, shown, special=special) == whole(one, shown, special=special)
        text += more
        assert len(keys) <= most
        assert keys.blocks <= room or len(keys) <= 1


def talk(messages: int, size: int = 2000) -> str:
    return "".join(f"<|im_start|>user\n{str(number) * size}<|im_end|>\n" for number in range(10, 10 + messages))


def test_a_next_turn_begins_at_the_last_cut() -> None:
    """Behind a text that was seen before, only what is new is cut and encoded: from its last special token on."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK)
    before = talk(20) + "<|im_start|>assistant\n"
    keyed(keys, one, before)
    longer = before + "An answer.<|im_end|>\n" + "<|im_start|>user\nmore<|im_end|>\n"
    assert keys.find(ROOT, longer).at == len(before) - len("assistant\n")
    assert keyed(keys, one, longer) == whole(one, longer)


def test_a_last_message_longer_than_pages_is_not_read_again() -> None:
    """The place behind it is known although no page ends there."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK)
    text = talk(1, size=5 * PAGE)
    keyed(keys, one, text)
    assert keys.find(ROOT, text + "<|im_start|>assistant\n").at == len(text) - 1


def test_conversations_that_share_their_beginning_part_there() -> None:
    """Many conversations behind one long system prompt: each goes on from the shared page, at the least."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK)
    system = talk(3, size=PAGE)
    for number in range(12):
        text = f"{system}<|im_start|>user\nquestion {number}<|im_end|>\n"
        assert keyed(keys, one, text) == whole(one, text)
        if number:
            assert keys.find(ROOT, text).at >= len(system) - 1


def test_other_roots_share_nothing() -> None:
    """An adapter's keys are never taken for another's."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK)
    text = talk(6)
    for root in (1, 2, 1):
        assert keyed(keys, one, text, root) == whole(one, text, root)


def test_turns_of_one_conversation_share_their_keys() -> None:
    """A hundred turns keep the keys of the longest, not of all."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK)
    text = ""
    for number in range(100):
        text += f"<|im_start|>user\n{str(number) * 300}<|im_end|>\n"
        found, _ = keyed(keys, one, text)
    assert keys.blocks <= len(found)
    assert found == whole(one, text)[0]


def test_memory_is_bounded_under_prompts_that_never_return() -> None:
    """Places, keys and lengths of parts stay within their bounds."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK, most=20, most_blocks=5000)
    for number in range(60):
        keyed(keys, one, f"<s>{number}</s>" + talk(3))
    assert len(keys) <= 20
    assert keys.blocks <= 5000
    assert len(keys._lengths) <= 20


def test_what_is_kept_is_counted_although_it_was_forgotten_meanwhile() -> None:
    """A text whose place goes while it is being encoded: its keys are counted in again, and out only once."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK, most=3)
    text = talk(3)
    keyed(keys, one, text)
    for number in range(4):
        longer = f"{text}{talk(2)}<|im_start|>user\n{number}"
        found = keys.find(ROOT, longer)
        assert found.place is not None
        keyed(keys, one, f"<s>{number}</s>" + talk(4))
        pieces = one.pieces(longer, found.at, False)
        one_by_one = [piece for piece in pieces if piece.packed is None and piece.key is not None]
        for piece in one_by_one:
            assert piece.key is not None
            piece.packed = one.encoded(longer[piece.start : piece.end], piece.key[1])
        assert keys.keys(ROOT, longer, found, pieces, (b"", b"")) == whole(one, longer)
        chains = {id(place.chain): place.chain for place in keys._places.values()}
        assert keys.blocks == sum(len(chain.keys) for chain in chains.values())
        keyed(keys, one, text)


def test_answers_are_not_shared_with_later_turns() -> None:
    """A list of keys once given does not grow when the conversation goes on."""
    one = segments("bytes")
    keys = TokenKeys(one, BLOCK)
    found, _ = keyed(keys, one, talk(5))
    kept = list(found)
    keyed(keys, one, talk(9))
    assert found == kept
