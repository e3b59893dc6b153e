"""Whether an engine schedules ahead, told from when its requests were scheduled and answered."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.fidelity.recording import Timed

LEAST = 5
"""Requests that must tell."""
SHARE = 0.05
"""Of them that must have seen a step end between being scheduled and their first token."""
MARGIN = 5e-4
"""Stamps nearer to each other than that are of one step end [s]."""


def looks_ahead(requests: Sequence[Timed], limits: Limits) -> bool | None:
    """Whether steps end while a request waits for a first token that one step could give; None: it cannot be told.

    An engine that waits for each step puts a prompt that fits into one step into the very next one, so nothing can end,
    and nobody be taken in, between the two. One that schedules ahead has a step under way at that moment.
    """
    marks = sorted(stamp for one in requests for stamp in (one.queued, one.first, one.last) if stamp is not None)
    eligible = seen = 0
    for one in _alone(requests, limits):
        assert one.scheduled is not None
        eligible += 1
        place = bisect_left(marks, one.scheduled + MARGIN)
        seen += place < len(marks) and marks[place] < one.first - MARGIN
    return None if eligible < LEAST else seen >= SHARE * eligible


def _alone(requests: Sequence[Timed], limits: Limits) -> list[Timed]:
    """Requests that nobody shared prefill with but those of the same moment, all of which fit into one step."""
    known = sorted((one for one in requests if one.scheduled is not None), key=lambda one: one.scheduled or 0.0)
    room = limits.max_num_batched_tokens - limits.max_num_seqs
    found: list[Timed] = []
    busy_until = float("-inf")
    place = 0
    while place < len(known):
        begun = known[place].scheduled or 0.0
        group = [one for one in known[place:] if (one.scheduled or 0.0) < begun + MARGIN]
        if begun > busy_until and sum(one.prompt_tokens for one in group) <= room:
            found += group
        busy_until = max(busy_until, *(one.first for one in group))
        place += len(group)
    return found
