"""A sequence as the closed form keeps it: by the steps in which something happens to it."""

from __future__ import annotations

import math

from kvroute.simulator.engine.radix import Run
from kvroute.simulator.engine.sequence import EngineRequest, Phase, Sequence


class Runner(Sequence):
    """The record of a request. While it decodes, `computed` and `generated` follow from the number of the step."""

    # serial: number of its admission, by which running sequences are ordered; -1 while it does not run.
    # finish: while it decodes, the step that gives its last token; else -1.
    # fill: the step in which it completes its next key.
    # number: while it decodes, it needs a block in each step of this number modulo the block size.
    # left: tokens to come, of one that decodes but was passed over in this step; else 0.
    # held: its blocks, those of the step under way included; not kept up to date while it decodes.
    # last_output: when a preempted one gave its last token [s].
    # leaf, base, breaks: see `radix.Holder`.

    __slots__ = ("base", "breaks", "fill", "finish", "held", "last_output", "leaf", "left", "number", "serial")

    def __init__(self, request: EngineRequest, now: float) -> None:
        # The fields of `Sequence`, without the call: one of these is made for each request of a run.
        self.request = request
        self.phase = Phase.WAITING
        self.computed = self.generated = self.stored = self.reported = self.cached_tokens = self.preemptions = 0
        self.ready = -math.inf
        self.arrived = self.scheduled = self.first_output = self.ended = now
        self.serial = self.finish = self.fill = -1
        self.number = self.left = self.held = self.base = 0
        self.last_output = now
        self.leaf: Run | None = None
        self.breaks: list[tuple[Run, int]] | None = None
