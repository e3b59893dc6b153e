"""Batches that came too early: kept, bounded, until those before them are there."""

from __future__ import annotations

MOST_BATCHES = 4096
MOST_BYTES = 8 << 20


class Held:
    """Payloads by sequence number. Beyond the bound the oldest goes: a replay brings it again."""

    def __init__(self, most_batches: int = MOST_BATCHES, most_bytes: int = MOST_BYTES) -> None:
        self._most_batches = most_batches
        self._most_bytes = most_bytes
        self._bytes = 0
        self._batches: dict[int, tuple[float, bytes]] = {}
        self._highest = -1
        """No number held is higher."""

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._batches

    @property
    def first(self) -> int:
        """The lowest sequence number held."""
        return min(self._batches)

    def put(self, sequence: int, ts: float, payload: bytes) -> None:
        """Keep a batch. Those with higher numbers and an earlier time are of an engine that is gone."""
        if sequence <= self._highest:
            for other in [n for n, (then, _) in self._batches.items() if n > sequence and then < ts]:
                self.take(other)
            if sequence in self._batches:
                self.take(sequence)
        self._highest = max(self._highest, sequence)
        self._batches[sequence] = (ts, payload)
        self._bytes += len(payload)
        while len(self._batches) > self._most_batches or self._bytes > self._most_bytes:
            self.take(self.first)

    def take(self, sequence: int) -> bytes:
        """Remove and return one."""
        _, payload = self._batches.pop(sequence)
        self._bytes -= len(payload)
        if not self._batches:
            self._highest = -1
        return payload

    def forget_before(self, sequence: int) -> None:
        """Remove all with lower numbers."""
        for other in [n for n in self._batches if n < sequence]:
            self.take(other)

    def clear(self) -> None:
        """Remove all."""
        self._batches.clear()
        self._bytes = 0
        self._highest = -1
