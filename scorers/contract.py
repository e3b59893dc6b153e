"""What a scorer or a policy is, and what it may look at: the whole plugin contract on one page."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Part: TypeAlias = Literal["start", "cost"]


class Request(msgspec.Struct, frozen=True, gc=False):
    """What is known of one request when its replica is chosen.

    `keys` are the chained keys of the prompt's full blocks, `block_tokens` the tokens one of them stands for
    (an estimate under the text lens). `tokens` counts the whole prompt, of all `sequences` together.
    """

    id: str
    model: str
    tokens: int
    keys: list[int] = []
    block_tokens: float = 16.0
    adapter: str | None = None
    session: str | None = None
    """The client's session key, where it gave one."""
    anchor: int = 0
    """Hash of adapter and first 100 characters of the prompt: equal prompts anchor equally on every router."""
    priority: int = 0
    sequences: int = 1
    stream: bool = False
    max_output_tokens: int | None = None


class Role(enum.IntEnum):
    """Which phases a replica runs."""

    BOTH = 0
    PREFILL = 1
    DECODE = 2


class Column(enum.IntEnum):
    """Rows of `Candidates.table`. Units in brackets; unknown capacities are inf, never 0."""

    QUEUED_TOKENS = 0
    """Uncached prompt tokens sent there that have no first output yet [tokens]."""
    QUEUED_QUADRATIC = 1
    """Sum of miss*(hit + miss/2) over those requests: their attention work [tokens^2]."""
    OUTSIDE_SECONDS = 2
    """Prefill that `/metrics` shows waiting there and that is not ours [seconds]."""
    SECONDS_PER_TOKEN = 3
    """Prefill seconds per uncached token at the load it has now [seconds/token]."""
    SECONDS_PER_QUADRATIC = 4
    """c4 of the step model: attention seconds per token squared [seconds/token^2]."""
    REQUESTS = 5
    """Requests running and waiting there: ours, and what `/metrics` shows of others."""
    DECODING = 6
    """Sequences there past their first output."""
    BUSY = 7
    """30 s moving share of the time it had a request without first output [0..1]."""
    ACTIVE_TOKENS = 8
    """KV tokens held by running requests [tokens]."""
    CACHED_TOKENS = 9
    """KV tokens held at all, evictable ones included [tokens]."""
    CAPACITY_TOKENS = 10
    """KV cache size [tokens]."""
    SLOTS = 11
    """Most sequences it runs at once (`max_num_seqs`)."""
    OUTPUT_TOKENS = 12
    """Mean output length [tokens]."""
    STEP_SECONDS = 13
    """Time of one decode step at the load it has now [seconds]."""
    ADAPTER_SECONDS = 14
    """Seconds to load a LoRA adapter that is not resident [seconds]."""
    ROLE = 15
    """A `Role`."""
    CHOSEN = 16
    """Sequence number of the last request it was chosen for: the smallest is the least recently chosen."""
    BASE_SECONDS = 17
    """The constant part of TTFT there: network, HTTP, scheduling [seconds]."""


class Standing(enum.IntEnum):
    """What a built-in sum needs of each replica, weights included, so that a decision among many reads five columns.

    It follows from a replica's `Column`s and the weights alone, whatever is asked of it: the fleet derives it anew only
    where a replica's load has changed.
    """

    AHEAD = 0
    """Weighted seconds whatever the prompt: the queue [seconds]."""
    LINEAR = 1
    """Weighted prefill seconds per uncached token [seconds/token]."""
    QUADRATIC = 2
    """Weighted seconds per token squared, half of them: of miss*(hit + tokens) [seconds/token^2]."""
    SLACK = 3
    """KV tokens free there, or -inf where no slot is free or the role is not BOTH [tokens]."""
    CHOSEN = 4
    """`Column.CHOSEN`."""


