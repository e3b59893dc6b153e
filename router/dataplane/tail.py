"""The looks that are taken into a reply's body: its first bytes, its first output, and its last bytes."""

from __future__ import annotations

import re
from collections import deque

from kvroute.router.dataplane.framing import Chunked, Mark

HEAD_BYTES = 1024
"""What is handed on of a body's beginning."""
TAIL_BYTES = 8 * 1024
"""What is handed on of a body's end."""
_READ_BYTES = TAIL_BYTES + TAIL_BYTES // 8
"""In so many bytes, framing included, stands nearly as much payload."""

_EVENT_END = re.compile(rb"\r?\n\r?\n|\r\r")
_DATA = re.compile(rb"^data:[ ]?(.*)$", re.MULTILINE)
_ERROR = re.compile(rb'"error"\s*:(?!\s*null)|^\[DONE\]\s*$')
_NO_OUTPUT = re.compile(rb"^event:[ ]?(?:response\.(?:created|queued|in_progress)|ping|error)[ ]*\r?$", re.MULTILINE)
"""Events by their names that say nothing of the first token: vLLM opens a stream of /v1/responses with them before it
has begun. The `message_start` of /v1/messages is none of them: vLLM makes it of its first output."""
_USAGE_BEGIN, _USAGE_END = b'"usa', b'age":'
"""Of `"usage":` cut in two, one of these is whole."""
_WATCHED_BYTES = 64 * 1024
_NAME_BYTES = 64


class FirstOutput:
    """Waits for the first SSE event of output: one with data that carries no error and does not just open the stream.

    Comments and `[DONE]` do not count either.
    """

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, payload: bytes) -> bool:
        """True once such an event is complete, or when an event is too large to be waited for."""
        data = self._pending + payload
        position = 0
        for end in _EVENT_END.finditer(data, max(0, len(self._pending) - 3)):
            if _is_output(data[position : end.start()]):
                return True
            position = end.end()
        self._pending = data[position:]
        if len(self._pending) <= _WATCHED_BYTES:
            return False
        if not _NO_OUTPUT.match(self._pending, 0, _NAME_BYTES):
            return True
        # `response.created` repeats the instructions and the tools: what it is, and where it ends, is all we need.
        self._pending = self._pending[:_NAME_BYTES] + self._pending[-3:]
        return False


def _is_output(event: bytes) -> bool:
    if _NO_OUTPUT.search(event):
        return False
    lines = _DATA.findall(event)
    return bool(lines) and not any(_ERROR.search(line) for line in lines)


class Tail:
    """Keeps the last segments of a body by reference. Their framing is read again only when the body is complete."""

    __slots__ = ("_kept", "_size")

    def __init__(self) -> None:
        self._kept: deque[tuple[bytes, int, Mark | None]] = deque()
        self._size = 0

    def keep(self, data: bytes, position: int, mark: Mark | None) -> None:
        """One more segment whose body bytes begin at `position`; `mark`: where a chunked body stood before it."""
        size = len(data) - position
        if mark is None and size > 2 * TAIL_BYTES:
            data = data[-TAIL_BYTES:]
            position = 0
            size = TAIL_BYTES
        kept = self._kept
        kept.append((data, position, mark))
        self._size += size
        while True:
            first = kept[0]
            size = len(first[0]) - first[1]
            if self._size - size < TAIL_BYTES:
                return
            self._size -= size
            kept.popleft()

    def may_tell_usage(self) -> bool:
        """Whether `"usage":` may stand in what `read` returns: a fifth of the work, and most streams have none.

        It is found in the framed bytes, also where the boundary of two chunks cuts it, but not where more than one do.
        """
        parts = [data for data, _, _ in self._kept]
        if parts and self._size > _READ_BYTES:
            parts[0] = parts[0][self._size - _READ_BYTES :]
        framed = b"".join(parts)
        return framed.rfind(_USAGE_BEGIN) >= 0 or framed.rfind(_USAGE_END) >= 0  # `in` searches at half the speed

    def read(self) -> bytes:
        """The body's last bytes, at most `TAIL_BYTES`, without framing."""
        out: list[bytes] = []
        framing: Chunked | None = None
        skip = self._size - _READ_BYTES
        for data, position, mark in self._kept:
            if mark is None:
                out.append(data[position:] if position else data)
                continue
            if framing is None:
                framing = Chunked(mark)
            if skip > 0:
                framing.feed(data[: position + skip], position, None)
                position += skip
                skip = 0
            framing.feed(data, position, out)
        return b"".join(out)[-TAIL_BYTES:]
