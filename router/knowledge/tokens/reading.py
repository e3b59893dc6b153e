"""A prompt on its way from a body to keys."""

from __future__ import annotations

import msgspec

from kvroute.router.knowledge.text import Prompt
from kvroute.router.knowledge.tokens.keys import Found, Lesson
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.segments import Piece


class Reading(msgspec.Struct, gc=False):
    """A prompt on its way: the rest of a text, in pieces, some of whose ids may still be missing."""

    rendered: Rendered
    text: str
    root: int
    found: Found
    pieces: list[Piece]
    missing: list[Piece]
    """Those without ids at first."""
    characters: int
    """In them."""
    around: tuple[bytes, bytes]
    """Packed ids before and behind the text's own."""
    anchor: int
    others: int
    """Tokens of the further prompts."""
    least: int
    """Tokens that the whole body stands for at least, by its length; 0 where the text is whole."""


class Hashed(msgspec.Struct, gc=False):
    """A prompt that was read, and what is to be kept of it."""

    prompt: Prompt
    lesson: Lesson | None
    partial: bool
    """It is not known to its end."""


def keeps_last(rendered: Rendered) -> bool:
    """The engine cuts the prompt's beginning off, so that its blocks begin anywhere."""
    return rendered.truncate is not None and rendered.truncate >= 0 and rendered.truncation_side != "right"


def certain(pieces: list[Piece], sure: int) -> list[Piece]:
    """The pieces up to the last cut that holds whatever follows."""
    for index in range(len(pieces), 0, -1):
        piece = pieces[index - 1]
        if piece.key is None and piece.start < sure:
            return pieces[:index]
    return []
