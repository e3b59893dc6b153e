"""The KV events of the whole fleet: where each replica publishes, who is subscribed to, and how far that goes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec
import zmq

from kvroute.router.core.changes import Change, Cleared, Medium, Stored, Words
from kvroute.router.core.decide import Deciding
from kvroute.router.core.replica import Replica
from kvroute.router.core.sources import Source
from kvroute.router.fleetwatch.backend import Backend
from kvroute.router.fleetwatch.background import run_in_background
from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.heard import Heard
from kvroute.router.hears import Tells
from kvroute.router.knowledge.choice import Chosen
from kvroute.router.knowledge.events import sources
from kvroute.router.knowledge.events.sources import Sources
from kvroute.router.knowledge.events.stream import Stream
from kvroute.router.knowledge.events.subscription import Wires
from kvroute.router.knowledge.lenses import Lenses
from kvroute.router.knowledge.sharing.observed_log import Progress
from kvroute.router.knowledge.sharing.observing import Observing
from kvroute.router.knowledge.sharing.sharing import Sharing

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""How often it is looked whether subscriptions still stand, and whether any row was cleared."""
SWEEP_SECONDS = 0.002
"""Between two steps, of half a millisecond each, that take away what cleared rows held."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 30.0
"""Between two questions where an engine publishes, when it did not answer; doubles."""
NO_EVENTS = (
    "publishes no KV events: what it holds is estimated from what was sent there. For exact knowledge start vLLM with"
    ' --kv-events-config \'{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5557",'
    '"replay_endpoint":"tcp://*:5558"}\''
)


class Hearing:
    """Follows the events of every replica whose prompts are read as tokens."""

    def __init__(
        self,
        deciding: Deciding,
        lenses: Lenses,
        client: EngineClient,
        kv_events: str = "auto",
        ports: tuple[int, int | None] = (5557, 5558),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kv_events`: auto, convention or off. `ports`: with convention, rank 0's for events and replay."""
        self._ports = ports
        self._deciding = deciding
        self._lenses = lenses
        self._client = client
        self._kv_events = kv_events
        self._clock = clock
        self._heard: dict[str, Heard] = {}
        self._backends: dict[str, Backend] = {}
        self.sharing: Sharing | None = None
        """None: this router is alone, and follows all events itself."""
        self._wires: Wires | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        lenses.chosen = self._lens_chosen

    def __iter__(self) -> Iterator[Heard]:
        return iter(self._heard.values())

    def of(self, name: str) -> Heard | None:
        """What is followed of this replica."""
        return self._heard.get(name)

    def close(self) -> None:
        """Unsubscribe from all."""
        for timer in (self._timer, self._sweeping):
            if timer is not None:
                timer.cancel()
        for heard in self._heard.values():
            if heard.task is not None:
                heard.task.cancel()
            heard.unsubscribe()
        self._heard.clear()
        if self._wires is not None:
            self._wires.close()

    @property
    def settled(self) -> bool:
        """It is known of every replica how its prompts are read, and where its events come from."""
        return all(heard.task is None and self._chosen(heard.replica) is not None for heard in self._heard.values())

    def _chosen(self, replica: Replica) -> Chosen | None:
        return self._lenses.of(replica.spec.models[0]) if replica.spec.models else None

    # --- what the membership tells ---

    def serves(
        self, model: str, engine: str, root: str | None, block_tokens: int | None, context_tokens: int | None
    ) -> None:
        """An engine serves this model: its lens is looked for."""
        self._lenses.serve(model, engine, root, block_tokens, context_tokens)

    @property
    def _shared(self) -> Observing | None:
        """Who decides which of several routers follows a replica's events."""
        return None if self.sharing is None else self.sharing.observing

    def served(self, replica: Replica, backend: Backend, life: float) -> None:
        """A replica serves, for the first time or again. `life`: when its engine started [s since 1970], or 0."""
        if self.sharing is not None:
            self.sharing.joined(replica.name, life)
        heard = self._heard.get(replica.name)
        if heard is not None and heard.replica is not replica:
            self._leave(heard)
            heard = None
        if heard is None:
            heard = self._heard[replica.name] = Heard(replica, self._clock)
        self._backends[replica.name] = backend
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        if heard.task is None:  # one that came back may publish elsewhere
            self._consider(heard)

    def left(self, replica: Replica) -> None:
        """A replica is gone."""
        if self.sharing is not None:
            self.sharing.left(replica.name)
        self._lenses.leave(replica.spec.endpoint)
        heard = self._heard.get(replica.name)
        if heard is not None and heard.replica is replica:
            self._leave(self._heard.pop(replica.name))
            self._backends.pop(replica.name, None)

    def restarted(self, replica: Replica) -> None:
        """Its engine's process is another one."""
        if self.sharing is not None:
            self.sharing.restarted(replica.name)
        heard = self._heard.get(replica.name)
        if heard is not None and heard.stream is not None:
            heard.stream.restarted(self._clock())
            heard.go_on()
            self._settle(heard)

    # --- what the traffic tells ---

    def sent(self, replica: Replica, keys: Sequence[int]) -> None:
        """A prompt goes there: events whose beginning was lost may turn out to continue it."""
        heard = self._heard.get(replica.name)
        if heard is not None and heard.stream is not None:
            heard.stream.sent(keys)
            heard.go_on()

    def tells(self, replica: Replica) -> Tells:
        """What is known of its events."""
        heard = self._heard.get(replica.name)
        chosen = self._chosen(replica)
        tokenized = chosen is not None and chosen.lens is not None
        if heard is None or heard.stream is None:
            return Tells(tokenized)
        return Tells(tokenized, heard.stream.counts.batches > 0, heard.stream.mismatch is not None)

    def reset(self, replica: Replica) -> bool:
        """The canary saw that its cache is empty, which the engine itself tells only with its next step."""
        heard = self._heard.get(replica.name)
        if heard is None:
            return False
        if heard.stream is None:  # whoever follows its events is told
            return self._shared is not None and self._shared.doubt(replica.name)
        log.warning("%s: finds nothing of what it told to hold: its cache was reset, and is forgotten", replica.name)
        self._deciding.cleared(replica)
        heard.stream.reset(self._clock())
        heard.go_on()
        return True

    # --- finding and subscribing ---

    def _lens_chosen(self, model: str) -> None:
        for heard in self._heard.values():
            if heard.task is None and model in heard.replica.spec.models[:1]:
                self._consider(heard)

    def _consider(self, heard: Heard) -> None:
        """Subscribe where that is of use; say once what is known of the replica and how."""
        replica = heard.replica
        chosen = self._chosen(replica)
        if chosen is None:
            return
        if chosen.lens is None:
            self._forget(heard)
            self._say(heard, f"{chosen.told}; what it holds is estimated from what was sent there")
        elif self._kv_events == "off":
            self._say(heard, f"{chosen.told}; KV events are switched off (knowledge.kv_events)")
        else:
            heard.task = run_in_background(
                self._find(heard, chosen.told, chosen.lens.block_tokens), f"KV events of {replica.name}"
            )
            heard.task.add_done_callback(partial(self._found, heard))

    def _found(self, heard: Heard, task: asyncio.Task[None]) -> None:
        if heard.task is task:
            heard.task = None

    async def _find(self, heard: Heard, lens: str, block_tokens: int) -> None:
        """Ask until there is an answer; what is subscribed stays until it says otherwise."""
        replica = heard.replica
        rank = replica.spec.rank or 0
        pause = RETRY_SECONDS
        while True:
            found = await self._sources(self._backends[replica.name], rank)
            source = found.of(rank)
            if source is not None or not found.problems:
                break
            if pause == RETRY_SECONDS:
                log.warning("%s: KV events: %s; it is asked again", replica.name, "; ".join(found.problems))
                if heard.source is None:
                    self._say(heard, f"{lens}; whether it publishes KV events is not known: {found.problems[0]}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_RETRY_SECONDS)
        for problem in found.problems:
            log.warning("%s: KV events: %s", replica.name, problem)
        if source is not None and source == heard.source and block_tokens == heard.block_tokens:
            return
        self._forget(heard)
        if source is None:
            self._say(heard, f"{lens}; {NO_EVENTS}")
            return
        where = source.events + (f", replay {source.replay}" if source.replay else ", no replay")
        self._say(heard, f"{lens}; KV events from {where} (told by {source.found.value})")
        heard.source, heard.block_tokens = source, block_tokens
        self._deciding.occupancy.block_tokens[replica.row] = float(block_tokens)
        if self._shared is None:
            self._subscribe(heard, None)
        else:
            self._shared.joined(replica.name, replica.row, block_tokens)

    async def _sources(self, backend: Backend, rank: int) -> Sources:
        """As configured, else as the engine tells, else (if asked for) at the usual ports."""
        try:
            if backend.events is not None:
                return sources.configured(backend.events, backend.replay, ranks=range(rank + 1))
            found = await sources.ask(self._client, backend.endpoint)
            if found.of(rank) is None and self._kv_events == "convention":
                usual = sources.by_convention(backend.endpoint, range(rank + 1), *self._ports)
                return msgspec.structs.replace(usual, problems=found.problems)
            return found
        except sources.Unusable as error:
            return Sources(problems=(str(error),))

    def _subscribe(self, heard: Heard, progress: Progress | None) -> None:
        """Follow its events ourselves; `progress`: from where another router was."""
        if self._wires is None:
            self._wires = Wires()
        stream = Stream(
            heard.replica.row,
            self._deciding.index.observed,
            heard.block_tokens,
            on_changes=partial(self._changed, heard),
            on_stored=partial(self._stored, heard.replica),
            on_source=lambda _: self._settle(heard),
        )
        try:
            heard.subscribe(stream, self._wires, progress)
        except zmq.ZMQError as error:
            log.warning("%s: KV events: cannot subscribe to %s: %s", heard.replica.name, heard.source, error)
            self._forget(heard)

    def _forget(self, heard: Heard) -> None:
        """Follow its events no more, and forget what they told."""
        if heard.source is None:
            return
        heard.unsubscribe()
        if self._shared is not None:
            self._shared.left(heard.replica.name)
        heard.source, heard.foreign = None, False
        self._deciding.index.observed.clear(heard.replica.row)
        self._sourced(heard, Source.EXPECTED)
        self._deciding.forgotten(heard.replica)

    def _leave(self, heard: Heard) -> None:
        if heard.task is not None:
            heard.task.cancel()
            heard.task = None
        self._forget(heard)

    def _say(self, heard: Heard, about: str) -> None:
        if about != heard.about:
            heard.about = about
            log.info("%s: %s", heard.replica.name, about)

    # --- what the streams tell ---

    def _changed(self, heard: Heard, sequence: int, changes: tuple[Change, ...]) -> None:
        self._record(heard, changes)
        if any(isinstance(change, Cleared) for change in changes):
            if heard.emptied():
                self._deciding.cleared(heard.replica)
            else:  # only our knowledge of it is
                self._deciding.forgotten(heard.replica)

    def _record(self, heard: Heard, changes: tuple[Change, ...]) -> None:
        if self._shared is not None and heard.stream is not None:
            self._shared.record(heard.replica.name, changes, Progress(*heard.stream.state()))

    def _stored(self, replica: Replica, keys: Words, *, timely: bool = True) -> None:
        deciding = self._deciding
        if deciding.ledger.awaits(replica.row) or deciding.others.awaits(replica.row):
            deciding.stored(replica, keys.tolist(), self._clock(), timely=timely)

    def _tick(self) -> None:
        for heard in self._heard.values():
            if heard.subscription is not None:
                self._settle(heard)
        if self._sweeping is None:
            self._sweep()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _sweep(self) -> None:
        """Take away what cleared rows held, little by little."""
        loop, more = asyncio.get_running_loop(), self._deciding.index.observed.sweep()
        self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep) if more else None

    def _settle(self, heard: Heard) -> None:
        mismatch = None if heard.stream is None else heard.stream.mismatch
        if mismatch is not None and not heard.mismatched:
            heard.mismatched = True
            told = (
                f"its KV events are of blocks of {mismatch.engine_tokens} tokens, which ours of {mismatch.own_tokens}"
            )
            self._say(heard, f"{told} do not divide: set knowledge.block_tokens; until then what it holds is estimated")
        source = heard.effective()
        if source is not None and source is not heard.replica.source:
            self._record(heard, ())
            self._sourced(heard, source)

    def _sourced(self, heard: Heard, source: Source) -> None:
        before = heard.replica.source
        self._deciding.sourced(heard.replica, source, self._clock())
        if before is not source:
            log.info("%s: knowledge of its cache is %s", heard.replica.name, source.value)

    # --- what other routers' streams tell ---

    def ingest(self, replica: str, progress: Progress | None) -> None:
        """Follow this replica's events from `progress` on; None: another router does, and shares them."""
        heard = self._heard.get(replica)
        if heard is None or heard.source is None:
            return
        heard.unsubscribe()
        if progress is None:
            heard.foreign = True
        else:
            self._subscribe(heard, progress)

    def sourced(self, replica: str, source: Source) -> None:
        """How far what another router observes there may be believed."""
        heard = self._heard.get(replica)
        if heard is not None and heard.source is not None:
            heard.foreign = True
            self._sourced(heard, source)

    def changed(self, replica: str, changes: Sequence[Change]) -> None:
        """Another router's events changed what is observed there."""
        heard = self._heard.get(replica)
        if heard is None:
            return
        for change in changes:
            if isinstance(change, Cleared):
                self._deciding.forgotten(heard.replica)
            elif isinstance(change, Stored) and change.medium == Medium.GPU:
                self._stored(heard.replica, change.keys, timely=False)

    def doubted(self, replica: str) -> None:
        """Another router finds nothing there of what the events told, which we follow."""
        heard = self._heard.get(replica)
        if heard is not None and heard.stream is not None:
            self.reset(heard.replica)
