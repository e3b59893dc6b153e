"""A subscription socket against publishers that send nonsense, too much, or nothing."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import zmq

from kvroute.router.knowledge.events.intake import Intake
from kvroute.router.knowledge.events.subscriber import Subscriber, open_context
from kvroute.router.testing.children import free_ports
from tests.router.knowledge.events.wiring import Publisher, until


class Notes:
    """What was heard."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.connections: list[bool] = []

    def message(self, sequence: int, payload: bytes) -> None:
        """A batch."""
        self.messages.append((sequence, payload))

    def connection(self, connected: bool) -> None:
        """A change."""
        self.connections.append(connected)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made = open_context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def publisher(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Publisher]:
    made = Publisher(context)
    yield made
    made.close()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def intake() -> Intake:
    return Intake(asyncio.get_running_loop())


Listening = Callable[..., Subscriber]


@pytest.fixture
async def listen(context: zmq.Context[zmq.Socket[bytes]], intake: Intake, notes: Notes) -> AsyncIterator[Listening]:
    """Opens subscribers, and closes them at the end."""
    opened: list[Subscriber] = []

    def open_one(address: str, topic: str | None = "kv", **bounds: float) -> Subscriber:
        made = Subscriber(address, topic, context, intake, notes, **bounds)  # type: ignore[arg-type]
        made.open()
        opened.append(made)
        return made

    yield open_one
    for subscriber in opened:
        subscriber.close()


async def heard(subscriber: Subscriber, publisher: Publisher, notes: Notes) -> None:
    """Wait until the publisher knows of the subscription, and all that it took to find out has been read."""

    def published() -> bool:
        publisher.send(b"kv", bytes(8), b"first")
        return bool(notes.messages)

    await until(published)
    publisher.send(b"kv", bytes(8), b"from here on")
    await until(lambda: notes.messages[-1][1] == b"from here on")
    notes.messages.clear()


async def test_a_message_is_its_sequence_and_payload(listen: Listening, publisher: Publisher, notes: Notes) -> None:
    """Eight bytes, big-endian; the payload as it is."""
    subscriber = listen(publisher.source().events)
    await heard(subscriber, publisher, notes)
    publisher.send(b"kv", (2**40).to_bytes(8, "big"), b"\x93x")
    await until(lambda: notes.messages == [(2**40, b"\x93x")])
    assert notes.connections == [True]


async def test_malformed_messages_are_counted_and_ignored(
    listen: Listening, publisher: Publisher, notes: Notes
) -> None:
    """Too few and too many frames, a sequence of the wrong width; what follows is read as ever."""
    subscriber = listen(publisher.source().events)
    await heard(subscriber, publisher, notes)
    wrong = [(b"kv",), (b"kv", b"x"), (b"kv", b"1234567", b"p"), (b"kv", b"", b"p"), (b"kv", bytes(8), b"p", b"q")]
    for frames in wrong:
        publisher.send(*frames)
    publisher.send(b"kv", (7).to_bytes(8, "big"), b"good")
    await until(lambda: notes.messages == [(7, b"good")])
    assert subscriber.counts.malformed == len(wrong)


async def test_a_message_of_endless_frames_is_thrown_away_bit_by_bit(
    listen: Listening, publisher: Publisher, notes: Notes
) -> None:
    """It counts once, and the next message is whole."""
    subscriber = listen(publisher.source().events)
    await heard(subscriber, publisher, notes)
    publisher.send(b"kv", *[b"x"] * 5000)
    publisher.send(b"kv", (7).to_bytes(8, "big"), b"good")
    await until(lambda: notes.messages == [(7, b"good")])
    assert subscriber.counts.malformed == 1


async def test_a_topic_that_only_begins_alike_is_foreign(listen: Listening, publisher: Publisher, notes: Notes) -> None:
    """ZMQ subscribes to prefixes: `kv@1` would also get `kv@10`, another replica's."""
    subscriber = listen(publisher.source().events)
    await heard(subscriber, publisher, notes)
    publisher.send(b"kv2", bytes(8), b"of another")
    publisher.send(b"kv", (1).to_bytes(8, "big"), b"mine")
    await until(lambda: notes.messages == [(1, b"mine")])
    assert subscriber.counts.foreign == 1


async def test_without_a_told_topic_all_are_taken(listen: Listening, publisher: Publisher, notes: Notes) -> None:
    """Ports by convention say nothing of the topic."""
    subscriber = listen(publisher.source().events, None)
    await heard(subscriber, publisher, notes)
    publisher.send(b"any", (1).to_bytes(8, "big"), b"x")
    await until(lambda: notes.messages == [(1, b"x")])


