"""Any history of an engine and of what became of its events: never more is claimed than it holds, and when the stream
says that it is exact, that is so."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events.stream import Stream
from tests.router.knowledge.events.incarnation import Incarnation
from tests.router.knowledge.events.naive import Held, held, keys_of

SIZE = 2
PROMPTS = [
    [1, 2, 3, 4, 5, 6],
    [1, 2, 3, 4, 7, 8],
    [1, 2, 3, 4, 5, 6, 9, 10, 11],
    [12, 13, 14, 15],
    [1, 2, *range(16, 22)],
]
"""No two go on alike behind different beginnings: there an anchor can be wrong, see test_orphans."""


class History:
    """One replica through restarts of its engine, behind a line that loses and repeats."""

    def __init__(self, buffered: int) -> None:
        self.observed = Observed()
        self.stream = Stream(0, self.observed, SIZE)
        self.now = 0.0
        self._buffered = buffered
        self._truths: dict[float, Held] = {}
        self._engine = Incarnation(1, size=SIZE, buffered=buffered)
        self._seed = 1
        self._told = True
        self._sent = 0

    def request(self, which: int, drops: int) -> None:
        """The engine answers a request; of its batches those whose bit is set in `drops` do not arrive."""
        prompt = PROMPTS[which]
        self.stream.sent(keys_of(prompt, SIZE))
        self._engine.run(prompt, [30 + 10 * which + at for at in range(3)])
        self._truths.update(zip(self._engine.stamps, self._engine.truths, strict=True))
        for sequence in range(self._sent, len(self._engine.payloads)):
            if not drops >> (sequence - self._sent) & 1:
                self._deliver(sequence)
        self._sent = len(self._engine.payloads)

    def repeat(self, back: int) -> None:
        """A batch arrives again."""
        if self._told and back < self._sent:
            self._deliver(self._sent - 1 - back)

    def restart(self, told: bool) -> None:
        """Another engine in its place, with other hashes and numbers from 0."""
        self._seed += 1
        self.now += 1000.0
        self._engine = Incarnation(self._seed, size=SIZE, buffered=self._buffered)
        self._sent = 0
        self._told = told
        if told:
            self.stream.restarted(self.now)

    def reset(self) -> None:
        """The engine forgets its cache, and says so with its next step."""
        self._engine.reset()

    def replay(self, most: int, complete: bool) -> None:
        """The answer to a replay, if one is wanted: all of it or its beginning."""
        if not self._told or self.stream.wants is None:
            return
        batches = self._engine.replay(self.stream.wants)
        self.stream.replayed(batches[:most], complete and most >= len(batches), self.now)

    def give_up(self) -> None:
        """There is no replay."""
        if self.stream.wants is not None:
            self.stream.unreplayable(self.now)

    def take_over(self) -> None:
        """Another router goes on."""
        state = self.stream.state()
        self.stream = Stream(0, self.observed, SIZE)
        self.stream.restore(*state)

    def check(self) -> None:
        """What is observed, against what the engine held after the last batch that was applied."""
        self._settle()
        found = held(self.observed)
        truth = self._truths.get(self.stream.state()[1], {})
        if self.stream.source is Source.EXACT:
            assert found == truth
        for place, (key, count) in found.items():
            assert truth[place][0] == key
            assert count <= truth[place][1]

    def recover(self) -> None:
        """Nothing is lost any more: the stream comes to rest, exact if it was complete."""
        self.request(0, 0)
        for _ in range(20):
            if self.stream.wants is None:
                break
            self.replay(1_000_000, True)
        assert self.stream.wants is None
        self.check()
        assert self.stream.next == self._sent
        assert self.stream.source is not Source.EXPECTED

    def _deliver(self, sequence: int) -> None:
        if not self._told and sequence >= self.stream.next:
            self.stream.restarted(self.now)  # numbers alone cannot tell: the scrape of the start time does
        self._told = True
        self.stream.live(sequence, self._engine.payloads[sequence], self.now)

    def _settle(self) -> None:
        while self.stream.busy:
            self.stream.step(self.now)


steps = st.one_of(
    st.tuples(st.just("request"), st.integers(0, len(PROMPTS) - 1), st.sampled_from([0, 0, 0, 1, 2, 3, 7])),
    st.tuples(st.just("replay"), st.sampled_from([1, 3, 1_000_000]), st.booleans()),
    st.tuples(st.just("repeat"), st.integers(0, 5)),
    st.tuples(st.just("give_up")),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("reset")),
    st.tuples(st.just("take_over")),
)


@given(st.lists(steps, max_size=25), st.sampled_from([2, 5, 1000]))
@settings(deadline=None, max_examples=300)
def test_what_is_observed_is_what_the_engine_holds(history: list[tuple[str, int]], buffered: int) -> None:
    """Drops, repeats, partial and refused replays, restarts told and untold, resets, takeovers, in any order."""
    run = History(buffered)
    for name, *arguments in history:
        getattr(run, name)(*arguments)
        run.check()
    run.recover()
