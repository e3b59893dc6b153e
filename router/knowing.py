"""What is known of each replica's cache, and how well, as the control plane shows it."""

from __future__ import annotations

import time
from collections.abc import Callable

from kvroute.router.control.contract import CanaryStatus, EventStatus, SharingStatus
from kvroute.router.control.knowledge import MEDIUMS, Events, Knowledge, Known, Lens, sharing_state
from kvroute.router.core.decide import Deciding
from kvroute.router.core.replica import Replica
from kvroute.router.core.sources import Source
from kvroute.router.heard import Heard
from kvroute.router.hearing import Hearing
from kvroute.router.knowledge.lenses import Lenses
from kvroute.router.knowledge.sharing.figures import Figures
from kvroute.router.membership import Membership


class Knowing:
    """Reads fleet, canaries, KV events, lenses and sharing; changes nothing."""

    def __init__(
        self,
        deciding: Deciding,
        membership: Membership,
        hearing: Hearing,
        lenses: Lenses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deciding = deciding
        self._membership = membership
        self._hearing = hearing
        self._lenses = lenses
        self._clock = clock

    def all(self) -> Knowledge:
        """Everything, for the metrics."""
        replicas = [replica for _, replica in self._membership]
        models = dict.fromkeys(model for replica in replicas for model in replica.spec.models[:1])
        lenses = [lens for model in models if (lens := self._lens(model)) is not None]
        return Knowledge([self._known(replica) for replica in replicas], lenses, self._figures())

    # --- one replica ---

    def about(self, replica: Replica) -> str:
        """Where the knowledge of its cache comes from, and why: a sentence."""
        heard = self._hearing.of(replica.name)
        if heard is None:
            return ""
        if heard.foreign:
            return f"{heard.about}; another router follows them and shares what they tell"
        followed = self._followed(heard)
        if followed is not None and not followed.connected:
            return f"{heard.about}; no connection to them now"
        return heard.about

    def events(self, replica: Replica) -> EventStatus | None:
        """Its KV events; None: there are none that can be used."""
        heard = self._hearing.of(replica.name)
        if heard is None or heard.source is None:
            return None
        address, followed = heard.source.events, self._followed(heard)
        if followed is None:
            return EventStatus(address=address, foreign=heard.foreign)
        counts = followed.counts
        return EventStatus(
            address=address,
            foreign=False,
            connected=followed.connected,
            next_sequence=followed.next,
            last_batch_seconds=followed.silence,
            batches=counts.batches,
            gaps=counts.gaps,
            lost=counts.lost,
            restarts=counts.restarts,
        )

    def canary(self, replica: Replica) -> CanaryStatus:
        """Whether predictions and reports agree."""
        canary = self._membership.cached(replica.name).canary
        hint = self._membership.hint(replica).value if canary.alarm else ""
        return CanaryStatus(disagreement=canary.disagreement, alarm=canary.alarm, hint=hint)

    def observed(self, replica: Replica) -> dict[str, int]:
        """Blocks that its KV events tell of, by medium."""
        observed = self._deciding.index.observed
        return {name: observed.blocks(replica.row, medium) for medium, name in MEDIUMS}

    def cached_tokens(self, replica: Replica) -> float:
        """KV tokens that it is believed to hold, by the account that counts [tokens]."""
        occupancy = self._deciding.occupancy
        expected, observed = occupancy.cached_tokens(replica.row), occupancy.observed_tokens(replica.row)
        if replica.source is Source.EXACT:
            return observed
        return max(expected, observed)  # while events are lost each account has blocks that the other lacks

    # --- what they share ---

    def lens(self, model: str) -> tuple[str, str]:
        """What reads this model's prompts, `token` or `text`, and why: a sentence."""
        base, _ = self._deciding.fleet.base(model)
        chosen = self._lenses.of(base)
        if chosen is None:
            return "text", "text lens: no other is known for this model"
        return ("text" if chosen.lens is None else "token"), chosen.told

    def sharing(self) -> SharingStatus | None:
        """How knowledge is shared with other routers; None: with nobody."""
        figures = self._figures()
        if figures is None:
            return None
        return SharingStatus(
            state=sharing_state(figures),
            state_seconds=self._clock() - figures.since,
            routers=figures.routers,
            foreign=figures.foreign,
            lag_seconds=figures.lag,
            round_trip_seconds=figures.round_trip,
            ingesting=figures.ingesting,
        )

    # --- inside ---

    def _figures(self) -> Figures | None:
        sharing = self._hearing.sharing
        return None if sharing is None else sharing.figures

    def _known(self, replica: Replica) -> Known:
        heard = self._hearing.of(replica.name)
        return Known(
            replica.name,
            replica.source.value,
            self._deciding.index.blocks(replica.row),
            self.observed(replica),
            self._membership.cached(replica.name).canary,
            None if heard is None else self._followed(heard),
        )

    def _followed(self, heard: Heard) -> Events | None:
        """Its events, where this router follows them itself."""
        stream, subscription = heard.stream, heard.subscription
        if stream is None or subscription is None:
            return None
        status = subscription.status
        silence = None if status.last_message is None else self._clock() - status.last_message
        return Events(status.connected, silence, stream.next, stream.counts, status.heard, status.replays)

    def _lens(self, model: str) -> Lens | None:
        chosen = self._lenses.of(model)
        if chosen is None:
            return None
        lens = chosen.lens
        if lens is None:
            return Lens(model, "text")
        return Lens(model, "token", lens.counts, lens.encoding.backlog, lens.segments.bytes, chosen.faults)