class Candidates:
    """The replicas one request may go to, as read-only columns: index i names the same replica in each.

    Every array has shape (n,). `table` is the (len(Column), n) float64 array behind the named columns, for scorers
    that want several at once. The arrays given are made read-only here: give a view of what others write to.
    """

    __slots__ = (
        "_prefill_seconds", "adapter_resident", "fetch_seconds", "hit_tokens", "labels", "names", "table", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        names: Sequence[str],
        table: Floats,
        hit_tokens: Floats,
        tokens: int,
        labels: Sequence[Mapping[str, str]] = (),
        adapter_resident: Floats | None = None,
        fetch_seconds: Floats | None = None,
    ) -> None:
        self.names = names
        """Stable replica names, e.g. `10.0.0.5:8000`."""
        self.table = table
        self.hit_tokens = hit_tokens
        """Tokens of this prompt whose KV the replica is believed to hold, on whatever medium [tokens]."""
        self.tokens = tokens
        """Tokens of the whole prompt."""
        self.labels = labels
        """What the operator wrote behind the backend's URL, per replica."""
        self.adapter_resident = adapter_resident
        """1.0 where the request's LoRA adapter is loaded, else 0.0; None when the request names no adapter."""
        self.fetch_seconds = fetch_seconds
        """Seconds to bring back what of it lies on slower mediums than the GPU; None: all of it is on the GPU."""
        self._prefill_seconds: Floats | None = None
        table.flags.writeable = False
        hit_tokens.flags.writeable = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def miss_tokens(self) -> Floats:
        """Prompt tokens to compute there: at least 1, for the engine recomputes the end of a full hit [tokens]."""
        return np.maximum(self.tokens - self.hit_tokens, 1.0)

    @property
    def prefill_seconds(self) -> Floats:
        """T of the design: this request's own prefill, `miss * s/token + c4 * miss * (hit + miss/2)` [seconds]."""
        if self._prefill_seconds is None:
            miss = self.miss_tokens
            table = self.table
            self._prefill_seconds = miss * (
                table[Column.SECONDS_PER_TOKEN] + table[Column.SECONDS_PER_QUADRATIC] * (self.hit_tokens + 0.5 * miss)
            )
            self._prefill_seconds.flags.writeable = False
        return self._prefill_seconds

    @property
    def queued_seconds(self) -> Floats:
        """Predicted prefill seconds of everything sent there that has no first output yet [seconds]."""
        table = self.table
        seconds: Floats = (
            table[Column.QUEUED_TOKENS] * table[Column.SECONDS_PER_TOKEN]
            + table[Column.QUEUED_QUADRATIC] * table[Column.SECONDS_PER_QUADRATIC]
            + table[Column.OUTSIDE_SECONDS]
        )
        return seconds

    def take(self, indices: Sequence[int]) -> Candidates:
        """The candidates at these indices alone, in this order, as a copy."""
        resident = self.adapter_resident
        return Candidates(
            tuple(self.names[i] for i in indices),
            self.table[:, indices],
            self.hit_tokens[indices],
            self.tokens,
            tuple(self.labels[i] for i in indices) if self.labels else (),
            None if resident is None else resident[indices],
            None if self.fetch_seconds is None else self.fetch_seconds[indices],
        )

    def column(self, column: Column) -> Floats:
        """One row of the table, e.g. `candidates.column(Column.BUSY)`."""
        row: Floats = self.table[column]
        return row


@runtime_checkable
class Scorer(Protocol):
    """Answers what choosing each candidate would cost, in seconds.

    `part` says whose seconds: "start" = until this request's first token; "cost" = others', or later.
    """

    part: Part

    def seconds(self, request: Request, candidates: Candidates, now: float) -> Floats:
        """Seconds per candidate, shape (n,), each >= 0; inf = must not be chosen. Must not keep or change its input."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Chooses one candidate.

    A policy may also define `on_decided(request, candidates, index, now)`, called at once after the reservation, and
    `on_settled(request_id, name, now)`, called when the request has ended at the replica of that name.
    """

    def choose(self, request: Request, candidates: Candidates, now: float, rng: np.random.Generator) -> int:
        """Index of the replica to send to, or -1 when none may be chosen. `candidates` is never empty."""
        ...
