"""The decision log's lines: what was decided, what came of it, and all else that later decisions rest on.

Keys are chained, so one key stands for all before it: a line holds the last key of the longest prefix that an earlier
line of the file has told, and the keys that follow it. `Shortened` leaves out what was told, `Restored` puts it back.
"""

from __future__ import annotations

import binascii
import sys
from array import array
from typing import Literal, TypeAlias

import msgspec

from kvroute.router.core.steptime import StepTime
from kvroute.scorers.contract import Request
from kvroute.scorers.plugins import PolicySpec

VERSION = 1
REMEMBERED = 131_072
"""Keys of one generation of `Shortened`; two are kept."""
_BIG_ENDIAN = sys.byteorder == "big"


class Began(msgspec.Struct, tag="began", tag_field="line", gc=False):
    """The first line of a file, and of each life of a router within it: what it runs with."""

    v: int
    kvroute: str
    """Version of the router."""
    wall: float
    """The time of day at `clock` [s since 1970]."""
    clock: float
    """All times of the lines that follow are of this clock, which never runs backwards [s]."""
    order: int
    """Number of the last event before this line: 0 where the router's own life begins with it."""
    policy: PolicySpec
    seed: int
    step: StepTime
    fetch_seconds: tuple[float, float, float]
    text_block_bytes: int
    worker: int | None = None
    shared: bool = False
    """It knows of other routers' requests, which are not in this log."""


class Member(msgspec.Struct, tag="fleet", tag_field="line", omit_defaults=True, gc=False):
    """A replica came, went, or changed."""

    v: int
    order: int
    at: float
    what: Literal["join", "change", "state", "restart", "leave", "here"]
    """`here`: nothing happened to it; the file begins with those that are there."""
    name: str
    endpoint: str
    state: str
    role: str
    slots: float
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    rank: int | None = None
    labels: dict[str, str] = {}
    capacity_tokens: float | None = None
    """KV cache size as its metrics tell it; None: unknown."""
    block_tokens: int | None = None
    """Block size of its engine."""
    knowledge: str = "expected"
    """Where what is known of its cache comes from."""


class Reading(msgspec.Struct, tag="reading", tag_field="line", omit_defaults=True, gc=False):
    """A look at a replica's metrics that changed what is believed of it."""

    v: int
    order: int
    at: float
    name: str
    prefill_seconds: float = 0.0
    """Since the reading before, as the engine sums it."""
    computed_tokens: float = 0.0
    capacity_tokens: float | None = None
    block_tokens: int | None = None
    limit_tokens: float | None = None
    """What of the capacity is believed to be there for us; None: as much as there may be."""
    outside: tuple[float, float, float] | None = None
    """Others' sequences running and waiting there, and what each waiting one is taken to prefill [tokens]."""


class Resident(msgspec.Struct, tag="adapters", tag_field="line", omit_defaults=True, gc=False):
    """Which LoRA adapters a replica has on its device from here on; None: all of them, as far as is known."""

    v: int
    order: int
    at: float
    name: str
    adapters: tuple[str, ...] | None = None


class Looked(msgspec.Struct, tag="looked", tag_field="line", gc=False):
    """Somebody looked at the fleet's load, for which it was brought up to date."""

    v: int
    order: int
    at: float


class Attempt(msgspec.Struct, omit_defaults=True, gc=False):
    """An attempt that failed before anything of its reply was relayed."""

    replica: str
    decided: float
    ended: float
    orders: tuple[int, int]
    """Numbers of the decision and of the failure."""
    failure: str
    tried: tuple[str, ...] = ()
    pinned: bool = False


