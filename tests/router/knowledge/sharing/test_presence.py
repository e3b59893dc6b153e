"""Beats: when a router is taken to be dead, and when it must take itself to have been."""

from __future__ import annotations

from kvroute.router.knowledge.sharing.presence import Peers, Pulse
from kvroute.router.knowledge.sharing.records import Beat, unpack_beat


def beat(router: int, number: int = 1, *, leaving: bool = False) -> Beat:
    return Beat(router, number, 0, leaving, frozenset())


def test_a_peer_lives_for_the_ttl_after_its_last_beat() -> None:
    """Each beat gives it the whole time again; without one it lapses, once."""
    peers = Peers(2.0)
    peers.heard(beat(7), 0.0, 10.0)
    peers.heard(beat(7, 2), 0.0, 11.0)
    assert peers.lapsed(12.9) == []
    assert peers.alive(7)
    assert peers.lapsed(13.0) == [7]
    assert peers.lapsed(13.0) == []
    assert not peers.alive(7)


def test_an_old_beat_gives_only_what_is_left_of_its_time() -> None:
    """Beats found in the Stream at the start say when they were written: the dead do not come to life."""
    peers = Peers(2.0)
    peers.heard(beat(7), 5.0, 10.0)
    peers.heard(beat(8), 1.5, 10.0)
    assert (peers.alive(7), peers.alive(8)) == (False, True)
    assert peers.lapsed(10.5) == [8]


def test_a_peer_that_leaves_is_gone_at_once() -> None:
    """Its last beat ends its life."""
    peers = Peers(2.0)
    peers.heard(beat(7), 0.0, 10.0)
    peers.heard(beat(7, 2, leaving=True), 0.0, 10.1)
    assert len(peers) == 0


def test_a_router_notices_its_own_silence() -> None:
    """Beats that come half the TTL late or more may have cost it its life in others' eyes; the first one cannot."""
    pulse = Pulse(1, 2.0)
    late = []
    for now in (0.0, 0.5, 1.0, 4.0, 4.5):
        pulse.beat(0, [], now)
        late.append(pulse.arrived(now))
    assert late == [False, False, False, True, False]
    assert pulse.lapses == 1


def test_lag_is_how_long_a_beat_takes_to_come_back() -> None:
    """While one is under way, the lag is at least so long."""
    pulse = Pulse(1, 2.0)
    first = unpack_beat(pulse.beat(0, [], 1.0))
    pulse.arrived(1.1)
    assert pulse.lag(1.2) == 1.2 - 1.0
    assert pulse.heard(first, 1.3) == 1.0
    assert pulse.lag(9.0) == 1.3 - 1.0
    assert pulse.heard(first, 1.4) is None


def test_a_router_that_does_not_hear_itself_is_deaf() -> None:
    """Beats that were written and do not come back show that the wrong place is read; those never written do not."""
    pulse = Pulse(1, 2.0)
    pulse.beat(0, [], 1.0)
    assert not pulse.deaf(9.0, 4.0)
    pulse.arrived(1.0)
    assert not pulse.deaf(4.9, 4.0)
    assert pulse.deaf(5.1, 4.0)
    pulse.listen_anew()
    assert not pulse.deaf(9.0, 4.0)


def test_a_beat_may_come_back_before_its_writing_is_confirmed() -> None:
    """The reader may be quicker than the writer's answer: that beat is heard, and not waited for."""
    pulse = Pulse(1, 2.0)
    first = unpack_beat(pulse.beat(0, [], 1.0))
    assert pulse.heard(first, 1.001) == 1.0
    pulse.arrived(1.002)
    assert not pulse.deaf(9.0, 4.0)
    assert pulse.lag(9.0) < 0.01
