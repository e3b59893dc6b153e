"""One replica's stream: order, gaps, replays, restarts; how far the knowledge goes at each moment."""

from __future__ import annotations

from typing import Any

import pytest

from kvroute.router.core.changes import Change, Cleared, Medium, Removed, Stored
from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source
from kvroute.router.knowledge.events import ingest
from kvroute.router.knowledge.events import stream as streams
from kvroute.router.knowledge.events.batch import MOST_BYTES
from kvroute.router.knowledge.events.ingest import Mismatch
from kvroute.router.knowledge.events.stream import Stream
from tests.router.knowledge.events.naive import CLEARED, held, keys_of, payload, removed, stored


def _block(number: int, ts: float | None = None) -> bytes:
    """Batch `number`: a prompt of one block of its own."""
    return payload(stored([100 + number], None, [number], 1), ts=number if ts is None else ts)


class Told:
    """A stream and all that it told."""

    def __init__(self, block_tokens: int | None = 1) -> None:
        self.observed = Observed()
        self.changes: list[tuple[int, tuple[Change, ...]]] = []
        self.keys: list[int] = []
        self.sources: list[Source] = []
        self.stream = Stream(
            0,
            self.observed,
            block_tokens,
            on_changes=lambda sequence, changes: self.changes.append((sequence, changes)),
            on_stored=lambda keys: self.keys.extend(keys.tolist()),
            on_source=self.sources.append,
        )

    @property
    def hashes(self) -> set[int]:
        """What is observed."""
        return {hash_ for _, hash_ in held(self.observed)}

    def live(self, *numbers: int) -> None:
        """Batches of `_block`."""
        for number in numbers:
            self.stream.live(number, _block(number), 0.0)

    def replay(self, *numbers: int, complete: bool = True) -> None:
        """An answer of such batches."""
        self.stream.replayed([(number, _block(number)) for number in numbers], complete, 0.0)


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_stream_from_the_start_is_exact(told: Told) -> None:
    """Batch 0 and those behind it: nothing is wanted, everything is known."""
    assert (told.stream.source, told.stream.behind, told.stream.wants) == (Source.EXPECTED, True, 0)
    told.live(0, 1, 2)
    assert (told.stream.source, told.stream.behind, told.stream.wants, told.stream.next) == (
        Source.EXACT,
        False,
        None,
        3,
    )
    assert told.hashes == {100, 101, 102}
    assert told.sources == [Source.EXACT]
    assert told.keys == [keys_of([number], 1)[0] for number in range(3)]
    assert [sequence for sequence, _ in told.changes] == [0, 1, 2]


def test_an_engine_that_said_nothing_holds_nothing(told: Told) -> None:
    """An empty replay from 0: exact, and the first batch is due."""
    told.replay()
    assert (told.stream.source, told.stream.wants, told.stream.next) == (Source.EXACT, None, 0)


def test_an_empty_replay_may_be_no_proof(told: Told) -> None:
    """Nobody told that the engine has a buffer: what it holds is known from its first batch on, or nothing is."""
    told.stream.believes_empty = False
    told.replay()
    assert (told.stream.source, told.stream.wants) == (Source.EXPECTED, None)
    told.live(0)
    assert told.stream.source is Source.EXACT
    late = Told()
    late.stream.believes_empty = False
    late.replay()
    late.live(3)
    assert late.stream.wants == 0
    late.replay()
    assert (late.stream.source, late.hashes) == (Source.RECOVERING, {103})


def test_a_replay_that_brings_something_proves_a_buffer(told: Told) -> None:
    """After a restart its silence is believed."""
    told.stream.believes_empty = False
    told.replay(0)
    told.stream.restarted(0.0)
    told.replay()
    assert told.stream.source is Source.EXACT


