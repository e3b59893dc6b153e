"""Fuzzes the decoder and the stream of KV events: `python tests/fuzz_kv_events.py [-max_total_time=60] [CORPUS]` (needs
atheris). Bytes are fed as one payload; whatever they are, they are read or refused, and the stream lives on."""

from __future__ import annotations

import sys

from kvroute.router.core.observed import Observed
from kvroute.router.knowledge.events.batch import BadBatch, BlockRemoved, BlockStored, decode, plain, stamp, words
from kvroute.router.knowledge.events.stream import Stream


def read_all(data: bytes) -> bool:
    """Read every part of a payload. Whether it is a batch; anything but BadBatch is a bug, and escapes."""
    try:
        stamp(data)
        for event in decode(data).events:
            if isinstance(event, BlockStored | BlockRemoved):
                words(event.block_hashes)
            if isinstance(event, BlockStored) and len(event.extra_keys):
                plain(event.extra_keys)
    except BadBatch as error:
        if not str(error):
            raise
        return False
    return True


def feed(data: bytes) -> None:
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
