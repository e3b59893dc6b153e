"""What routers share their knowledge through: keys, Streams and atomic batches of writes. No Redis in it.

Every call has a time limit of its own and raises `StoreDown`, nothing else, when the store cannot serve it. Nothing is
retried here: a caller that was refused an answer does not know whether its batch was carried out.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import msgspec


class Trouble(enum.Enum):
    """Why the store did not serve."""

    UNREACHABLE = "unreachable"
    """No connection, or it broke."""
    SLOW = "slow"
    """No answer within the time limit."""
    FULL = "full"
    """Out of memory: reads may still work."""
    REFUSED = "refused"
    """Password, rights, a read-only server, a cluster that points in circles."""
    WRONG = "wrong"
    """An answer that makes no sense: another type of key, an unknown command, a server that is too old."""


class StoreDown(Exception):
    """The store did not serve a call. Whether a batch of that call was carried out is unknown."""

    def __init__(self, trouble: Trouble, about: str) -> None:
        """`about` names what was tried and what came of it; never a URL or a secret."""
        super().__init__(f"{trouble.value}: {about}")
        self.trouble = trouble


class EntryId(NamedTuple):
    """The id of a Stream's entry, `<epoch>-<n>`; ids order as these pairs do. `EntryId()` is before all of them."""

    epoch: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> EntryId:
        """The reverse of `str`.

        Raises:
            ValueError: it is no id.
        """
        epoch, _, n = text.partition("-")
        return cls(int(epoch), int(n))


class Entry(NamedTuple):
    """One entry of a Stream."""

    id: EntryId
    fields: dict[bytes, bytes]


class Append(msgspec.Struct, frozen=True):
    """Add an entry to a Stream. The store makes the id (its time in ms) where none is given."""

    key: str
    fields: Mapping[bytes, bytes]
    id: EntryId | None = None
    """Must be greater than the last id that this Stream ever had, else the whole batch is STALE."""
    longest: int | None = None
    """Entries to keep, the newest."""
    since: EntryId | None = None
    """Entries to keep: this one and later ones."""


class Trim(msgspec.Struct, frozen=True):
    """Drop a Stream's entries before `since`. The Stream remembers its last id."""

    key: str
    since: EntryId


class Put(msgspec.Struct, frozen=True):
    """Set a key to a value, for `ttl_ms` or for good."""

    key: str
    value: bytes
    ttl_ms: int | None = None


class Expire(msgspec.Struct, frozen=True):
    """Let a key, of whatever type, live `ttl_ms` from now. A key that is not there stays so."""

    key: str
    ttl_ms: int


class Drop(msgspec.Struct, frozen=True):
    """Delete a key, of whatever type; a dropped Stream forgets its last id too."""

    key: str


Write: TypeAlias = Append | Trim | Put | Expire | Drop


class Batch(msgspec.Struct, frozen=True):
    """Writes that happen together or not at all, if each key of `given` holds that value (None: is absent) just then.

    All keys of one batch share one hash tag (`{...}`). An Append with an id of its own comes first in its batch.
    """

    writes: Sequence[Write]
    given: Mapping[str, bytes | None] = {}

    def __post_init__(self) -> None:
        for write in self.writes[1:]:
            if isinstance(write, Append) and write.id is not None:
                raise ValueError("an Append with an id of its own comes first in its batch")


class Outcome(enum.Enum):
    """What became of a batch."""

    DONE = "done"
    GIVEN = "given"
    """A key did not hold what was given: nothing was written."""
    STALE = "stale"
    """The Append's id is not greater than the Stream's last: nothing was written."""


class Ends(msgspec.Struct, frozen=True):
    """Where a Stream begins and ends; all zero where there is none."""

    first: EntryId
    """The oldest entry still there; zero in an empty Stream."""
    last: EntryId
    """The newest entry that ever was, trimmed or not."""
    length: int
    """Entries."""


class About(msgspec.Struct, frozen=True):
    """The server at the other end."""

    kind: str
    """redis, valkey or memory."""
    version: str
    mode: str
    """standalone, sentinel, cluster or memory."""
    used_bytes: int
    """Memory in use, of all nodes."""
    limit_bytes: int
    """The memory that it may use, of all nodes; 0: no limit."""
    evicts: bool
    """Whether it drops keys by itself when full; then logs may vanish at any time (they are rebuilt, at a cost)."""


class Store(Protocol):
    """Redis, or what stands in for it."""

    async def commit(self, batches: Sequence[Batch]) -> list[Outcome]:
        """Carry out each batch by itself, in one round trip (per node of a cluster); outcomes in order.

        Raises:
            StoreDown: at least one batch got no answer, or an error for one.
        """
        ...

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of these keys, in order; each is read by itself where they lie in different slots."""
        ...

    def together(self, keys: Sequence[str]) -> list[list[str]]:
        """The keys in groups that one `read` may wait for: one group, in a cluster one for each hash tag."""
        ...

    async def read(self, after: Mapping[str, EntryId], *, block_ms: int, count: int) -> dict[str, list[Entry]]:
        """At most `count` entries of each Stream that follow the given id; Streams without any are left out.

        Waits up to `block_ms` (0: not at all) for the first entry. The keys are of one group of `together`. Entries
        that were trimmed are left out in silence: see `ends`.
        """
        ...

    async def span(self, key: str, first: EntryId, last: EntryId, count: int) -> list[Entry]:
        """At most `count` entries from `first` to `last`, both included."""
        ...

    async def ends(self, keys: Sequence[str]) -> list[Ends]:
        """Where these Streams begin and end, in order."""
        ...

    async def time_ms(self, key: str) -> int:
        """The clock of the node that holds this key [ms since 1970]."""
        ...

    async def scan(self, prefix: str) -> list[str]:
        """Every key that starts so. For sweeping: reads the whole key space, a little at a time."""
        ...

    async def about(self) -> About: ...

    async def close(self) -> None:
        """End all connections, as far as the server takes part. Raises nothing."""
        ...
