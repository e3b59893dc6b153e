"""Replays: what is asked, and answers that are late, cut, full of holes, of another engine, or nonsense."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator

import pytest
import zmq

from kvroute.router.knowledge.events.intake import Intake
from kvroute.router.knowledge.events.replay import Patience, Replayer
from kvroute.router.knowledge.events.sources import Source
from kvroute.router.knowledge.events.subscriber import open_context
from tests.router.knowledge.events.wiring import END, Lines, Publisher, until

QUICK = Patience(silence=0.1, first_pause=0.01, longest_pause=0.02, tries=3)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made = open_context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def engine(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Publisher]:
    made = Publisher(context)
    made.sent = [b"%d" % number for number in range(10)]
    yield made
    made.close()


class Stage:
    """A stream and its replayer."""

    def __init__(
        self,
        source: Source,
        context: zmq.Context[zmq.Socket[bytes]],
        slots: asyncio.Semaphore | None = None,
        patience: Patience = QUICK,
    ) -> None:
        intake = Intake(asyncio.get_running_loop())
        self.stream = Lines()
        self.told = 0
        self.replayer = Replayer(
            source, self.stream, context, intake, slots or asyncio.Semaphore(1), self._told, patience=patience
        )

    def _told(self) -> None:
        self.told += 1

    async def done(self) -> None:
        """Wait until nothing is asked any more."""
        await until(lambda: not self.replayer.asking)

    def live(self, sequence: int, payload: bytes) -> None:
        """A batch was published."""
        self.stream.live(sequence, payload, 0.0)
        self.replayer.look()


@pytest.fixture
async def stage(engine: Publisher, context: zmq.Context[zmq.Socket[bytes]]) -> AsyncIterator[Stage]:
    made = Stage(engine.source(), context)
    yield made
    made.replayer.close()


async def test_what_is_wanted_is_asked_for(stage: Stage, engine: Publisher) -> None:
    """From the first missing batch on; when all is there nothing more is asked."""
    stage.live(9, b"9")
    assert await engine.answer_all() == 0
    await stage.done()
    assert stage.stream.payloads == engine.sent
    assert stage.replayer.counts.asked == 1
    assert stage.told == len(engine.sent) + 1


async def test_nothing_wanted_nothing_asked(stage: Stage) -> None:
    """A look costs nothing where no batch is missing."""
    stage.replayer.look()
    assert not stage.replayer.asking


async def test_the_last_batch_is_asked_for_once_more_and_compared(stage: Stage, engine: Publisher) -> None:
    """It is the same: nothing new."""
    stage.live(0, b"0")
    stage.live(1, b"1")
    stage.replayer.look(check=True)
    assert await engine.answer_all() == 1
    await stage.done()
    assert stage.stream.payloads == engine.sent
    assert stage.stream.restarts == 0


async def test_another_content_under_the_same_number_is_another_engine(stage: Stage, engine: Publisher) -> None:
    """The stream is told, and everything of the new engine is asked for."""
    stage.live(0, b"of the old")
    stage.live(1, b"of the old, too")
    stage.replayer.look(check=True)
    assert await engine.answer_all() == 1
    assert await engine.answer_all() == 0
    await stage.done()
    assert stage.stream.restarts == 1
    assert stage.stream.payloads == engine.sent


async def test_an_engine_that_has_not_got_that_far_is_another(stage: Stage, engine: Publisher) -> None:
    """An empty answer to a question for a batch that was seen: the buffer cannot have lost the newest."""
    stage.replayer.look(check=True)
    await engine.answer_all()
    await stage.done()
    engine.sent = [b"a"]
    stage.replayer.look(check=True)
    assert await engine.answer_all() == 9
    assert await engine.answer_all() == 0
    await stage.done()
    assert stage.stream.restarts == 1
    assert stage.stream.payloads == [b"a"]


async def test_a_buffer_that_never_answers_anything_is_no_sign_of_a_restart(stage: Stage, engine: Publisher) -> None:
    """An engine may keep no batches at all."""
    stage.live(0, b"0")
    engine.sent = []
    stage.replayer.look(check=True)
    await engine.answer_all()
    await stage.done()
    assert stage.stream.restarts == 0


async def test_batches_dropped_inside_an_answer_are_asked_for_again(stage: Stage, engine: Publisher) -> None:
    """A ROUTER socket drops what its queue does not hold, silently: a hole is no loss yet."""
    stage.live(9, b"9")
    client, _ = await engine.asked()
    for sequence in (0, 1, 5, 6):
        engine.answer(client, b"kv", sequence.to_bytes(8, "big"), engine.sent[sequence])
    engine.answer(client, b"", END, b"")
    assert await engine.answer_all() == 2
    await stage.done()
    assert stage.stream.payloads == engine.sent
    assert stage.stream.lost == 0
    assert stage.replayer.counts.holes == 1


async def test_an_answer_that_begins_later_is_what_is_left(stage: Stage, engine: Publisher) -> None:
    """The buffer no longer reaches back that far; the stream sees it by the number."""
    stage.live(9, b"9")
    client, _ = await engine.asked()
    for sequence in range(6, 10):
        engine.answer(client, b"kv", sequence.to_bytes(8, "big"), engine.sent[sequence])
    engine.answer(client, b"", END, b"")
    await stage.done()
    assert stage.stream.payloads == engine.sent[6:]
    assert stage.stream.lost == 1


async def test_an_answer_that_breaks_off_is_resumed(stage: Stage, engine: Publisher) -> None:
    """Silence before the end: asked again from where it stopped, on a new socket."""
    stage.live(9, b"9")
    client, _ = await engine.asked()
    for sequence in range(4):
        engine.answer(client, b"kv", sequence.to_bytes(8, "big"), engine.sent[sequence])
    assert await engine.answer_all() == 4
    await stage.done()
    assert stage.stream.payloads == engine.sent
    assert stage.replayer.counts.unanswered == 1


async def test_an_engine_that_never_answers_is_given_up(stage: Stage, engine: Publisher) -> None:
    """After some tries the stream is told that its gap stays."""
    stage.live(9, b"9")
    await stage.done()
    assert stage.replayer.counts.asked == QUICK.tries
    assert stage.replayer.counts.given_up == 1
    assert stage.stream.lost == 1
    stage.live(11, b"11")
    assert stage.replayer.asking


async def test_no_replay_endpoint(engine: Publisher, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """A gap is told to be one for good, at once; a mere check does nothing."""
    stage = Stage(engine.source(replay=False), context)
    stage.replayer.look(check=True)
    assert stage.stream.lost == 0
    stage.live(9, b"9")
    assert stage.stream.lost == 1
    assert not stage.replayer.asking


async def test_answers_in_the_old_form(stage: Stage, engine: Publisher) -> None:
    """Without a topic."""
    stage.live(1, b"1")
    client, _ = await engine.asked()
    engine.answer(client, bytes(8), b"0")
    engine.answer(client, (1).to_bytes(8, "big"), b"1")
    engine.answer(client, END, b"")
    await stage.done()
    assert stage.stream.payloads == [b"0", b"1"]


async def test_nonsense_in_an_answer_is_counted(stage: Stage, engine: Publisher) -> None:
    """Wrong frames, another's topic, numbers that were not asked for: ignored, and the rest is read."""
    stage.stream.next = 5
    stage.live(9, b"9")
    client, start = await engine.asked()
    assert start == 4
    engine.answer(client)
    engine.answer(client, b"kv", b"short", b"x")
    engine.answer(client, *[b"x"] * 9)
    engine.answer(client, b"kv2", (5).to_bytes(8, "big"), b"of another")
    engine.answer(client, b"kv", (3).to_bytes(8, "big"), b"not asked for")
    for sequence in range(5, 10):
        engine.answer(client, b"kv", sequence.to_bytes(8, "big"), engine.sent[sequence])
    engine.answer(client, b"", END, b"")
    await stage.done()
    assert stage.stream.payloads == engine.sent[5:]
    assert stage.replayer.counts.malformed == 5


