"""LoRA adapters on one replica's device: how many fit in a batch, and which must be loaded."""

from __future__ import annotations

from collections import OrderedDict


class Adapters:
    """Adapters in use, and those that were used last."""

    def __init__(self, most: int, seconds: float) -> None:
        """`most`: in one batch, and on the device; 0: any number. `seconds`: to load one [s]."""
        self._most = most
        self._seconds = seconds
        self._users: dict[str, int] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        """On the device without a user, the longest unused first."""

    def fit(self, adapter: str | None) -> bool:
        """Whether a sequence with this adapter may join those that run."""
        return adapter is None or not self._most or adapter in self._users or len(self._users) < self._most

    def start(self, adapter: str | None) -> float:
        """A sequence joins; returns the seconds that loading its adapter takes."""
        if adapter is None:
            return 0.0
        users = self._users.get(adapter, 0)
        self._users[adapter] = users + 1
        if users:
            return 0.0
        if adapter in self._idle:
            del self._idle[adapter]
            return 0.0
        if self._most and len(self._users) + len(self._idle) > self._most:
            self._idle.popitem(last=False)
        return self._seconds

    def stop(self, adapter: str | None) -> None:
        """A sequence leaves."""
        if adapter is None:
            return
        users = self._users[adapter] - 1
        if users:
            self._users[adapter] = users
        else:
            del self._users[adapter]
            self._idle[adapter] = None
