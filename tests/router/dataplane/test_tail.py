"""First output and tail, apart from any connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.dataplane.framing import Chunked
from kvroute.router.dataplane.tail import TAIL_BYTES, FirstOutput, Tail

OPENING = (
    b'event: response.created\ndata: {"response": {"error": null}, "type": "response.created"}\n\n'
    b'event: response.in_progress\ndata: {"response": {}, "type": "response.in_progress"}\n\n'
)


@pytest.mark.parametrize(
    ("stream", "output"),
    [
        (b'data: {"a": 1}\n\n', True),
        (b'data:{"a": 1}\r\n\r\n', True),
        (b'event: response.output_item.added\ndata: {"response": {"error": null}}\n\n', True),
        (b'event: message_start\ndata: {"type": "message_start"}\n\n', True),
        (b'data: {"text": "a\\nevent: ping\\n"}\n\n', True),
        (OPENING, False),
        (OPENING.replace(b"\n", b"\r\n"), False),
        (b'event:response.queued\ndata: {"type": "response.queued"}\n\n', False),
        (b'event: ping\ndata: {"type": "ping"}\n\n', False),
        (b'event: error\ndata: {"type": "error", "message": "m"}\n\n', False),
        (OPENING + b'event: response.output_item.added\ndata: {"item": {}}\n\n', True),
        (b'event: response.created\ndata: {"instructions": "' + b"x" * 70_000 + b'"}\n\n', False),
        (b'event: response.created\ndata: {"tools": "' + b"x" * 70_000 + b'"}\n\ndata: {"a": 1}\n\n', True),
        (b'data: {"text": "\\"error\\": 5"}\n\n', True),
        (b": comment\n\n", False),
        (b'data: {"error": {"message": "m"}}\n\n', False),
        (b'event: error\ndata: {"type": "error", "error" : {}}\n\n', False),
        (b"data: [DONE]\n\n", False),
        (b"event: ping\n\n", False),
        (b'data: {"a": 1}\n', False),
        (b': c\n\ndata: {"error": 1}\n\ndata: {"a": 1}\n\n', True),
        (b"data: " + b"x" * 70_000, True),
    ],
)
def test_what_counts_as_output(stream: bytes, output: bool) -> None:
    """The first whole event with data, without an error, that does not just open the stream; or one too large."""
    assert FirstOutput().feed(stream) is output
    watch = FirstOutput()
    assert any([watch.feed(stream[i : i + 7]) for i in range(0, len(stream), 7)]) is output


@given(st.lists(st.binary(min_size=1, max_size=6000), max_size=20))
def test_keeps_the_end_of_a_counted_body(pieces: list[bytes]) -> None:
    """The tail is the body's last bytes."""
    tail = Tail()
    for piece in pieces:
        tail.keep(piece, 0, None)
    assert tail.read() == b"".join(pieces)[-TAIL_BYTES:]


def _fed(data: bytes, sizes: list[int]) -> Tail:
    """A tail that was given a chunked body in segments of these sizes, in turn."""
    framing, tail = Chunked(), Tail()
    position = 0
    while position < len(data):
        for size in sizes:
            piece = data[position : position + size]
            if piece:
                mark = framing.mark()
                framing.feed(piece, 0, None)
                tail.keep(piece, 0, mark)
            position += size
    return tail


@given(st.lists(st.integers(1, 20_000), max_size=20), st.lists(st.integers(1, 9000), min_size=1, max_size=9))
def test_keeps_the_end_of_a_chunked_body(chunks: list[int], sizes: list[int]) -> None:
    """The tail comes without framing, and is at least nearly as long as asked."""
    payloads = [bytes([65 + number % 26]) * size for number, size in enumerate(chunks)]
    data = b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + b"0\r\n\r\n"
    body = b"".join(payloads)
    tail = _fed(data, sizes)
    read = tail.read()
    assert body.endswith(read)
    assert len(read) <= TAIL_BYTES
    assert len(read) >= min(len(body), TAIL_BYTES // 2)


@given(
    st.lists(st.binary(min_size=8, max_size=300), max_size=60).map(b"".join),
    st.lists(st.integers(8, 600), min_size=1),
    st.lists(st.integers(1, 9000), min_size=1, max_size=9),
    st.integers(0, 2000),
)
def test_usage_at_the_end_is_never_overlooked(filler: bytes, chunks: list[int], sizes: list[int], rest: int) -> None:
    """Whatever chunks and segments cut `"usage":`, it is seen that it may be there."""
    body = filler + b'"usage":' + b" " * rest
    data, position, turn = b"", 0, 0
    while position < len(body):
        payload = body[position : position + chunks[turn % len(chunks)]]
        data += b"%x\r\n%b\r\n" % (len(payload), payload)
        position += len(payload)
        turn += 1
    tail = _fed(data + b"0\r\n\r\n", sizes)
    assert b'"usage":' in tail.read()
    assert tail.may_tell_usage()


def test_a_stream_without_usage_is_known_from_its_framed_bytes() -> None:
    """Events that tell no usage need not be taken out of their chunks."""
    assert not _fed(b"9\r\ndata: 1\n\n\r\n" * 3000 + b"0\r\n\r\n", [700]).may_tell_usage()
    assert not Tail().may_tell_usage()