def test_only_what_comes_on_time_ends_a_prefill(told: Told) -> None:
    """Replayed blocks, those behind a gap, and those whose place is found later were stored who knows when."""
    told.replay(0, 1)
    assert told.keys == []
    told.live(2)
    assert told.keys == keys_of([2], 1)
    told.live(4)
    told.replay(3)
    assert told.keys == keys_of([2], 1)
    told.live(5)
    assert told.keys == keys_of([2], 1) + keys_of([5], 1)
    told.stream.live(6, payload(stored([7], 99, [9], 1), ts=6.0), 0.0)
    told.stream.sent(keys_of([8, 9], 1))
    while told.stream.busy:
        told.stream.step(0.0)
    assert 7 in told.hashes
    assert told.keys == keys_of([2], 1) + keys_of([5], 1)


def test_batches_behind_a_large_one_are_on_time(told: Told) -> None:
    """They wait for their turn alone; and a new engine's numbers begin anew."""
    told.replay(0)
    told.stream.live(1, _large(3 * ingest.SLICE_BLOCKS), 0.0)
    told.live(2)
    while told.stream.busy:
        told.stream.step(0.0)
    assert told.keys[-1:] == keys_of([2], 1)
    told.stream.restarted(0.0)
    told.replay()
    told.stream.live(0, _block(4, ts=9.0), 0.0)
    assert told.keys[-1:] == keys_of([4], 1)


def test_joining_late_is_made_good_by_a_replay_from_the_start(told: Told) -> None:
    """What was published before waits for the replay; only then the source is exact."""
    told.live(5, 6)
    assert (told.stream.source, told.stream.wants) == (Source.EXPECTED, 0)
    assert told.hashes == set()
    told.replay(0, 1, 2, complete=False)
    assert told.stream.source is Source.EXPECTED
    told.replay(3, 4, 5, 6)
    assert (told.stream.source, told.stream.wants, told.stream.next) == (Source.EXACT, None, 7)
    assert told.hashes == set(range(100, 107))


def test_joining_too_late_is_recovering(told: Told) -> None:
    """The replay begins behind the start: what is known is true, and not all."""
    told.live(7)
    told.replay(5, 6, 7)
    assert (told.stream.source, told.stream.wants, told.stream.next) == (Source.RECOVERING, None, 8)
    assert told.hashes == {105, 106, 107}
    assert told.stream.counts.lost == 1


def test_without_a_replay_the_first_batch_is_the_beginning(told: Told) -> None:
    """0 is exact, anything else is recovering; before it comes nothing is said."""
    told.stream.unreplayable(0.0)
    assert (told.stream.source, told.stream.wants) == (Source.EXPECTED, None)
    told.live(4, 5)
    assert (told.stream.source, told.stream.wants, told.stream.next) == (Source.RECOVERING, None, 6)
    other = Told()
    other.stream.unreplayable(0.0)
    other.live(0)
    assert other.stream.source is Source.EXACT


def test_a_gap_is_repaired_by_a_replay(told: Told) -> None:
    """Later batches wait, are applied once, and the source stays exact."""
    told.live(0, 3, 4)
    assert (told.stream.source, told.stream.behind, told.stream.wants) == (Source.EXACT, True, 1)
    assert told.hashes == {100}
    told.replay(1, 2, 3)
    assert (told.stream.behind, told.stream.next, told.sources) == (False, 5, [Source.EXACT])
    assert told.hashes == set(range(100, 105))
    assert told.stream.counts.gaps == 1
    assert told.stream.counts.stored == 5


def test_a_replay_without_an_end_is_asked_for_again(told: Told) -> None:
    """What it brought counts; the rest is still wanted."""
    told.live(0, 5)
    told.replay(1, 2, complete=False)
    assert told.stream.wants == 3
    told.live(3)
    assert told.stream.wants == 4
    told.live(4)
    assert not told.stream.behind
    assert told.stream.next == 6


def test_what_the_replay_cannot_bring_is_lost(told: Told) -> None:
    """Beyond the buffer: all is forgotten, what follows is kept, and the log hears of it."""
    told.live(0, 5)
    told.replay(3, 4, 5)
    assert told.hashes == {103, 104, 105}
    assert (told.stream.source, told.stream.next) == (Source.RECOVERING, 6)
    assert told.changes[1] == (0, (Cleared(),))
    assert told.sources == [Source.EXACT, Source.RECOVERING]