async def test_an_answer_without_end_is_left(engine: Publisher, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """The time for a whole answer is limited, however lively it is."""
    stage = Stage(engine.source(), context, patience=Patience(silence=0.05, whole=0.1, first_pause=60.0, tries=2))
    stage.live(9, b"9")
    client, _ = await engine.asked()
    while not stage.replayer.counts.unanswered:
        engine.answer(client, b"kv", b"short", b"x")
        await asyncio.sleep(0.005)
    assert stage.replayer.counts.malformed > 2
    stage.replayer.close()


async def test_only_so_many_ask_at_once(engine: Publisher, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """The others wait for their turn, and get it."""
    slots = asyncio.Semaphore(1)
    patient = Patience(silence=5.0)
    stages = [Stage(engine.source(), context, slots, patient) for _ in range(3)]
    for stage in stages:
        stage.live(9, b"9")
    await asyncio.sleep(0.02)
    assert [stage.replayer.counts.asked for stage in stages] == [1, 0, 0]
    for _ in stages:
        await engine.answer_all()
    for stage in stages:
        await stage.done()
        assert stage.stream.payloads == engine.sent


async def test_a_slow_engine_does_not_keep_the_others_waiting(
    engine: Publisher, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """It loses its slot, is asked again later from where it was, and given up when it stays so slow."""
    other = Publisher(context)
    other.sent = engine.sent
    slots = asyncio.Semaphore(1)
    slow = Stage(engine.source(), context, slots, Patience(slow=0.1, rate=1000.0, first_pause=0.01, tries=2))
    quick = Stage(other.source(), context, slots)
    slow.live(9, b"9")
    quick.live(9, b"9")
    client, _ = await engine.asked()
    engine.answer(client, b"kv", bytes(8), b"0")
    answering = asyncio.create_task(other.answer_all())
    sequence = 1
    while not quick.replayer.counts.asked:
        if sequence < 9:
            engine.answer(client, b"kv", sequence.to_bytes(8, "big"), engine.sent[sequence])
            sequence += 1
        await asyncio.sleep(0.03)
    await answering
    await quick.done()
    assert quick.stream.payloads == other.sent
    assert (slow.replayer.counts.unanswered, slow.stream.lost) == (1, 0)
    client, start = await engine.asked()
    assert start == slow.stream.next
    engine.answer(client, b"kv", start.to_bytes(8, "big"), b"x")
    await slow.done()
    assert (slow.replayer.counts.unanswered, slow.replayer.counts.given_up) == (2, 1)
    other.close()


async def test_no_socket_left_is_an_answer_that_did_not_come(
    stage: Stage, engine: Publisher, monkeypatch: pytest.MonkeyPatch, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Asked again a little later."""

    def full(*_: object) -> None:
        monkeypatch.undo()
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(context, "socket", full)
    stage.live(9, b"9")
    await engine.answer_all()
    await stage.done()
    assert (stage.stream.payloads, stage.replayer.counts.unanswered) == (engine.sent, 1)


async def test_closing_drops_the_question(stage: Stage, engine: Publisher) -> None:
    """At once: nothing that comes later is handed on, and the task ends."""
    stage.live(9, b"9")
    client, _ = await engine.asked()
    stage.replayer.close()
    engine.answer(client, b"kv", bytes(8), b"0")
    await stage.done()
    await asyncio.sleep(0.02)
    assert stage.stream.payloads == []
