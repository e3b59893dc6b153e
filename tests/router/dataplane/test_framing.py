"""Body framing against a naive reading of the same bytes, cut anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.dataplane.framing import Chunked, Counted, Framing, FramingError, Unbounded


def feed_all(framing: Framing, pieces: list[bytes]) -> tuple[bytes, int]:
    """The payload, and how many bytes were behind the end (-1: it did not end)."""
    out: list[bytes] = []
    behind = -1
    for piece in pieces:
        if behind >= 0:
            behind += len(piece)
            continue
        end = framing.feed(piece, 0, out)
        if end >= 0:
            behind = len(piece) - end
    return b"".join(out), behind


def end_of(framing: Framing, pieces: list[bytes]) -> int:
    """How many bytes were behind the end, found without collecting the payload (-1: it did not end)."""
    for number, piece in enumerate(pieces):
        end = framing.feed(piece, 0, None)
        if end >= 0:
            return len(piece) - end + sum(map(len, pieces[number + 1 :]))
    return -1


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds) if a < b]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40) | st.integers(250, 260) | st.integers(4090, 5000), max_size=8).map(
        lambda sizes: [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    ),
    st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC:\r\n"]),
    st.sampled_from([b"", b";a", b';a="b"']),
    st.binary(max_size=5),
    st.lists(st.integers(0, 100_000), max_size=30),
)
def test_chunked_reads_what_was_written(
    chunks: list[bytes], trailer: bytes, extension: bytes, behind: bytes, places: list[int]
) -> None:
    """Chunks come out whole and in order; the end is found to the byte; nothing behind it is touched."""
    data = b"".join(b"%X%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    data += b"000" + extension + b"\r\n" + trailer + b"\r\n"
    assert feed_all(Chunked(), cut(data + behind, places)) == (b"".join(chunks), len(behind))
    assert end_of(Chunked(), cut(data + behind, places)) == len(behind)


@settings(deadline=None)
@given(
    st.binary(max_size=200) | st.text("0123ab\r\n; \0x", max_size=200).map(str.encode),
    st.lists(st.integers(0, 1000), max_size=10),
)
def test_chunked_agrees_with_itself_on_any_bytes(data: bytes, places: list[int]) -> None:
    """Arbitrary bytes are refused or accepted alike however they are cut."""

    def reading(read: Callable[[Framing, list[bytes]], object], pieces: list[bytes]) -> object:
        try:
            return read(Chunked(), pieces)
        except FramingError:
            return "refused"

    for read in (feed_all, end_of):
        assert reading(read, [data]) == reading(read, cut(data, places))


@given(st.binary(max_size=100), st.binary(max_size=10), st.lists(st.integers(0, 1000), max_size=10))
def test_counted_stops_at_its_length(body: bytes, behind: bytes, places: list[int]) -> None:
    """A body of known length takes exactly that many bytes."""
    if body:
        assert feed_all(Counted(len(body)), cut(body + behind, places)) == (body, len(behind))
    assert Counted(0).feed(behind, len(behind), None) == len(behind)


def test_unbounded_never_ends() -> None:
    """A body that ends with its connection has no end of its own."""
    out: list[bytes] = []
    assert Unbounded().feed(b"xxabc", 2, out) == -1
    assert out == [b"abc"]


def test_a_mark_resumes_a_body() -> None:
    """Another Chunked made from a mark reads on from the same place."""
    first = Chunked()
    first.feed(b"5\r\nhe", 0, None)
    out: list[bytes] = []
    assert Chunked(first.mark()).feed(b"llo\r\n0\r\n\r\n", 0, out) == 10
    assert out == [b"llo"]


@pytest.mark.parametrize(
    "line", [b"fffffffffffffffff\r\n", b"-1\r\n", b" 1\r\n", b"1 \r\n", b"\r\n", b"1\n", b"1_0\r\n"]
)
def test_refuses_malformed_sizes(line: bytes) -> None:
    """A chunk size is hexadecimal digits, at most fifteen, and CRLF."""
    with pytest.raises(FramingError):
        Chunked().feed(line, 0, None)
