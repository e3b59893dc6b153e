"""A subscription over real sockets: live batches, gaps, publishers that go and come back, and closing in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import zmq

from kvroute.router.core.observed import Observed
from kvroute.router.core.sources import Source as exactness
from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.knowledge.events.intake import Intake
from kvroute.router.knowledge.events.replay import Patience
from kvroute.router.knowledge.events.sources import Found, Source, Sources, ask
from kvroute.router.knowledge.events.stream import Stream
from kvroute.router.knowledge.events.subscription import Subscription, Wires
from kvroute.router.testing.children import free_ports
from kvroute.router.testing.kvevents import decode_batch
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.router.knowledge.events.wiring import Lines, Publisher, until

QUICK = Patience(silence=0.3, first_pause=0.01, longest_pause=0.05, tries=3)


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    made = Wires()
    yield made
    made.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def publisher(context: zmq.Context[zmq.Socket[bytes]]) -> Publisher:
    return Publisher(context)


@pytest.fixture
async def answering(publisher: Publisher) -> AsyncIterator[None]:
    """The publisher answers replays as an engine does."""
    task = asyncio.create_task(publisher.answer_always())
    yield
    task.cancel()


def subscribe(
    publisher: Publisher, wires: Wires, stream: Lines, *, replay: bool = True, quiet: float = 60.0
) -> Subscription:
    made = Subscription(publisher.source(replay=replay), stream, wires, patience=QUICK, quiet_seconds=quiet)
    made.open()
    return made


@pytest.mark.usefixtures("answering")
async def test_what_was_published_before_is_replayed_and_what_follows_is_live(
    wires: Wires, publisher: Publisher
) -> None:
    """A late subscriber has every batch from the first one on, in order."""
    for number in range(5):
        publisher.publish(b"%d" % number)
    stream = Lines()
    subscription = subscribe(publisher, wires, stream)
    await until(lambda: len(stream.payloads) == 5)
    publisher.publish(b"5")
    await until(lambda: stream.payloads == [b"%d" % number for number in range(6)])
    status = subscription.status
    assert status.connected
    assert status.heard.messages == 1
    assert status.replays.batches == 5
    subscription.close()


@pytest.mark.usefixtures("answering")
async def test_a_gap_is_repaired_by_a_replay(wires: Wires, publisher: Publisher) -> None:
    """Batches that were lost on the way are asked for; later ones wait for them."""
    stream = Lines()
    subscription = subscribe(publisher, wires, stream)
    await until(lambda: subscription.status.connected and not subscription.status.asking)
    for number in range(40):
        publisher.publish(b"%d" % number, lost=number in (3, 4, 20))
    await until(lambda: stream.payloads == publisher.sent)
    assert stream.lost == 0
    subscription.close()


@pytest.mark.usefixtures("answering")
async def test_lost_batches_that_none_follows_are_found_when_it_is_quiet(wires: Wires, publisher: Publisher) -> None:
    """A tail that was dropped shows in no later number; the question that is asked in quiet times finds it."""
    stream = Lines()
    subscription = subscribe(publisher, wires, stream, quiet=0.05)
    publisher.publish(b"0")
    await until(lambda: stream.payloads == [b"0"])
    publisher.publish(b"1", lost=True)
    publisher.publish(b"2", lost=True)
    await until(lambda: stream.payloads == publisher.sent)
    subscription.close()


async def test_without_a_replay_endpoint_lost_is_lost(wires: Wires, publisher: Publisher) -> None:
    """The stream is told that its gap cannot be filled, and goes on."""
    stream = Lines()
    subscription = subscribe(publisher, wires, stream, replay=False)
    await until(lambda: subscription.status.connected)
    publisher.publish(b"0", lost=True)
    await until(lambda: _published(publisher, stream))
    assert stream.lost == 1
    assert subscription.status.replays.given_up == 1
    subscription.close()


def _published(publisher: Publisher, stream: Lines) -> bool:
    """Publish until one arrives: a new subscription takes its time to reach the publisher."""
    publisher.publish(b"live")
    return bool(stream.payloads)


async def test_a_publisher_that_goes_and_comes_back(wires: Wires, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """The same engine behind a new connection: what it published meanwhile is repaired though nothing follows."""
    first = Publisher(context)
    stream = Lines()
    answers = asyncio.create_task(first.answer_always())
    subscription = subscribe(first, wires, stream)
    first.publish(b"0")
    await until(lambda: stream.payloads == [b"0"])
    answers.cancel()
    first.close()
    await until(lambda: not subscription.status.connected)
    second = Publisher(context, events=first.events_port, replay=first.replay_port)
    second.sent = [*first.sent, b"1", b"2"]
    answers = asyncio.create_task(second.answer_always())
    await until(lambda: stream.payloads == [b"0", b"1", b"2"])
    assert stream.restarts == 0
    answers.cancel()
    subscription.close()


async def test_a_restarted_engine_is_known_by_what_it_says(
    wires: Wires, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """Another engine that already published more than the one before: the numbers fit, the batches do not."""
    first = Publisher(context)
    stream = Lines()
    answers = asyncio.create_task(first.answer_always())
    first.publish(b"0")
    first.publish(b"1")
    subscription = subscribe(first, wires, stream)
    await until(lambda: len(stream.payloads) == 2)
    answers.cancel()
    first.close()
    await until(lambda: not subscription.status.connected)
    second = Publisher(context, events=first.events_port, replay=first.replay_port)
    second.sent = [b"a", b"b", b"c"]
    answers = asyncio.create_task(second.answer_always())
    await until(lambda: stream.payloads == [b"a", b"b", b"c"])
    assert stream.restarts == 1
    answers.cancel()
    subscription.close()


async def test_the_stand_in_engine_is_followed_through_a_restart() -> None:
    """Found by its own answer, its requests' blocks arrive; a fresh engine on the same ports is seen as one."""
    events, replay = free_ports(2)
    options = Options(block_size=4, events_port=events, replay_port=replay, events_topic="kv@x", decode_rate=1000.0)
    wires, client, stream = Wires(), EngineClient(), Lines()
    async with StandInEngine(options) as engine, aiohttp.ClientSession() as session:
        found = await ask(client, Endpoint("127.0.0.1", engine.port))
        (source,) = found.by_rank
        subscription = Subscription(source, stream, wires, patience=QUICK, quiet_seconds=0.1)
        subscription.open()
        for number in range(3):
            await _complete(session, engine, [number] * 8)
        await until(lambda: len(stream.payloads) == 3)
        await engine.stop()
        await until(lambda: not subscription.status.connected)
        await engine.start()
        for number in range(4):
            await _complete(session, engine, [number] * 4)
        await until(lambda: len(stream.payloads) == 4)
        assert stream.restarts == 1
        assert decode_batch(stream.payloads[3]).events[0].token_ids == [3] * 4  # type: ignore[union-attr]
        subscription.close()
    await client.close()
    wires.close()


