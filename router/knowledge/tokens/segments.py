"""Exact encoding in pieces: a text is cut at special tokens, and each stretch between two is encoded once.

A tokenizer looks for special tokens first, in the raw text, leftmost and longest; what lies between two of them is
normalised, cut into words and encoded by itself. So ids of the whole are the ids of the parts, one after the other,
where the special token at the cut takes nothing of its neighbourhood (white space, word boundaries) and is not looked
for in normalised text. A stretch that does not begin the text is encoded behind a special token, because some
tokenizers put a space before the text's first word only.
"""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import xxhash

from kvroute.router.core import blocks

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

Key: TypeAlias = tuple[bytes, int]
"""128 bits of a stretch's hash, and its place."""

FIRST, LATER, WRAPPED = 0, 1, 2
"""Places of a stretch: at the text's beginning; behind a special token; the whole text, with what the post-processor
puts around it."""
CACHE_BYTES = 64 << 20
"""Packed ids kept of recent stretches; at 4 bytes an id 16 million tokens."""
_SEARCHED = 1 << 20
"""Characters of one search: about a millisecond."""
_PACKED = 1 << 16
"""Ids packed at a time: about a millisecond."""
ENTRY_BYTES = 250
"""What an entry of the cache takes beside its ids."""


class Piece(msgspec.Struct, gc=False):
    """A part of a text: a special token (a place where the text may be cut), or a stretch without one."""

    start: int
    end: int
    packed: bytes | None
    """Its ids, 4 bytes each; None: not known yet."""
    key: Key | None
    """None: a special token."""


class TooMany(Exception):
    """A text has more pieces than were asked for."""


class Refused(Exception):
    """The tokenizer refuses this text."""


