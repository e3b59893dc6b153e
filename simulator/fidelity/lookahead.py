"""Whether an engine schedules ahead, told from when its requests were scheduled and answered."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.fidelity.recording import Timed

SHARE = 0.05
"""Of the requests that can tell, those that must have seen a step end before their first token."""
LEAST = 2
"""As many at least."""
EXPECTED = 8.0
"""Requests that should have seen one, for it to tell something that none did."""
MARGIN = 5e-4
"""Stamps nearer to each other than that are of one step end [s]."""


def looks_ahead(requests: Sequence[Timed], limits: Limits) -> bool | None:
    """Whether steps end while a request waits for a first token that one step could give; None: it cannot be told.

    An engine that waits for each step puts a prompt that fits into one step into the very next one, so nothing can end,
    and nobody be taken in, between the two. One that schedules ahead has a step under way at that moment, if it has
    anything else to do; its end shows where some other request's stamp is of it.
    """
    marks = _marks(requests)
    span = marks[-1] - marks[0] if marks else 0.0
    seen, telling, expected = 0, 0, 0.0
    for one in _telling(requests, limits):
        begun = one.scheduled or 0.0
        place = bisect_left(marks, begun + MARGIN)
        telling += 1
        seen += place < len(marks) and marks[place] < one.first - MARGIN
        expected += min(1.0, 0.5 * (one.first - begun) * len(marks) / span) if span else 0.0
    if seen >= max(LEAST, SHARE * telling):
        return True
    return False if expected >= EXPECTED else None


def _marks(requests: Sequence[Timed]) -> list[float]:
    """Moments at which a step ended, as far as stamps tell."""
    stamps = sorted(stamp for one in requests for stamp in (one.queued, one.first, one.last) if stamp is not None)
    marks: list[float] = []
    for stamp in stamps:
        if not marks or stamp - marks[-1] > MARGIN:
            marks.append(stamp)
    return marks


def _telling(requests: Sequence[Timed], limits: Limits) -> list[Timed]:
    """Requests taken in while others decoded and none prefilled, of a prompt that one step could compute."""
    known = sorted((one for one in requests if one.scheduled is not None), key=lambda one: one.scheduled or 0.0)
    room = limits.max_num_batched_tokens - limits.max_num_seqs
    found: list[Timed] = []
    prefilling = decoding = -math.inf
    place = 0
    while place < len(known):
        begun = known[place].scheduled or 0.0
        group = [one for one in known[place:] if (one.scheduled or 0.0) < begun + MARGIN]
        if prefilling < begun < decoding - MARGIN and sum(one.prompt_tokens for one in group) <= room:
            found += group
        prefilling = max(prefilling, *(one.first for one in group))
        decoding = max(decoding, *(one.last for one in group))
        place += len(group)
    return found
