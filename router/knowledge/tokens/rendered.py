"""A request's prompts as the engine would tokenise them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

Prompt: TypeAlias = str | Sequence[int]
"""Text that the engine would tokenise, or token ids that it would take as they are."""


class Rendered(msgspec.Struct, gc=False):
    """What of a request is known of its tokens before it is tokenised. The default is: nothing."""

    text: str = ""
    """The first prompt as it is tokenised, up to where it is known exactly."""
    ids: Sequence[int] | None = None
    """The first prompt where it was given as token ids; then `text` is ""."""
    add_special_tokens: bool = False
    """What the engine passes to its tokenizer for every prompt of this request."""
    whole: bool = True
    """False: what follows `text` is not known, and not that nothing does. Its last tokens may then be others too, so
    only blocks that end well before its end are certain."""
    others: tuple[Prompt, ...] = ()
    """The further prompts of a list: only their counts of tokens matter."""
    truncate: int | None = None
    """`truncate_prompt_tokens`: the engine keeps this many tokens [tokens]; -1: as many as the model takes."""
    truncation_side: str | None = None
    """"left": it keeps the last tokens; "right": the first. None: its tokenizer cuts, which leaves out the first tokens
    too, but not the special ones that `add_special_tokens` put in front."""
    reason: str = ""
    """Why it is not whole, in a few words; "" where it is."""