class Segments:
    """One tokenizer, with the ids of recent stretches. Any thread may cut, look up and encode; one only may `keep`.

    That rests on single operations of Python's own dicts being whole."""

    def __init__(self, tokenizer: Tokenizer, most_bytes: int = CACHE_BYTES) -> None:
        self._tokenizer = tokenizer
        self._most_bytes = most_bytes
        self._cached: OrderedDict[Key, bytes] = OrderedDict()
        self.bytes = 0
        """Kept by the cache."""
        self._prefix_set: frozenset[str] = frozenset()
        self._longest = 0
        self._search: re.Pattern[str] | None = None
        self._cuts = _cuts(tokenizer)
        self._guard = _guard(tokenizer, self._cuts)
        self._wrap = self._found_wrap()
        if self._guard:
            self._prepare()

    @property
    def contents(self) -> list[str]:
        """The added tokens that texts are searched for, in the order of their ids."""
        return [token.content for token in _raw(self._tokenizer).values()]

    @property
    def splits(self) -> bool:
        """Texts are cut at special tokens; else each is encoded whole."""
        return self._search is not None

    def stop_splitting(self) -> None:
        """From now on each text is encoded whole: this tokenizer broke the rule."""
        self._search = None
        self._wrap = None
        self._cached.clear()
        self.bytes = 0

    def around(self, add_special_tokens: bool) -> tuple[bytes, bytes] | None:
        """The ids before and behind the text's own. None: not known apart from the text."""
        return self._wrap if add_special_tokens else (b"", b"")

    def pieces(self, text: str, start: int, add_special_tokens: bool, most: int | None = None) -> list[Piece]:
        """`text` from `start` on (0, or behind a cut) in pieces, with the ids that are known.

        Raises:
            TooMany: there are more than `most`.
        """
        if add_special_tokens and self._wrap is None:
            return [self._piece(text, 0, len(text), WRAPPED)]
        found: list[Piece] = []
        at = start
        if self._search is not None:
            cuts = self._cuts
            for match in self._matches(self._search, text, start):
                packed = cuts.get(match.group())
                if packed is not None:
                    begin, end = match.span()
                    if begin > at:
                        found.append(self._piece(text, at, begin, LATER if at else FIRST))
                    found.append(Piece(begin, end, packed, None))
                    at = end
                    if most is not None and len(found) > most:
                        raise TooMany
        if at < len(text):
            found.append(self._piece(text, at, len(text), LATER if at else FIRST))
        return found

    def _matches(self, search: re.Pattern[str], text: str, start: int) -> Iterator[re.Match[str]]:
        """The added tokens in a text, sought part by part: one search stops all other threads."""
        at, length = start, len(text)
        while at < length:
            end = min(length, at + max(_SEARCHED, 2 * self._longest))
            whole = end if end == length else end - self._longest  # what begins before ends before `end`
            for match in search.finditer(text, at, end):
                if match.start() >= whole:
                    break
                yield match
                at = match.end()
            at = max(at, whole)

    def _piece(self, text: str, start: int, end: int, place: int) -> Piece:
        key = (xxhash.xxh3_128_digest(text[start:end].encode("utf-8", "surrogatepass")), place)
        return Piece(start, end, self.known(key), key)

    def known(self, key: Key) -> bytes | None:
        """The packed ids of a recent stretch."""
        packed = self._cached.get(key)
        if packed is not None:
            with contextlib.suppress(KeyError):  # forgotten in this moment, by another thread
                self._cached.move_to_end(key)
        return packed

    def encoded(self, text: str, place: int) -> bytes:
        """The packed ids of one stretch. Pure: for any thread.

        Raises:
            Refused: the tokenizer refuses the text (lone surrogates, words that its model lacks).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Refused(str(error)) from error
        asked = self._guard + text if place == LATER else text
        try:
            ids = self._tokenizer.encode_batch_fast([asked], add_special_tokens=place == WRAPPED)[0].ids
        except Exception as error:  # the library's own, for words that its model lacks
            raise Refused(str(error)) from error
        packed = pack_slowly(ids)
        return packed[blocks.TOKEN_BYTES :] if place == LATER else packed

    def keep(self, key: Key, packed: bytes) -> None:
        """Remember the ids of a stretch."""
        if key not in self._cached:
            self._cached[key] = packed
            self.bytes += len(packed) + ENTRY_BYTES
            while self.bytes > self._most_bytes and self._cached:
                self.bytes -= len(self._cached.popitem(last=False)[1]) + ENTRY_BYTES

    def encode(self, text: str, add_special_tokens: bool) -> bytes:
        """The packed ids of a whole text, piece by piece, here and now."""
        found = []
        for piece in self.pieces(text, 0, add_special_tokens):
            if piece.packed is None and piece.key is not None:
                piece.packed = self.encoded(text[piece.start : piece.end], piece.key[1])
                self.keep(piece.key, piece.packed)
            found.append(piece.packed or b"")
        before, behind = self.around(add_special_tokens) or (b"", b"")
        return before + b"".join(found) + behind

    def encode_whole(self, text: str, add_special_tokens: bool) -> bytes:
        """The packed ids of a whole text, as the tokenizer gives them: what `encode` must equal.

        Raises:
            Refused: as `encoded`.
        """
        try:
            return blocks.pack(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        except Exception as error:
            raise Refused(str(error)) from error

    def sure(self, text: str, end: int) -> int:
        """How far cuts in `text[:end]` hold whatever follows: those that *start* before this place do."""
        for at in range(max(0, end - self._longest + 1), end):
            if text[at:end] in self._prefix_set:
                return at
        return end

    def _prepare(self) -> None:
        contents = self.contents
        self._search = re.compile(_pattern(contents))
        self._prefix_set = frozenset(content[:length] for content in contents for length in range(1, len(content)))
        self._longest = max(map(len, contents))

    def _found_wrap(self) -> tuple[bytes, bytes] | None:
        """What the post-processor puts around every text. None: it does more than that."""
        try:
            return self._seen_around()
        except Refused:  # of the texts that are tried
            return None

    def _seen_around(self) -> tuple[bytes, bytes] | None:
        around = None
        for text in ("", "a", "Some words, and 12 more.\n"):
            bare = self.encode_whole(text, False)
            whole = self.encode_whole(text, True)
            if not bare:
                continue
            at = whole.find(bare)
            if at < 0 or at % blocks.TOKEN_BYTES or whole.count(bare) != 1:
                return None
            found = (whole[:at], whole[at + len(bare) :])
            if around not in (None, found):
                return None
            around = found
        if around is None or self.encode_whole("", True) != around[0] + around[1]:
            return None
        return around


def pack_slowly(ids: Sequence[int]) -> bytes:
    """As `blocks.pack`, part by part, so that other threads have their turns."""
    return b"".join([blocks.pack(ids[at : at + _PACKED]) for at in range(0, len(ids), _PACKED)])


def _raw(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    """Id -> added token, of those that are looked for in raw text."""
    if tokenizer.encode_special_tokens:  # then special tokens are text like any other
        return {}
    added = tokenizer.get_added_tokens_decoder()
    return {number: added[number] for number in sorted(added) if added[number].content and not added[number].normalized}


def _cuts(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The added tokens at which a text may be cut -> their packed id."""
    raw = _raw(tokenizer)
    words_matter = any(token.single_word for token in raw.values())
    cuts = {}
    for number, token in raw.items():
        text = token.content
        takes = token.lstrip or token.rstrip or token.single_word
        if takes or text[0].isspace() or text[-1].isspace():
            continue
        if words_matter and (_is_word(text[0]) or _is_word(text[-1])):
            continue  # its neighbour may be such a token, and asks whether a word stands beside it
        cuts[text] = blocks.pack([number])
    return cuts


def _is_word(character: str) -> bool:
    return re.match(r"\w", character) is not None


def _guard(tokenizer: Tokenizer, cuts: dict[str, bytes]) -> str:
    """A special token that a stretch may be encoded behind: no other begins with it. "": there is none."""
    contents = [token.content for token in _raw(tokenizer).values()]
    for cut, packed in cuts.items():
        if sum(content.startswith(cut) for content in contents) == 1:
            ids = tokenizer.encode(cut, add_special_tokens=False).ids
            if blocks.pack(ids) == packed:
                return cut
    return ""


def _pattern(contents: list[str]) -> str:
    """A regular expression that finds the longest of `contents`: a tree of their characters."""
    tree: dict[str, Any] = {}
    for content in contents:
        node = tree
        for character in content:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branches(tree)


def _branches(node: dict[str, Any]) -> str:
    ways = [re.escape(character) + _branches(below) for character, below in node.items() if character]
    if not ways:
        return ""
    if len(ways) == 1 and "" not in node:
        return ways[0]
    return f"(?:{'|'.join(ways)})" + ("?" if "" in node else "")