async def test_a_real_stream_becomes_exact_and_stays_it_through_a_gap() -> None:
    """From the stand-in's events: what was published before, a lost connection, and a fresh engine."""
    events, replay = free_ports(2)
    options = Options(block_size=4, events_port=events, replay_port=replay, decode_rate=1000.0)
    wires, observed = Wires(), Observed()
    stream = Stream(3, observed)
    source = Source(0, f"tcp://127.0.0.1:{events}", f"tcp://127.0.0.1:{replay}", "", Found.CONFIG)
    async with StandInEngine(options) as engine, aiohttp.ClientSession() as session:
        await _complete(session, engine, [1] * 9)
        subscription = Subscription(source, stream, wires, patience=QUICK, quiet_seconds=0.1)
        subscription.open()
        await until(lambda: stream.source is exactness.EXACT)
        assert len(observed) == 2
        await _complete(session, engine, [2] * 9)
        await until(lambda: len(observed) == 4)
        await engine.stop()
        await until(lambda: not subscription.status.connected)
        await engine.start()
        await _complete(session, engine, [3] * 5)
        await until(lambda: len(observed) == 1 and stream.source is exactness.EXACT)
        subscription.close()
    wires.close()


async def _complete(session: aiohttp.ClientSession, engine: StandInEngine, prompt: list[int]) -> None:
    body = {"prompt": prompt, "max_tokens": 1}
    async with session.post(f"{engine.url}/v1/completions", json=body) as reply:
        assert reply.status == 200