def test_a_gap_that_a_whole_replay_leaves_is_lost(told: Told) -> None:
    """The end was seen and the batch before the waiting ones was not there."""
    told.live(0, 5)
    told.replay(1, 2)
    assert (told.stream.source, told.stream.next, told.hashes) == (Source.RECOVERING, 6, {105})


def test_without_a_replay_a_gap_is_lost(told: Told) -> None:
    """The stream goes on with what waited."""
    told.live(0, 2, 3)
    told.stream.unreplayable(0.0)
    assert (told.stream.source, told.stream.next, told.hashes) == (Source.RECOVERING, 4, {102, 103})


def test_batches_twice_are_applied_once(told: Told) -> None:
    """Live and replayed, in any order: no restart, no second count."""
    told.live(0, 1, 4)
    told.replay(0, 1, 2, 3)
    told.live(2, 3, 4, 1)
    assert told.stream.next == 5
    assert told.stream.counts.duplicates == 4
    assert told.stream.counts.restarts == 0
    assert all(count == 1 for _, count in held(told.observed).values())


def test_a_clear_makes_everything_known(told: Told) -> None:
    """AllBlocksCleared: nothing is held, whatever was lost before."""
    told.live(0, 5)
    told.stream.unreplayable(0.0)
    assert told.stream.source is Source.RECOVERING
    told.stream.live(6, payload(stored([1], None, [1], 1), CLEARED, stored([2], None, [2], 1)), 0.0)
    assert (told.stream.source, told.hashes) == (Source.EXACT, {2})
    assert told.changes[-1][1][0] == Cleared()


@pytest.mark.parametrize("ts", [50.0, 0.5])
def test_another_batch_under_a_known_number_is_a_restart(told: Told, ts: float) -> None:
    """Numbers go back to 0 and the content differs, whatever the engine's clock says."""
    told.live(0, 1, 2)
    told.stream.live(0, _block(9, ts), 0.0)
    assert (told.stream.source, told.stream.next, told.stream.wants) == (Source.EXACT, 1, None)
    assert told.hashes == {109}
    assert told.stream.counts.restarts == 1


def test_a_restart_that_was_joined_late_is_replayed(told: Told) -> None:
    """The first batch heard of the new engine is not its first."""
    told.live(0, 1, 2, 3, 4)
    told.stream.live(2, _block(9, 50.0), 0.0)
    assert (told.stream.source, told.stream.wants, told.hashes) == (Source.RECOVERING, 0, set())
    told.stream.replayed([(0, _block(7, 48.0)), (1, _block(8, 49.0)), (2, _block(9, 50.0))], True, 0.0)
    assert (told.stream.source, told.stream.wants, told.hashes) == (Source.EXACT, None, {107, 108, 109})


def test_numbers_too_old_to_be_remembered_are_told_apart_by_time() -> None:
    """After a takeover no content is remembered: earlier is a duplicate, later is another engine."""
    told = Told()
    told.stream.restore(10, 10.0, Source.EXACT)
    told.stream.live(5, _block(5, 5.0), 0.0)
    assert (told.stream.counts.duplicates, told.stream.counts.restarts) == (1, 0)
    told.stream.live(5, _block(5, 11.0), 0.0)
    assert (told.stream.counts.duplicates, told.stream.counts.restarts) == (1, 1)


def test_a_replay_of_another_engine_is_a_restart(told: Told) -> None:
    """The answer holds another batch under a number that was applied."""
    told.live(0, 1, 3)
    told.stream.replayed([(1, _block(8, 90.0)), (2, _block(9, 91.0))], False, 0.0)
    assert (told.stream.wants, told.hashes, told.stream.counts.restarts) == (0, set(), 1)


def test_a_restart_told_from_outside_clears(told: Told) -> None:
    """The process has another start time: what it held is gone, what is still on its way is ignored."""
    told.live(0, 1, 2)
    told.stream.restarted(10.0)
    assert (told.stream.source, told.stream.wants, told.hashes) == (Source.RECOVERING, 0, set())
    told.stream.live(3, _block(3), 10.5)
    told.stream.replayed([(1, _block(1))], False, 10.5)
    assert (told.stream.next, told.hashes) == (0, set())
    told.stream.live(0, _block(7, 50.0), 11.0)
    assert (told.stream.source, told.hashes) == (Source.EXACT, {107})


