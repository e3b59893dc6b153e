"""The links over which KV goes from a prefill replica to a decode replica: finite, and one transfer at a time."""

from __future__ import annotations

from collections.abc import Sequence

from kvroute.simulator.latency.kind import Kind


class Links:
    """One link out of each replica and one into it. A transfer takes both, behind those that were sent before."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._bytes = [kind.kv_bytes_per_token for kind in kinds]
        self._rate = [kind.link_bytes_per_second for kind in kinds]
        self._out = [0.0] * len(kinds)
        self._into = [0.0] * len(kinds)

    def seconds(self, source: int, target: int, tokens: float) -> float:
        """What the KV of so many tokens takes where nothing else is under way [s]."""
        return tokens * self._bytes[source] / min(self._rate[source], self._rate[target])

    def send(self, source: int, target: int, tokens: float, now: float) -> float:
        """Book a transfer that may begin `now`; when it has arrived [s]."""
        begin = max(now, self._out[source], self._into[target])
        end = begin + self.seconds(source, target, tokens)
        self._out[source] = self._into[target] = end
        return end