class Decided(msgspec.Struct, tag="request", tag_field="line", omit_defaults=True, gc=False):
    """One request, written when it is over. No text of it is here, but its keys tell who asked the same."""

    v: int
    id: str
    at: float
    """When it had arrived [s]."""
    decided: float
    """When the replica that answered it was chosen [s]."""
    ended: float
    """When it was over [s]."""
    orders: tuple[int, int, int]
    """Numbers of its decision, its first output (0: none was seen) and its end among all events of this log: what
    happened before what, to the letter."""
    outcome: Literal["completed", "failed", "aborted", "refused"]
    """`refused`: no replica could be chosen."""
    kind: str = "other"
    """What its path asks for."""
    model: str = ""
    adapter: str | None = None
    tokens: int = 0
    """Prompt tokens, as the router counts them."""
    block_tokens: float = 16.0
    """What one key stands for [tokens]."""
    keys: list[int] = []
    """Chained keys of the prompt's full blocks; in the file they stand as `after` and `chain`."""
    after: int | None = None
    """Last key of the part that was told before."""
    chain: str = ""
    """The keys that follow it: base64 of 64-bit numbers, the lowest byte first."""
    anchor: int = 0
    session: str | None = None
    priority: int = 0
    sequences: int = 1
    stream: bool = False
    max_output_tokens: int | None = None
    replica: str = ""
    hit_tokens: float = 0.0
    """Prompt tokens believed to be cached there."""
    best_hit_tokens: float = 0.0
    predicted_ttft: float = 0.0
    """From the decision [s]."""
    knowledge: str = "expected"
    """Where what was known of the replica's cache came from."""
    pinned: bool = False
    """It had to go there: the policy was not asked."""
    tried: tuple[str, ...] = ()
    """Replicas that it must not have been sent to."""
    attempts: int = 1
    earlier: tuple[Attempt, ...] = ()
    """Attempts before this one."""
    failure: str = ""
    """How the last attempt failed, if it did."""
    status: int = 0
    """Of the replica's reply; 0: none came."""
    first: float | None = None
    """When its first output passed; None: it was not streamed, or none came [s]."""
    prompt_tokens: int | None = None
    """As the engine counted them, like the two that follow; None: it did not tell."""
    output_tokens: int | None = None
    cached_tokens: int | None = None

    def request(self) -> Request:
        """What routing knew of it."""
        return Request(
            self.id, self.model, self.tokens, self.keys, self.block_tokens, self.adapter, self.session, self.anchor,
            self.priority, self.sequences, self.stream, self.max_output_tokens,
        )  # fmt: skip


Line: TypeAlias = Began | Member | Reading | Resident | Looked | Decided


class Broken(ValueError):
    """A line that cannot be restored."""


def packed(keys: list[int]) -> str:
    """Keys as compact text."""
    words = array("Q", keys)
    if _BIG_ENDIAN:
        words.byteswap()
    return binascii.b2a_base64(words.tobytes(), newline=False).decode("ascii")


def unpacked(text: str) -> list[int]:
    """The keys in it.

    Raises:
        Broken: it is no such text.
    """
    words = array("Q")
    try:
        words.frombytes(binascii.a2b_base64(text, strict_mode=True))
    except ValueError as error:
        raise Broken(f"chain is no base64 of 64-bit numbers: {error}") from error
    if _BIG_ENDIAN:
        words.byteswap()
    return words.tolist()


class Shortened:
    """What was told before, as far as it is remembered: two generations of keys, so memory is bounded.

    What is forgotten is told again, at the cost of its bytes alone.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._most = remembered
        self._young: set[int] = set()
        self._old: set[int] = set()

    def clear(self) -> None:
        """Nothing that was told can be relied on: a new file, or lines that were lost."""
        self._young, self._old = set(), set()

    def shorten(self, decided: Decided) -> None:
        """Put `after` and `chain` in the place of `keys`."""
        keys = decided.keys
        if not keys:
            return
        known = self._known(keys)
        new = keys[known:]
        decided.keys = []
        if known:
            decided.after = keys[known - 1]
        if new:
            decided.chain = packed(new)
        young = self._young
        young.update(new)
        young.add(keys[-1])
        if len(young) > self._most:
            self._old, self._young = young, set()

    def _known(self, keys: list[int]) -> int:
        """So many leading keys were told, by bisection: whoever is told is mostly told with all before it."""
        young, old = self._young, self._old
        low, high = 0, len(keys)
        while low < high:
            middle = (low + high) // 2
            if keys[middle] in young or keys[middle] in old:
                low = middle + 1
            else:
                high = middle
        return low


class Restored:
    """Puts back what `Shortened` left out; remembers each key's parent."""

    def __init__(self) -> None:
        self._parents: dict[int, int | None] = {}

    def restore(self, decided: Decided) -> None:
        """Fill in `keys`.

        Raises:
            Broken: it rests on a key that no line has told.
        """
        if decided.after is None and not decided.chain:
            return
        parents = self._parents
        new = unpacked(decided.chain) if decided.chain else []
        keys: list[int] = []
        at = decided.after
        if at is not None and at not in parents:
            raise Broken(f"no line before it has told key {at}; its beginning may have been cut off")
        while at is not None:
            keys.append(at)
            at = parents[at]
        keys.reverse()
        at = decided.after
        for key in new:
            parents.setdefault(key, at)
            at = key
        decided.keys, decided.after, decided.chain = keys + new, None, ""
