"""A publisher of KV events in a process of its own: batches of the recorded shape, on credit or as fast as it can."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator

import zmq

from kvroute.router.testing.kvevents import Batch, BlockRemoved, BlockStored, Event, encode_batch

BLOCK_TOKENS = 16
VOCABULARY = 131_072
CHAIN_BLOCKS = 1024
"""Blocks of one prompt; the batches of a chain name the last block of the one before as their parent."""
WINDOW = 256
"""Batches that are sent ahead of the credit."""
CREDIT = 64
"""Batches that one byte of credit allows."""
QUEUED = 1000
"""Batches that wait in a publisher before it drops."""


def batches(count: int, blocks: int, turnover: bool, seed: int = 0) -> Iterator[bytes]:
    """Payloads of `blocks` new blocks each; with `turnover` they also remove the blocks of the batch 100 before."""
    rng = random.Random(seed)
    past: list[list[int]] = []
    parent, filled = None, 0
    for number in range(count):
        hashes = [rng.getrandbits(64) for _ in range(blocks)]
        events: list[Event] = []
        if turnover and number >= 100:
            events += [BlockRemoved(block_hashes=[hash_]) for hash_ in reversed(past[number - 100])]
        events.append(
            BlockStored(
                block_hashes=list(hashes),
                parent_block_hash=parent,
                token_ids=[rng.randrange(VOCABULARY) for _ in range(blocks * BLOCK_TOKENS)],
                block_size=BLOCK_TOKENS,
                extra_keys=[None] * blocks,
            )
        )
        past.append(hashes)
        filled += blocks
        parent = None if filled % CHAIN_BLOCKS == 0 else hashes[-1]
        yield encode_batch(Batch(1e9 + number, events))


def on_credit(count: int, blocks: int, turnover: bool) -> None:
    """Send all batches, never more than `WINDOW` ahead of the bytes that come on standard input."""
    payloads = list(batches(count, blocks, turnover))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = _bound(context)
    socket.recv()
    allowed = WINDOW
    for number, payload in enumerate(payloads):
        while number >= allowed:
            allowed += CREDIT * max(1, len(sys.stdin.buffer.read(1)))
        socket.send_multipart((b"", number.to_bytes(8, "big"), payload))
    sys.stdin.buffer.read()


def flood(sockets: int, seconds: float, blocks: int) -> None:
    """Several publishers that send without regard, for so long; what the receiver does not take is dropped."""
    payloads = list(batches(256, blocks, False))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    bound = [_bound(context) for _ in range(sockets)]
    for socket in bound:
        socket.recv()
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        frames = (b"", number.to_bytes(8, "big"), payloads[number % 256])
        for socket in bound:
            socket.send_multipart(frames)
        number += 1
    sys.stdout.write(f"{number * sockets}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()


def _bound(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """A publisher that hears of its subscription, its port told on standard output."""
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.SNDHWM, QUEUED)
    socket.setsockopt(zmq.LINGER, 0)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    return socket


if __name__ == "__main__":
    if sys.argv[1] == "flood":
        flood(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    else:
        on_credit(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "turnover")