def test_one_restart_is_not_taken_for_two(told: Told) -> None:
    """Noticed by its numbers, then told from outside: once; told again, it is another."""
    told.live(0, 1, 2)
    told.stream.live(0, _block(9, 50.0), 10.0)
    told.stream.restarted(12.0)
    assert (told.stream.source, told.hashes, told.stream.counts.restarts) == (Source.EXACT, {109}, 1)
    told.stream.restarted(13.0)
    assert (told.hashes, told.stream.counts.restarts) == (set(), 2)
    told.live(0)
    told.stream.restarted(13.0 + streams.RESTART_SECONDS)
    assert told.stream.counts.restarts == 3


def test_batches_of_a_dead_engine_do_not_wait_beside_those_of_the_new_one(told: Told) -> None:
    """A lower number with a later time: what waits under higher numbers is of the engine before."""
    told.live(0, 5, 6)
    told.stream.live(2, _block(2, 99.0), 0.0)
    told.stream.replayed([(1, _block(1, 98.0))], True, 0.0)
    assert (told.stream.next, told.hashes) == (3, {100, 101, 102})


def test_a_reset_that_the_canary_saw_clears(told: Told) -> None:
    """Nothing is held, and until the engine says so itself not everything is known."""
    told.live(0, 1)
    told.stream.reset(0.0)
    assert (told.stream.source, told.hashes, told.stream.wants) == (Source.RECOVERING, set(), None)
    told.stream.live(2, payload(CLEARED), 0.0)
    assert told.stream.source is Source.EXACT


@pytest.mark.parametrize("bad", [b"", b"\x93", payload({"type": "BlockStored"}), bytes(MOST_BYTES + 1)])
def test_a_batch_that_cannot_be_read_is_a_loss(told: Told, bad: bytes) -> None:
    """Nobody knows what it said: forgotten, counted, and the stream goes on."""
    told.live(0)
    told.stream.live(1, bad, 0.0)
    assert (told.stream.source, told.stream.next, told.hashes) == (Source.RECOVERING, 2, set())
    assert told.stream.counts.malformed == 1
    told.live(2)
    assert told.hashes == {102}


def test_an_event_that_makes_no_sense_spoils_its_batch(told: Told) -> None:
    """A block of no tokens, a token that is none: what stood before it in the batch is forgotten too."""
    for at, bad in enumerate((stored([2], None, [5], 0), stored([2], None, [-5], 1), stored(["x"], None, [5], 1))):
        told.stream.live(at, payload(stored([1], None, [1], 1), bad), 0.0)
        assert told.hashes == set()
        assert told.changes[-1] == (at, (Cleared(),))
    assert told.stream.counts.malformed == 3


def test_a_bad_batch_that_waits_harms_only_itself(told: Told) -> None:
    """It is read when it is due."""
    told.live(0)
    told.stream.live(2, b"\xc1", 0.0)
    told.live(3)
    told.replay(1)
    assert (told.stream.next, told.hashes) == (4, {103})


