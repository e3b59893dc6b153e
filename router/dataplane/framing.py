"""Where a message body ends: by count, by chunks, or at the end of the connection. Strict, and it copies nothing."""

from __future__ import annotations

import re
from typing import Protocol, TypeAlias

Mark: TypeAlias = tuple[int, int, bytes]

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_LINE_BYTES = 1024
"""Longest chunk-size line, its extension included."""
_TRAILER_BYTES = 16 * 1024
"""Longest trailer section."""


class FramingError(Exception):
    """The bytes break the framing they were announced with."""


class Framing(Protocol):
    """Follows one body through the segments it arrives in."""

    def feed(self, data: bytes, position: int, out: list[bytes] | None) -> int:
        """Read on from `position`. Returns the offset just behind the body's last byte, or -1 when more must come.

        The payload (without framing) is appended to `out` where one is given.

        Raises:
            FramingError: the bytes are not a body of this kind.
        """
        ...


class Counted:
    """A body of a known length."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = length

    def feed(self, data: bytes, position: int, out: list[bytes] | None) -> int:
        end = position + self.left
        size = len(data)
        if end > size:
            self.left = end - size
            end = -1
        else:
            self.left = 0
        if out is not None:
            payload = data[position : end if end >= 0 else size]
            if payload:
                out.append(payload)
        return end


class Unbounded:
    """A body that ends with its connection."""

    __slots__ = ()

    def feed(self, data: bytes, position: int, out: list[bytes] | None) -> int:
        if out is not None and position < len(data):
            out.append(data[position:] if position else data)
        return -1


_LINE, _DATA, _BREAK, _TRAILER, _DONE = range(5)


class Chunked:
    """A chunked body (RFC 9112 section 7.1), its trailer section included.

    Whole chunks inside one segment are stepped over without a state change; everything else (a size line, a chunk or
    a line break cut by the end of the segment) goes through the states LINE, DATA, BREAK, TRAILER.
    """

    __slots__ = ("_left", "_line", "_state", "_trailer")

    def __init__(self, mark: Mark = (_LINE, 0, b"")) -> None:
        self._state, self._left, self._line = mark
        self._trailer = 0

    def mark(self) -> Mark:
        """Where the body stands between two segments: another Chunked made from it reads on from there."""
        return (self._state, self._left, self._line)

    def feed(self, data: bytes, position: int, out: list[bytes] | None) -> int:
        size = len(data)
        while position < size:
            state = self._state
            if state == _LINE and not self._line:
                position = self._chunks(data, position, out)
            elif state == _DATA:
                position = self._data(data, position, out)
            elif state == _DONE:
                return position
            else:
                position = self._cut_line(data, position)
        return size if self._state == _DONE else -1

    def _chunks(self, data: bytes, position: int, out: list[bytes] | None) -> int:
        """Step over whole chunks, the first of which begins at `position`. Returns where reading goes on."""
        size = len(data)
        while True:
            stop = data.find(b"\r\n", position)
            if stop < 0:
                self._hold(data[position:])
                return size
            length = _SIZES.get(data[position:stop])
            if length is None:
                length = _chunk_size(data[position:stop])
            start = stop + 2
            if not length:
                self._state = _TRAILER
                return start
            after = start + length
            if out is not None:
                out.append(data[start:after])
            elif after < size:
                two, three = _TWO_DIGITS.get, _THREE_DIGITS.get
                while step := two(data[after : after + 6]) or three(data[after : after + 7]):
                    after += step
            if after >= size:
                self._left = after - size
                self._state = _DATA if self._left else _BREAK
                return size
            if data[after : after + 2] != b"\r\n":
                self._state = _BREAK
                return after
            position = after + 2
            if position == size:
                return size

    def _begin(self, length: int) -> None:
        self._left = length
        self._state = _DATA if length else _TRAILER

    def _data(self, data: bytes, position: int, out: list[bytes] | None) -> int:
        end = min(len(data), position + self._left)
        if out is not None:
            out.append(data[position:end])
        self._left -= end - position
        if not self._left:
            self._state = _BREAK
        return end

    def _hold(self, rest: bytes) -> None:
        """Keep the beginning of a line whose end has not come."""
        self._line += rest
        if len(self._line) > _LINE_BYTES:
            raise FramingError("a line of the chunked framing is too long")
        if b"\n" in self._line or b"\r" in self._line[:-1]:
            raise FramingError("bare CR or LF in the chunked framing")

    def _cut_line(self, data: bytes, position: int) -> int:
        """Read one line of any kind, which may have begun in an earlier segment."""
        stop = data.find(b"\n", position)
        if stop < 0:
            if self._state == _BREAK and (self._line + data[position:])[:1] != b"\r":
                raise FramingError("a chunk is longer than its size says")
            self._hold(data[position:])
            return len(data)
        line = self._line + data[position : stop + 1]
        self._line = b""
        if line[-2:] != b"\r\n" or b"\r" in line[:-2]:
            raise FramingError("bare CR or LF in the chunked framing")
        self._whole_line(line[:-2])
        return stop + 1

    def _whole_line(self, line: bytes) -> None:
        if self._state == _LINE:
            self._begin(_chunk_size(line))
        elif self._state == _BREAK:
            if line:
                raise FramingError("a chunk is longer than its size says")
            self._state = _LINE
        elif not line:
            self._state = _DONE
        else:
            self._trailer += len(line)
            if self._trailer > _TRAILER_BYTES or not _TRAILER_LINE.fullmatch(line):
                raise FramingError("the trailer section is malformed or too long")


def _chunk_size(line: bytes) -> int:
    match = _SIZE_LINE.fullmatch(line) if len(line) <= _LINE_BYTES else None
    if match is None:
        raise FramingError("a chunk size is malformed")
    return int(match[1], 16)


_SIZES = {b"%x" % size: size for size in range(4096)}
"""Usual size lines."""
_TWO_DIGITS = {b"\r\n%x\r\n" % size: size + 6 for size in range(0x10, 0x100)}
"""From the line break that ends a chunk to the next such line break, by the bytes that stand there: one look-up steps
over a usual chunk."""
_THREE_DIGITS = {b"\r\n%x\r\n" % size: size + 7 for size in range(0x100, 0x1000)}