async def test_a_frame_beyond_the_limit_breaks_the_connection_which_comes_back(
    listen: Listening, publisher: Publisher, notes: Notes
) -> None:
    """Memory is bounded by ZMQ itself; the gap shows in the numbers."""
    subscriber = listen(publisher.source().events, max_bytes=1000, renew_seconds=0.1)
    await heard(subscriber, publisher, notes)
    publisher.send(b"kv", bytes(8), bytes(2000))
    await until(lambda: notes.connections == [True, False, True])
    await heard(subscriber, publisher, notes)
    assert subscriber.counts.disconnects == 1


async def test_a_flood_beyond_all_queues_loses_messages_not_memory(
    listen: Listening, context: zmq.Context[zmq.Socket[bytes]], notes: Notes
) -> None:
    """While the loop is held up the queues fill, messages are dropped, and the rest is read in order."""
    publisher = Publisher(context, queued=8)
    subscriber = listen(publisher.source().events, queued=8)
    await heard(subscriber, publisher, notes)
    payload = bytes(1 << 16)
    for number in range(1, 1000):
        publisher.send(b"kv", number.to_bytes(8, "big"), payload)

    def last_arrived() -> bool:
        publisher.send(b"kv", (1000).to_bytes(8, "big"), b"last")
        return notes.messages[-1:] == [(1000, b"last")]

    await until(last_arrived)
    numbers = [sequence for sequence, _ in notes.messages]
    assert numbers == sorted(numbers)
    assert numbers[0] == 1
    assert len(set(numbers)) < 1000
    assert subscriber.counts.disconnects == 0
    publisher.close()


async def test_local_sockets_work_too(
    listen: Listening, context: zmq.Context[zmq.Socket[bytes]], notes: Notes, tmp_path: Path
) -> None:
    """`ipc://` as well as TCP, and a socket file that comes later."""
    address = f"ipc://{tmp_path}/kv"
    listen(address)
    with context.socket(zmq.PUB) as socket:
        socket.bind(address)
        await until(lambda: notes.connections == [True])
        for _ in range(1000):
            socket.send_multipart((b"kv", (3).to_bytes(8, "big"), b"x"))
            await asyncio.sleep(0.001)
            if notes.messages:
                break
        assert notes.messages[0] == (3, b"x")
        socket.close(linger=0)
    await until(lambda: notes.connections == [True, False])


@pytest.mark.parametrize("address", ["", "nonsense", "tcp://", "tcp://127.0.0.1:nine"])
async def test_an_address_that_is_none_is_an_error_at_once(
    context: zmq.Context[zmq.Socket[bytes]], intake: Intake, notes: Notes, address: str
) -> None:
    """Nothing is left open behind it."""
    subscriber = Subscriber(address, "kv", context, intake, notes)
    with pytest.raises(zmq.ZMQError):
        subscriber.open()
    begun = time.monotonic()
    await asyncio.to_thread(context.term)
    assert time.monotonic() - begun < 2.0


@pytest.mark.parametrize("failures", [(0,), (1,), (0, 1, 2), (1, 2, 3)])
async def test_no_socket_left_is_tried_again(
    listen: Listening,
    context: zmq.Context[zmq.Socket[bytes]],
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: tuple[int, ...],
) -> None:
    """At first as well as later, when there is no connection and a fresh socket is made; said once."""
    real, made = context.socket, 0

    def socket(kind: int) -> zmq.Socket[bytes]:
        nonlocal made
        made += 1
        if made - 1 in failures:
            raise zmq.ZMQError(errno.EMFILE)
        return real(kind)

    (port,) = free_ports(1)
    monkeypatch.setattr(context, "socket", socket)
    listen(f"tcp://127.0.0.1:{port}", renew_seconds=0.02)
    await until(lambda: made > max(failures))
    with real(zmq.PUB) as publisher:
        publisher.bind(f"tcp://127.0.0.1:{port}")
        await until(lambda: notes.connections[:1] == [True])
        publisher.close(linger=0)
    assert sum("tried again" in message for message in caplog.messages) == 1


async def test_many_subscriptions_to_nobody_end_at_once(
    context: zmq.Context[zmq.Socket[bytes]], intake: Intake, notes: Notes
) -> None:
    """300 replicas and their monitors fit one context, and closing does not wait for connections."""
    subscribers = [Subscriber("tcp://127.0.0.1:1", "kv", context, intake, notes) for _ in range(300)]
    for subscriber in subscribers:
        subscriber.open()
    for subscriber in subscribers:
        subscriber.close()
    begun = time.monotonic()
    await asyncio.to_thread(context.term)
    assert time.monotonic() - begun < 5.0
    assert notes.connections == []