async def test_what_the_stream_left_for_later_is_done_in_turns(publisher: Publisher) -> None:
    """One step a turn, and only while there is something left."""
    ticks = iter(range(10**9))
    wires = Wires(Intake(asyncio.get_running_loop(), turn_seconds=1.0, clock=lambda: float(next(ticks))))
    stream = Lines()
    subscription = subscribe(publisher, wires, stream, replay=False)
    stream.left = 5
    subscription.go_on()
    while stream.left:
        before = stream.left
        await asyncio.sleep(0)
        assert before - stream.left <= 1
    await asyncio.sleep(0)
    assert stream.left == 0
    subscription.close()
    wires.close()


async def test_closing_in_the_middle_of_a_replay(wires: Wires, publisher: Publisher) -> None:
    """Sockets go at once, and what the engine still answers is not heard."""
    stream = Lines()
    subscription = subscribe(publisher, wires, stream)
    client, start = await publisher.asked()
    assert start == 0
    publisher.answer(client, b"kv", bytes(8), b"0")
    await until(lambda: stream.payloads == [b"0"])
    subscription.close()
    publisher.answer(client, b"kv", (1).to_bytes(8, "big"), b"1")
    publisher.publish(b"x")
    subscription.close()
    await asyncio.sleep(0.05)
    assert stream.payloads == [b"0"]
    assert not subscription.status.connected


async def test_the_context_ends_at_once_whatever_is_going_on(publisher: Publisher) -> None:
    """A subscription to nobody and one in the middle of a replay: closing does not wait for either."""
    wires = Wires()
    nobody = Source(0, "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", "kv", Found.CONFIG)
    open_ones = [
        subscribe(publisher, wires, Lines()),
        Subscription(nobody, Lines(), wires),
    ]
    open_ones[1].open()
    open_ones[1].check()
    await publisher.asked()
    for subscription in open_ones:
        subscription.close()
    await asyncio.wait_for(asyncio.to_thread(wires.close), 2.0)


async def test_a_flood_is_read_in_small_bits(publisher: Publisher) -> None:
    """However much has come, one turn of the loop reads what its time allows, over all subscriptions together."""
    ticks = iter(range(10**9))
    intake = Intake(asyncio.get_running_loop(), turn_seconds=10.0, clock=lambda: float(next(ticks)))
    wires = Wires(intake)
    streams = [Lines() for _ in range(3)]
    subscriptions = [subscribe(publisher, wires, stream, replay=False) for stream in streams]
    await until(lambda: all(subscription.status.connected for subscription in subscriptions))
    await until(lambda: all(_published(publisher, stream) for stream in streams))
    for _ in range(500):
        publisher.publish(b"x")
    per_turn = []
    while any(len(stream.payloads) < 500 for stream in streams):
        before = intake.handled
        await asyncio.sleep(0)
        per_turn.append(intake.handled - before)
    assert max(per_turn) <= 11
    assert intake.cut_short > 100
    for subscription in subscriptions:
        subscription.close()
    wires.close()


def test_sources_are_found_by_rank() -> None:
    """Each rank has its own."""
    one = Source(1, "tcp://h:2", None, None, Found.CONFIG)
    assert Sources((one,)).of(1) is one
    assert Sources((one,)).of(0) is None
