"""Faults that a test can order from one stand-in engine."""

from __future__ import annotations

from collections import deque

import msgspec


class Fault(msgspec.Struct, frozen=True):
    """What happens to one request: an error status, or a cut connection."""

    status: int | None = None
    cut_after_events: int | None = None
    """SSE events sent before the cut; 0 cuts right after the head. Replies that are not streamed are not cut by it."""
    cut_before_head: bool = False


class Cut(Exception):
    """The connection was cut on purpose: there is nothing left to answer."""


class Faults:
    """Orders for the next requests to generating paths, first come first served."""

    def __init__(self) -> None:
        self._orders: deque[Fault] = deque()
        self.served = 0
        """Orders carried out."""

    def fail_next(self, status: int = 500, times: int = 1) -> None:
        """Answer the next requests with an error status in vLLM's shape."""
        self._orders.extend(Fault(status=status) for _ in range(times))

    def cut_next(self, after_events: int | None = None, times: int = 1) -> None:
        """Cut the next requests' connections: after so many SSE events, or (None) before any reply byte."""
        fault = Fault(cut_before_head=True) if after_events is None else Fault(cut_after_events=after_events)
        self._orders.extend(fault for _ in range(times))

    def clear(self) -> None:
        """Forget all orders."""
        self._orders.clear()

    def next(self) -> Fault | None:
        """The order for this request, if there is one."""
        if not self._orders:
            return None
        self.served += 1
        return self._orders.popleft()
