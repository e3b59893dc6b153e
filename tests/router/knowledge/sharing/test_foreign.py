"""Other routers' leases: whatever is lost, repeated or out of order, nothing of them stays."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core.decide import Deciding
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.sharing import records
from kvroute.router.knowledge.sharing.expected_log import ExpectedLog
from kvroute.router.knowledge.sharing.foreign import Foreign
from kvroute.scorers.contract import Column, Request
from tests.router.core.deciding import prompt, sent, world

_OWN, _OTHER = 1, 2


class Teller:
    """Another router, and what it has put on the wire so far."""

    def __init__(self, life: float = 0.0) -> None:
        self.deciding = world(3)
        self.log = ExpectedLog(_OTHER, lambda replica: life)
        self.deciding.ledger.journal = self.log
        self.running: list[tuple[Request, object]] = []
        self.entries: list[tuple[str, bytes]] = []
        self.beats: list[records.Beat] = []

    def open(self, size: int, *, stream: bool) -> None:
        request = prompt(f"{size} " + "x" * 20 * size, stream=stream)
        self.running.append((request, sent(self.deciding.decide(request, 0.0))))

    def end(self, place: int, *, begun: bool, completed: bool) -> None:
        if self.running:
            request, decision = self.running.pop(place % len(self.running))
            if begun:
                self.deciding.ledger.prefilled(decision.lease, 0.0)  # type: ignore[attr-defined]
            self.deciding.settle(request, decision, 0.0, completed=completed, output_tokens=7)  # type: ignore[arg-type]

    def tell(self) -> None:
        while pages := self.log.batch():
            self.entries += [(page.replica, page.data) for page in pages]
            self.log.sent()
        packed = records.pack_beat(_OTHER, len(self.beats) + 1, self.log.newest, self.log.open)
        self.beats.append(records.unpack_beat(packed))


def heard(foreign: Foreign, *entries: tuple[str, bytes]) -> None:
    for replica, data in entries:
        for _ in foreign.take(replica, data, 0.0):
            pass


def beaten(foreign: Foreign, beat: records.Beat) -> None:
    for _ in foreign.beat(beat, True, 0.0):
        pass


def loads(deciding: Deciding) -> list[list[float]]:
    columns = (Column.REQUESTS, Column.QUEUED_TOKENS, Column.DECODING, Column.ACTIVE_TOKENS)
    return [[round(replica.cells[column], 6) for column in columns] for replica in deciding.fleet]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 30), st.booleans(), st.booleans()),
        st.tuples(st.just("tell")),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(_STEPS, st.data())
def test_nothing_of_a_router_stays_once_it_is_idle(steps: list[tuple[object, ...]], data: st.DataObject) -> None:
    """Entries and beats in any order, several times or never: after the last beat of an idle router no load is left."""
    teller = Teller()
    for kind, *about in steps:
        if kind == "open":
            teller.open(int(about[0]), stream=bool(about[1]))  # type: ignore[call-overload]
        elif kind == "end":
            teller.end(int(about[0]), begun=bool(about[1]), completed=bool(about[2]))  # type: ignore[call-overload]
        else:
            teller.tell()
    teller.tell()
    while teller.running:
        teller.end(0, begun=True, completed=True)
    deciding = world(3)
    foreign = Foreign(deciding, _OWN)
    told: list[object] = [*teller.entries, *teller.beats]
    for thing in data.draw(st.lists(st.sampled_from(told), max_size=2 * len(told))):
        if isinstance(thing, records.Beat):
            beaten(foreign, thing)
        else:
            heard(foreign, thing)  # type: ignore[arg-type]
        for replica in deciding.fleet:
            assert replica.cells[Column.REQUESTS] == replica.open
    teller.beats.extend(teller.beats[-1:])  # so that the last beat's number is beyond those drawn
    teller.tell()
    beaten(foreign, teller.beats[-1])
    assert len(foreign) == 0
    assert loads(deciding) == [[0.0] * 4] * 3


@settings(max_examples=40, deadline=None)
@given(_STEPS)
def test_what_is_heard_in_order_is_what_was_done(steps: list[tuple[object, ...]]) -> None:
    """A follower that misses nothing has the same load and the same expected blocks as the router itself."""
    teller = Teller()
    deciding = world(3)
    foreign = Foreign(deciding, _OWN)
    teller.tell()
    beaten(foreign, teller.beats[-1])
    done = 0
    for kind, *about in steps:
        if kind == "open":
            teller.open(int(about[0]), stream=True)  # type: ignore[call-overload]
        elif kind == "end":
            teller.end(int(about[0]), begun=bool(about[1]), completed=bool(about[2]))  # type: ignore[call-overload]
        teller.tell()
        heard(foreign, *teller.entries[done:])
        done = len(teller.entries)
        assert loads(deciding) == loads(teller.deciding)
        assert len(foreign) == len(teller.running)
        for row in range(3):
            assert deciding.index.blocks(row) == teller.deciding.index.blocks(row)


def test_a_repeated_entry_counts_once() -> None:
    """A batch whose answer was lost is sent again; a lease of it is opened once."""
    teller = Teller()
    teller.open(5, stream=True)
    teller.tell()
    deciding = world(3)
    foreign = Foreign(deciding, _OWN)
    beaten(foreign, teller.beats[-1])
    heard(foreign, *teller.entries, *teller.entries)
    assert (len(foreign), foreign.repeated) == (1, 1)


def test_requests_of_an_engine_that_is_gone_count_no_more() -> None:
    """What was sent to an engine before it restarted neither loads it now nor is in its cache."""
    teller = Teller(life=1000.0)
    teller.open(5, stream=True)
    teller.end(0, begun=True, completed=True)
    teller.open(9, stream=True)
    teller.tell()
    deciding = world(3)
    foreign = Foreign(deciding, _OWN)
    for replica in deciding.fleet:
        foreign.lived(replica.name, 2000.0)
    beaten(foreign, teller.beats[-1])
    heard(foreign, *teller.entries)
    assert (len(foreign), len(deciding.index)) == (0, 0)


def test_lost_entries_are_counted() -> None:
    """The numbers of a router's entries show what did not arrive."""
    teller = Teller()
    for size in range(9):
        teller.open(size, stream=True)
        teller.tell()
    mine = [entry for entry in teller.entries if entry[0] == teller.entries[0][0]]
    foreign = Foreign(world(3), _OWN)
    heard(foreign, mine[0], *mine[2:])
    assert foreign.gaps == 1


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_nonsense_is_counted_and_survived(noise: bytes, at: int) -> None:
    """Bytes that no router wrote, or that were cut or overwritten, raise nothing and leave no load behind."""
    teller = Teller()
    teller.open(3, stream=True)
    teller.tell()
    deciding = world(3)
    foreign = Foreign(deciding, _OWN)
    beaten(foreign, teller.beats[0])
    ((replica, data),) = teller.entries
    for bad in (noise, data[:at], data[:at] + noise, data[:at] + noise + data[at + len(noise) :]):
        heard(foreign, (replica, bad))
    for _ in foreign.left(replica, 0.0):
        pass
    assert len(foreign) == 0


def test_what_others_send_is_heard_where_events_were_lost() -> None:
    """Its keys may tell what later events are about; where all is known, or nothing, nobody needs them."""
    teller, deciding = Teller(), world(3)
    foreign = Foreign(deciding, _OWN)
    anchors: list[tuple[str, list[int]]] = []
    foreign.sent = lambda replica, keys: anchors.append((replica.name, list(keys)))
    for size in range(6):
        teller.open(size + 1, stream=False)
    teller.tell()
    places = [replica for replica, _ in teller.entries]
    for replica, source in zip(deciding.fleet, (Source.EXPECTED, Source.RECOVERING, Source.EXACT), strict=True):
        deciding.sourced(replica, source, 0.0)
    beaten(foreign, teller.beats[-1])
    heard(foreign, *teller.entries)
    wanted = [list(request.keys) for request, decision in teller.running if decision.replica.name == "r1"]  # type: ignore[attr-defined]
    assert wanted
    assert set(places) == {"r0", "r1", "r2"}
    assert anchors == [("r1", keys) for keys in wanted]
