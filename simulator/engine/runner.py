"""A sequence as the closed form keeps it: by the steps in which something happens to it."""

from __future__ import annotations

from kvroute.simulator.engine.radix import Run
from kvroute.simulator.engine.sequence import EngineRequest, Sequence


class Runner(Sequence):
    """The record of a request. While it decodes, `computed` and `generated` follow from the number of the step."""

    __slots__ = ("base", "breaks", "fill", "finish", "held", "last_output", "leaf", "left", "number", "serial")

    def __init__(self, request: EngineRequest, now: float) -> None:
        super().__init__(request, now)
        self.serial = -1
        """Number of its admission, by which running sequences are ordered; -1 while it does not run."""
        self.finish = -1
        """While it decodes: the step that gives its last token; else -1."""
        self.fill = -1
        """The step in which it completes its next key."""
        self.number = 0
        """While it decodes: it needs a block in each step of this number modulo the block size."""
        self.left = 0
        """Tokens to come, of one that decodes but was passed over in this step; else 0."""
        self.held = 0
        """Its blocks, those of the step under way included; not kept up to date while it decodes."""
        self.last_output = now
        """When a preempted one gave its last token [s]."""
        self.leaf: Run | None = None
        self.base = 0
        self.breaks: list[tuple[Run, int]] | None = None
