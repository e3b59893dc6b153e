"""The part of the metrics page that tells what is known of the replicas' caches, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

import msgspec

from kvroute.router.control import catalogue as c
from kvroute.router.control.exposition import write_numbers
from kvroute.router.control.knowledge import (
    MEDIUMS,
    SHARING_STATES,
    SOURCES,
    Events,
    Knowledge,
    Known,
    Lens,
    sharing_state,
)
from kvroute.router.core.canary import Canary
from kvroute.router.knowledge.sharing.figures import Figures
from kvroute.router.knowledge.tokens.encoding import Counts

LENSES = ("token", "text")

_CANARY: tuple[tuple[c.Metric, Callable[[Canary], float]], ...] = (
    (c.CANARY_PREDICTED, attrgetter("predicted")),
    (c.CANARY_REPORTED, attrgetter("reported")),
    (c.CANARY_MISSING, attrgetter("missing")),
    (c.CANARY_UNKNOWN, attrgetter("unknown")),
    (c.CANARY_DISAGREEMENT, attrgetter("disagreement")),
    (c.CANARY_ALARM, lambda canary: int(canary.alarm)),
    (c.CANARY_ALARMS, attrgetter("alarms")),
)
_EVENTS: tuple[tuple[c.Metric, Callable[[Events], float | None]], ...] = (
    (c.EVENTS_CONNECTED, lambda events: int(events.connected)),
    (c.EVENTS_SILENCE, attrgetter("silence")),
    (c.EVENTS_DISCONNECTS, attrgetter("messages.disconnects")),
    (c.EVENTS_MESSAGES, attrgetter("messages.messages")),
    (c.EVENTS_BAD_MESSAGES, lambda events: events.messages.malformed + events.messages.foreign),
    (c.EVENTS_BATCHES, attrgetter("counts.batches")),
    (c.EVENTS_DUPLICATES, attrgetter("counts.duplicates")),
    (c.EVENTS_MALFORMED, attrgetter("counts.malformed")),
    (c.EVENTS_STORED, attrgetter("counts.stored")),
    (c.EVENTS_REMOVED, attrgetter("counts.removed")),
    (c.EVENTS_REMOVED_UNKNOWN, attrgetter("counts.removed_unknown")),
    (c.EVENTS_COPIED_UNKNOWN, attrgetter("counts.stored_unknown")),
    (c.EVENTS_CLEARED, attrgetter("counts.cleared")),
    (c.EVENTS_IGNORED, attrgetter("counts.ignored")),
    (c.EVENTS_UNUSABLE, attrgetter("counts.unusable")),
    (c.EVENTS_UNKNOWN, attrgetter("counts.unknown")),
    (c.EVENTS_ORPHANS, attrgetter("counts.orphans")),
    (c.EVENTS_ANCHORED, attrgetter("counts.anchored")),
    (c.EVENTS_DROPPED, attrgetter("counts.orphans_dropped")),
    (c.EVENTS_GAPS, attrgetter("counts.gaps")),
    (c.EVENTS_LOST, attrgetter("counts.lost")),
    (c.EVENTS_RESTARTS, attrgetter("counts.restarts")),
    (c.REPLAYS_ASKED, attrgetter("replays.asked")),
    (c.REPLAYS_UNANSWERED, attrgetter("replays.unanswered")),
    (c.REPLAYS_GIVEN_UP, attrgetter("replays.given_up")),
)
_SHARING: tuple[tuple[c.Metric, str], ...] = (
    (c.SHARING_ROUND_TRIP, "round_trip"),
    (c.SHARING_LAG, "lag"),
    (c.SHARING_ROUTERS, "routers"),
    (c.SHARING_FOREIGN, "foreign"),
    (c.SHARING_WAITING, "waiting"),
    (c.SHARING_COLD, "cold"),
    (c.SHARING_INGESTING, "ingesting"),
    (c.SHARING_FLUSHES, "flushes"),
    (c.SHARING_TOLD, "told"),
    (c.SHARING_HEARD, "heard"),
    (c.SHARING_DROPPED, "dropped"),
    (c.SHARING_LOST, "lost"),
    (c.SHARING_REPEATED, "repeated"),
    (c.SHARING_MALFORMED, "malformed"),
    (c.SHARING_LAPSES, "lapses"),
    (c.SHARING_GAPS, "observed_gaps"),
    (c.SHARING_SNAPSHOTS, "snapshots_loaded"),
)


def knowledge_pieces(knowledge: Knowledge) -> Iterator[str]:
    """The text, piece by piece. What is not known is left out rather than shown as 0."""
    yield from _of_replicas(knowledge.replicas)
    yield from _of_lenses(knowledge.lenses)
    yield from _of_sharing(knowledge.sharing)


def _of_replicas(replicas: Sequence[Known]) -> Iterator[str]:
    sources = (((one.name, source), int(one.source == source)) for one in replicas for source in SOURCES)
    yield from write_numbers(c.REPLICA_KNOWLEDGE, sources)
    yield from write_numbers(c.REPLICA_EXPECTED, (((one.name,), one.expected) for one in replicas))
    observed = (((one.name, name), one.observed.get(name, 0)) for one in replicas for _, name in MEDIUMS)
    yield from write_numbers(c.REPLICA_OBSERVED, observed)
    for metric, of_canary in _CANARY:
        yield from write_numbers(metric, (((one.name,), of_canary(one.canary)) for one in replicas))
    followed = [(one.name, one.events) for one in replicas if one.events is not None]
    for metric, of_events in _EVENTS:
        told = ((name, of_events(events)) for name, events in followed)
        yield from write_numbers(metric, (((name,), value) for name, value in told if value is not None))


def _of_lenses(lenses: Sequence[Lens]) -> Iterator[str]:
    yield from write_numbers(c.LENS, (((one.model, kind), int(one.kind == kind)) for one in lenses for kind in LENSES))
    counted = [(one, one.counts) for one in lenses if one.counts is not None]
    hows = msgspec.structs.fields(Counts)
    prompts = (((one.model, how.name), getattr(counts, how.name)) for one, counts in counted for how in hows)
    yield from write_numbers(c.LENS_PROMPTS, prompts)
    faults = [((one.model, reason), count) for one, _ in counted for reason, count in one.faults.items()]
    yield from write_numbers(c.LENS_FAULTS, faults)
    yield from write_numbers(c.LENS_BACKLOG, (((one.model,), one.backlog) for one, _ in counted))
    yield from write_numbers(c.LENS_CACHE, (((one.model,), one.cache_bytes) for one, _ in counted))


def _of_sharing(figures: Figures | None) -> Iterator[str]:
    state = None if figures is None else sharing_state(figures)
    yield from write_numbers(c.SHARING_STATE, [((one,), int(one == state)) for one in SHARING_STATES if state])
    failures = {} if figures is None else figures.failures
    yield from write_numbers(c.SHARING_FAILURES, [((kind.value,), count) for kind, count in failures.items()])
    for metric, name in _SHARING:
        yield from write_numbers(metric, [] if figures is None else [((), getattr(figures, name))])