def test_waiting_batches_are_bounded(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest goes, and is wanted again from the replay."""
    monkeypatch.setattr(told.stream._held, "_most_batches", 3)
    told.live(0, 2, 3, 4, 5)
    assert len(told.stream._held) == 3
    told.replay(1)
    assert told.stream.source is Source.RECOVERING or told.stream.wants is not None
    again = Told()
    again.stream._held._most_bytes = 3 * len(_block(3))
    again.live(0, 2, 3, 4, 5)
    again.replay(1, complete=False)
    assert again.stream.wants == 2
    again.replay(2, complete=False)
    assert (again.stream.next, again.stream.source) == (6, Source.EXACT)


def test_much_that_waited_is_applied_in_turns(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call does no more than a turn's worth; `step` goes on."""
    monkeypatch.setattr(streams, "TURN_BYTES", 2 * (len(_block(1)) + streams._BATCH_BYTES))
    told.live(0, *range(2, 12))
    told.replay(1, complete=False)
    assert (told.stream.next, told.stream.busy, told.stream.wants) == (4, True, None)
    while told.stream.busy:
        told.stream.step(0.0)
    assert (told.stream.next, told.stream.source) == (12, Source.EXACT)


def test_another_router_goes_on_where_one_was(told: Told) -> None:
    """State and observed blocks are enough; what was missed meanwhile is replayed."""
    told.live(0, 1)
    state = told.stream.state()
    assert state == (2, 1.0, Source.EXACT)
    other = Stream(0, told.observed, 1)
    other.restore(*state)
    assert (other.source, other.wants) == (Source.EXACT, 2)
    other.live(3, _block(3), 0.0)
    other.replayed([(2, _block(2))], True, 0.0)
    assert (other.source, other.wants, told.hashes) == (Source.EXACT, None, {100, 101, 102, 103})


def test_blocks_of_another_size_are_of_no_use() -> None:
    """Not a multiple of ours: nothing is observed, and both sizes can be read."""
    told = Told(block_tokens=2)
    told.stream.live(0, payload(stored([1], None, [1, 2, 3], 3)), 0.0)
    assert told.stream.mismatch == Mismatch(3, 2)
    assert (told.stream.source, told.hashes, told.stream.counts.unusable) == (Source.EXPECTED, set(), 1)
    told.stream.live(1, payload(CLEARED, stored([1], None, [1, 2, 3, 4], 4)), 0.0)
    assert not told.stream.mismatch
    assert (told.stream.source, len(told.hashes), 1 in told.hashes) == (Source.EXACT, 2, True)
    told.stream.live(2, payload(removed([1])), 0.0)
    assert told.hashes == set()
    assert told.keys == keys_of([1, 2, 3, 4], 2)


def test_the_block_size_is_the_engine_s_where_none_was_given() -> None:
    """Told by the first event."""
    told = Told(block_tokens=None)
    assert told.stream.block_tokens is None
    told.stream.live(0, payload(stored([1], None, [1, 2, 3], 3)), 0.0)
    assert told.stream.block_tokens == 3
    assert told.keys == keys_of([1, 2, 3], 3)


def test_an_event_that_fits_no_tokens_tells_no_block_size() -> None:
    """A size that its own tokens belie decides nothing."""
    told = Told(block_tokens=None)
    told.stream.live(0, payload(stored([1], None, [1, 2, 3], 10**9), stored([1], None, [1, 2], 2)), 0.0)
    assert (told.stream.block_tokens, told.hashes) == (2, {1})
    assert told.stream.mismatch is None


def test_only_whole_prefixes_are_observed(told: Told) -> None:
    """The first group of full attention; other groups and kinds are counted, and so are their removals."""
    kind = "kv_cache_spec_kind"
    told.stream.live(
        0,
        payload(
            stored([1], None, [1], 1, group_idx=0, **{kind: "sliding_window"}),
            stored([2, 3], None, [2, 3], 1, group_idx=1, **{kind: "full_attention"}),
            stored([4], None, [4], 1, group_idx=2, **{kind: "full_attention"}),
            removed([2], group_idx=0),
            removed([3], group_idx=1),
        ),
        0.0,
    )
    assert told.hashes == {2}
    assert told.stream.counts.ignored == 3


@pytest.mark.parametrize(
    ("name", "medium"),
    [
        ("GPU", Medium.GPU), (None, Medium.GPU), ("CPU", Medium.CPU), ("cpu", Medium.CPU), ("STORAGE", Medium.DISK),
        ("disk", Medium.DISK),
    ],
)  # fmt: skip
def test_mediums_are_told_by_name(told: Told, name: str | None, medium: Medium) -> None:
    """What is not known is slower than memory."""
    told.stream.live(0, payload(stored([1], None, [1], 1, medium=name)), 0.0)
    assert set(held(told.observed)) == {(medium, 1)}
    told.stream.live(1, payload(removed([1], name)), 0.0)
    assert held(told.observed) == {}


def test_copies_to_another_medium_are_known_by_their_hash(told: Told) -> None:
    """Offloading tells hashes without tokens; what is not known is counted."""
    told.stream.live(0, payload(stored([1, 2], None, [1, 2], 1), stored([2, 9], None, [], 0, medium="CPU")), 0.0)
    assert held(told.observed)[Medium.CPU, 2] == held(told.observed)[Medium.GPU, 2]
    assert told.stream.counts.stored_unknown == 1
    assert told.keys == keys_of([1, 2], 1)


def test_events_without_all_tokens_are_left_out(told: Told) -> None:
    """Which blocks they belong to is not told."""
    told.stream.live(0, payload(stored([1, 2], None, [1, 2, 3], 1), stored([], None, [], 1)), 0.0)
    assert (told.hashes, told.stream.counts.unusable, told.stream.source) == (set(), 2, Source.EXACT)


def test_unknown_events_are_counted(told: Told) -> None:
    """They do no harm."""
    told.stream.live(0, payload({"type": "BlockMigrated"}), 0.0)
    assert (told.stream.counts.unknown, told.stream.source) == (1, Source.EXACT)


def test_copies_are_counted(told: Told) -> None:
    """Stored twice, removed once: still held. Removed where it is not: counted."""
    told.stream.live(0, payload(stored([1], None, [1], 1), stored([1], None, [1], 1), removed([1])), 0.0)
    assert told.hashes == {1}
    told.stream.live(1, payload(removed([1]), removed([1])), 0.0)
    assert (told.hashes, told.stream.counts.removed_unknown) == (set(), 1)


def test_changes_are_told_in_few_pieces(told: Told) -> None:
    """Neighbouring stores are one change, and so are neighbouring removals; their order is kept."""
    events: list[Any] = [stored([1], None, [1], 1), stored([2], None, [2], 1), removed([2]), removed([1])]
    told.stream.live(0, payload(*events, stored([3], None, [3], 1), stored([4], None, [4], 1, medium="CPU")), 0.0)
    ((_, changes),) = told.changes
    assert [(type(change), change.medium) for change in changes if not isinstance(change, Cleared)] == [
        (Stored, 0), (Removed, 0), (Stored, 0), (Stored, 1),
    ]  # fmt: skip
    assert told.hashes == {3, 4}


def _large(blocks: int) -> bytes:
    """A batch that takes several turns: a prompt, then the removal of all of it but one."""
    hashes = [2**63 + at for at in range(blocks)]
    return payload(stored(hashes, None, list(range(blocks)), 1), removed(hashes[1:]), ts=1.0)


def test_a_large_batch_is_carried_out_in_slices(told: Told) -> None:
    """What comes meanwhile waits; the source is exact, and changes are told, when all is done."""
    blocks = 3 * ingest.SLICE_BLOCKS + 5
    told.live(0)
    told.stream.live(1, _large(blocks), 0.0)
    told.live(2)
    seen = set()
    steps = 0
    while told.stream._work is not None:
        assert len(told.changes) == 1
        assert not told.stream.behind
        assert told.stream.state()[0] == 1
        told.stream.step(0.0)
        seen.add(told.observed.blocks(0))
        steps += 1
    told.stream.step(0.0)
    assert not told.stream.busy
    assert steps >= 6
    assert max(seen) >= 2 * ingest.SLICE_BLOCKS
    assert told.hashes == {100, 2**63, 102}
    assert (told.stream.source, told.stream.next) == (Source.EXACT, 3)
    assert [sequence for sequence, _ in told.changes] == [0, 1, 2]
    assert told.keys[1 : 1 + blocks] == keys_of(range(blocks), 1)


@pytest.mark.parametrize("end", ["restarted", "reset", "spoilt"])
def test_a_large_batch_may_be_given_up(told: Told, end: str) -> None:
    """A restart, a reset, an event that makes no sense behind it: nothing of it stays."""
    blocks = 3 * ingest.SLICE_BLOCKS
    hashes = [2**63 + at for at in range(blocks)]
    events = [stored(hashes, None, list(range(blocks)), 1)]
    if end == "spoilt":
        events.append(stored([1], None, [1], 0))
    told.stream.live(0, payload(*events, ts=1.0), 0.0)
    told.stream.step(0.0)
    assert told.stream.busy
    if end != "spoilt":
        getattr(told.stream, end)(0.0)
    while told.stream.busy:
        told.stream.step(0.0)
    assert (told.hashes, told.stream.source) == (set(), Source.RECOVERING)
    assert all(changes == (Cleared(),) for _, changes in told.changes)


def test_a_replay_behind_a_large_batch_waits(told: Told) -> None:
    """Batches of an answer are applied when it is done, in order."""
    blocks = 3 * ingest.SLICE_BLOCKS
    told.stream.replayed([(0, _large(blocks)), (1, _block(1)), (2, _block(2))], True, 0.0)
    while told.stream.busy:
        told.stream.step(0.0)
    assert (told.stream.next, told.stream.source, told.hashes) == (3, Source.EXACT, {2**63, 101, 102})


def test_many_small_events_are_carried_out_in_slices(told: Told) -> None:
    """A batch of thousands of events takes several turns too."""
    told.stream.live(0, payload(*(stored([at], None, [at], 1) for at in range(1, 2000))), 0.0)
    steps = 0
    while told.stream.busy:
        told.stream.step(0.0)
        steps += 1
    assert steps >= 4
    assert len(told.hashes) == 1999


@pytest.mark.parametrize(
    "event",
    [
        stored([5] * 30_000, None, [5] * 30_000, 1),
        stored(list(range(100)), None, [5] * 30_000, 300),
        removed([5] * 30_000),
    ],
)
def test_a_large_event_is_carried_out_in_slices(event: dict[str, Any]) -> None:
    """However its blocks are told: what is entered at once is bounded, in blocks of ours."""
    entered: list[int] = []

    def changed(_: int, changes: tuple[Change, ...]) -> None:
        entered.extend(len(change.hashes) for change in changes if isinstance(change, Stored | Removed))

    stream = Stream(0, Observed(), 1, on_changes=changed)
    stream.live(0, payload(event), 0.0)
    while stream.busy:
        stream.step(0.0)
    assert sum(entered) == 30_000
    assert max(entered) <= ingest.SLICE_BLOCKS


@pytest.mark.parametrize(
    "event", [CLEARED, removed([]), stored([], None, [], 1), stored([1], None, [5] * 9, 9, extra_keys=[[[]] * 900])]
)
def test_events_of_no_blocks_are_work_too(event: dict[str, Any]) -> None:
    """Thousands of clears, of nothing removed, of long fields."""
    stream = Stream(0, Observed(), 9)
    stream.live(
        0, payload(*[event] * 5000 if "token_ids" not in event or event["token_ids"] == [] else [event] * 500), 0.0
    )
    steps = 0
    while stream.busy:
        stream.step(0.0)
        steps += 1
    assert (stream.counts.batches, stream.counts.malformed) == (1, 0)
    assert steps >= 5


def test_a_block_of_very_many_of_ours_is_refused(told: Told) -> None:
    """It would be entered as all of them, at once."""
    told.stream.live(0, payload(stored([1], None, [5] * 4096, 4096)), 0.0)
    assert (told.stream.counts.malformed, told.stream.source) == (1, Source.RECOVERING)


@pytest.mark.parametrize("extra", [5, None, {"a": 1}, 1.5])
def test_odd_extra_keys_beside_an_adapter_harm_nobody(told: Told, extra: Any) -> None:
    """What stands in the same batch, and what follows, is carried out."""
    told.live(0)
    event = stored([1], None, [5], 1, lora_name="ad", extra_keys=[[extra]])
    told.stream.live(1, payload(event, removed([100]), ts=1.0), 0.0)
    told.live(2)
    assert (told.hashes, told.stream.source, told.stream.next) == ({1, 102}, Source.EXACT, 3)


def test_sequence_numbers_may_lie(told: Told) -> None:
    """A forged number is a gap like any other; the true ones that follow are a new beginning."""
    told.live(0, 1)
    told.stream.live(2**64 - 2, _block(5), 0.0)
    told.replay()
    assert told.stream.source is Source.RECOVERING
    told.live(2)
    assert told.stream.wants == 0 or told.stream.counts.duplicates
