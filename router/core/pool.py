"""The ready replicas that serve one model name, as a decision wants them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kvroute.router.core.replica import Replica
from kvroute.scorers.contract import Floats


class Pool:
    """The ready replicas that serve one model name, fixed until the fleet changes."""

    __slots__ = ("adapter_resident", "cells", "contiguous", "labels", "names", "replicas", "row_list", "rows", "size")

    def __init__(self, replicas: Iterable[Replica], model: str) -> None:
        self.replicas = tuple(sorted(replicas, key=lambda replica: replica.row))
        self.size = len(self.replicas)
        self.names = tuple(replica.name for replica in self.replicas)
        self.labels = tuple(replica.spec.labels for replica in self.replicas)
        self.cells = [replica.cells for replica in self.replicas]
        """The replicas' own lists, which change as their load does."""
        self.row_list = [replica.row for replica in self.replicas]
        self.rows: NDArray[np.intp] = np.array(self.row_list, dtype=np.intp)
        self.contiguous = all(replica.row == i for i, replica in enumerate(self.replicas))
        """Rows are 0..size-1: the table needs no gather."""
        self.adapter_resident: Floats | None = None
        if any(model in replica.spec.adapters for replica in self.replicas):
            resident = [replica.resident is None or model in replica.resident for replica in self.replicas]
            self.adapter_resident = np.array(resident, dtype=np.float64)

    def among(self, rows: Floats) -> Floats:
        """What is this pool's of an array whose last axis is the fleet's rows."""
        return rows[..., : self.size] if self.contiguous else rows[..., self.rows]

    def without(self, names: frozenset[str]) -> Pool:
        """The pool less some replicas, for a retry."""
        rest = Pool((replica for replica in self.replicas if replica.name not in names), "")
        if self.adapter_resident is not None:
            kept = [name not in names for name in self.names]
            rest.adapter_resident = self.adapter_resident[kept]
        return rest
