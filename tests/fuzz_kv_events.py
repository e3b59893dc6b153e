"""Fuzzes the decoder and the stream of KV events: `python tests/fuzz_kv_events.py [-max_total_time=60] [CORPUS]` (needs
atheris). Bytes are fed as one payload, and as parts of a good event beside an adapter; whatever they are, they are read
or refused, and the stream lives on."""

from __future__ import annotations

import sys

import msgspec

from kvroute.router.core.observed import Observed
from kvroute.router.knowledge.events import rehash
from kvroute.router.knowledge.events.batch import BadBatch, BlockRemoved, BlockStored, decode, stamp
from kvroute.router.knowledge.events.fields import ids, plain, words
from kvroute.router.knowledge.events.stream import Stream

_BESIDE_AN_ADAPTER = b"\x92\x01\x91\x99" + b"".join(
    msgspec.msgpack.encode(field) for field in ("BlockStored", [1, 2], None, [5, 6], 1, None, "GPU", "ad")
)
"""A batch of one event up to its extra keys."""


def read_all(data: bytes) -> bool:
    """Read every part of a payload. Whether it is a batch; anything but BadBatch is a bug, and escapes."""
    try:
        stamp(data)
        for event in decode(data).events:
            if isinstance(event, BlockStored):
                _read_blocks(event)
            elif isinstance(event, BlockRemoved):
                words(event.block_hashes)
    except BadBatch as error:
        if not str(error):
            raise
        return False
    return True


def _read_blocks(event: BlockStored) -> None:
    ids(event.token_ids)
    if len(event.extra_keys):
        plain(event.extra_keys)
    found = rehash.read(event, words(event.block_hashes))
    if found is not None and event.block_size <= 4096:
        run = found.run(0, len(found.hashes), event.block_size)
        rehash.keys(run, run.root if run.parent is None else run.parent)


def feed(data: bytes) -> None:
    """The bytes alone, and as the extra keys of two blocks of an adapter."""
    _feed(data)
    _feed(_BESIDE_AN_ADAPTER + data)
    _feed(_BESIDE_AN_ADAPTER + b"\x92\x91" + data + b"\xc0")


def _feed(data: bytes) -> None:
    """A stream gets a payload twice, live and replayed."""
    read_all(data)
    stream = Stream(0, Observed(), 1)
    stream.live(0, data, 0.0)
    stream.sent(list(range(1, 9)))
    stream.replayed([(0, data), (1, data)], True, 0.0)
    stream.live(5, data, 0.0)
    stream.unreplayable(0.0)
    while stream.busy:
        stream.step(0.0)


if __name__ == "__main__":
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    atheris.instrument_all()
    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()
