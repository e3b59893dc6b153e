"""Encoding in pieces equals encoding the whole, for every family of tokenizers."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from kvroute.router.knowledge.tokens import segments as tokensegments
from kvroute.router.knowledge.tokens.segments import Refused, Segments, TooMany
from kvroute.router.knowledge.tokens.selfcheck import battery, check
from tests.router.knowledge.tokens.tokenizers_made import FAMILIES, ODD, SPECIALS, made

families = pytest.mark.parametrize("family", FAMILIES)

_bits = st.sampled_from(
    (
        *SPECIALS,
        *(token.content for token in ODD),
        "alone", "wordlike", "<|a|", "b", "<|", "|>", "<", " ", "  ", "\n", "\n\n", "\t", "▁", "a", "The", "é",
        "e\u0301", "\u0301", "漢字", "👩\u200d👩\u200d👧", "\u200b", "\u00a0", "'s", "don't", "12345", "İ", "ﬁ",
        "word ", " word", "found after normalising",
    )
)  # fmt: skip
_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
texts = st.lists(st.one_of(_bits, _bits, _words), max_size=14).map("".join)


@functools.cache
def segments(family: str, small: bool = False) -> Segments:
    """Kept over examples, so that most stretches come from the cache; `small`: a cache that holds next to nothing."""
    return Segments(made(family), 2000) if small else Segments(made(family))


@families
@settings(max_examples=250, deadline=None)
@given(text=texts, special=st.booleans(), small=st.booleans())
def test_pieces_equal_the_whole(family: str, text: str, special: bool, small: bool) -> None:
    """Whatever special tokens, odd ones among them, stand side by side or in words, white space and marks."""
    one = segments(family, small)
    assert one.splits
    assert one.encode(text, special) == one.encode_whole(text, special)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(_bits, max_size=60).map("".join), start=st.integers(0, 3))
def test_long_texts_are_searched_part_by_part(text: str, start: int) -> None:
    """Wherever the parts end, the same places are found; and ids are packed part by part."""
    one = segments("bytes")
    at_once = one.pieces(text, start, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokensegments, "_SEARCHED", 1)
        patch.setattr(tokensegments, "_PACKED", 3)
        assert [(piece.start, piece.end) for piece in one.pieces(text, start, False)] == [
            (piece.start, piece.end) for piece in at_once
        ]
        assert Segments.encoded(one, text, 0) == one.encode_whole(text, False)


def test_pieces_may_be_bounded() -> None:
    """Who asks for few is told where there are more, before all of them are found."""
    one = segments("bytes")
    text = "<|a|>x" * 10
    assert len(one.pieces(text, 0, False, 20)) == 20
    with pytest.raises(TooMany):
        one.pieces(text * 10, 0, False, 20)


@families
@settings(max_examples=150, deadline=None)
@given(text=texts, rest=texts)
def test_sure_cuts_hold_whatever_follows(family: str, text: str, rest: str) -> None:
    """The ids before a sure cut begin the ids of every longer text."""
    one = segments(family)
    pieces = one.pieces(text, 0, False)
    sure = one.sure(text, len(text))
    cuts = [piece.end for piece in pieces if piece.key is None and piece.start < sure]
    if cuts:
        known = one.encode(text[: cuts[-1]], False)
        assert one.encode_whole(text + rest, False).startswith(known)


@families
def test_the_start_up_check_passes(family: str) -> None:
    """A tokenizer that keeps the rule goes on being encoded in pieces."""
    one = Segments(made(family))
    assert check(one, family)
    assert one.splits


def test_odd_tokens_are_no_places_to_cut() -> None:
    """Tokens that take white space, ask for word boundaries or are found after normalising stay inside a stretch."""
    one = segments("bytes")
    for token in ODD:
        text = f"a {token.content} b"
        assert [piece.key is None for piece in one.pieces(text, 0, False)] == [False]


class Betraying(Segments):
    """A tokenizer whose ids depend on what stands before a special token."""

    def encoded(self, text: str, place: int) -> bytes:
        packed = super().encoded(text, place)
        return packed[:-4] if text.endswith("\n") and len(packed) > 4 else packed


def test_a_tokenizer_that_breaks_the_rule_is_encoded_whole(caplog: pytest.LogCaptureFixture) -> None:
    """The check says so with the first text that differs, and from then on nothing is cut."""
    one = Betraying(made("bytes"))
    assert not check(one, "broken")
    assert not one.splits
    assert len(one.pieces("a<s>b", 0, False)) == 1
    assert "broken" in caplog.text
    assert "differs" in caplog.text


def test_a_tokenizer_without_special_tokens_is_encoded_whole() -> None:
    """There is nothing to cut at, and nothing to complain of."""
    bare = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    one = Segments(bare)
    assert not one.splits
    assert check(one, "bare")
    assert one.encode("a b x", True) == one.encode_whole("a b x", True)


def test_text_that_no_tokenizer_takes_is_refused() -> None:
    """Lone surrogates, which JSON may carry, are told apart from text."""
    with pytest.raises(Refused):
        segments("bytes").encode("a\ud800b<s>", False)


def test_a_word_that_the_model_lacks_is_refused() -> None:
    """Not every tokenizer has a token for what it does not know."""
    with pytest.raises(Refused):
        Segments(Tokenizer(models.WordPiece({"a": 0}))).encode("b", False)


def test_the_cache_is_bounded() -> None:
    """Stretches that never return do not pile up."""
    one = Segments(made("bytes"), 10_000)
    for number in range(500):
        one.encode(f"<s>{number} and more{number}</s>", False)
    assert 0 < one.bytes <= 10_000


def test_the_battery_covers_every_shape() -> None:
    """Adjacent special tokens, white space around them, and parts of them."""
    texts = list(battery(segments("bytes")))
    assert "" in texts
    assert "<|a|><|a|>" in texts
    assert any("<s> leading" in text for text in texts)
