"""Takes requests off a client's bytes one at a time: no transport, no clock, only what came and what it means."""

from __future__ import annotations

import re
from collections.abc import Callable

from kvroute.router.dataplane.framing import Chunked, Counted, Framing, FramingError
from kvroute.router.dataplane.headers import CHUNKED, Refused, same_again
from kvroute.router.dataplane.limits import Limits
from kvroute.router.dataplane.request_head import RequestHead, Shape, first_request, next_request, read_request

_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|$)|\0")


class Reader:
    """Call `head`, then `body`, then `more` with each further segment until the body is whole; then `head` again."""

    __slots__ = (
        "_at",
        "_framing",
        "_length",
        "_limits",
        "_peer",
        "_pieces",
        "_scheme",
        "_seen",
        "_shape",
        "buffer",
        "held",
    )

    def __init__(self, limits: Limits, peer: str, scheme: str) -> None:
        self._limits = limits
        self._peer = peer
        self._scheme = scheme
        self._shape: Shape | None = None
        """The last request's, by which the next is likely to be recognised."""
        self._seen = 0
        """Bytes of an unfinished head that were looked through already."""
        self._at = 0
        self._length = 0
        self._framing: Framing
        self._pieces: list[bytes] = []
        self.buffer = b""
        """Bytes that were not read yet. The caller appends to it between two requests."""
        self.held = 0
        """Bytes of the current body."""

    def head(self, make_id: Callable[[], str]) -> RequestHead | None:
        """The next request's head; None when more bytes must come first.

        Raises:
            Refused: it is malformed or over a limit.
        """
        buffer = self.buffer
        shape = self._shape
        if shape is not None:
            again = same_again(shape.front, shape.back, buffer)
            if again is not None:
                request = next_request(shape, again[0], make_id())
                if request is not None:
                    return self._taken(request, again[1])
        while buffer.startswith(b"\r\n"):
            buffer = self.buffer = buffer[2:]
            self._seen = 0
        end = buffer.find(b"\r\n\r\n", max(0, self._seen - 3)) + 4
        if end == 3 or end > self._limits.head_bytes:
            self._check_unfinished()
            return None
        shape = read_request(buffer if end == len(buffer) else buffer[:end], self._peer, self._scheme)
        self._shape = shape if shape.back else None
        return self._taken(first_request(shape, make_id()), end)

    def _taken(self, request: RequestHead, end: int) -> RequestHead:
        length = self._length = request.length
        if length > self._limits.body_bytes:
            raise Refused(413, f"the body is larger than {self._limits.body_bytes} bytes")
        self._at = end
        self._seen = 0
        self.held = 0
        return request

    def _check_unfinished(self) -> None:
        buffer = self.buffer
        if len(buffer) > self._limits.head_bytes:
            raise Refused(431, f"the request head is larger than {self._limits.head_bytes} bytes")
        if buffer and not 65 <= buffer[0] <= 90 and buffer != b"\r":
            raise Refused(400, "this is not HTTP")
        if _BARE.search(buffer, max(0, self._seen - 1)):
            raise Refused(400, "bare CR or LF, or a NUL byte, in the head")
        self._seen = len(buffer)

    def body(self) -> bytes | None:
        """The body behind the head that was just read; None when more bytes must come first.

        Raises:
            Refused: its framing is malformed, or it is too large.
        """
        buffer = self.buffer
        start = self._at
        length = self._length
        stop = start + length
        if start <= stop <= len(buffer):
            self.buffer = buffer[stop:]
            self.held = length
            return buffer[start:stop]
        self._framing = Chunked() if length == CHUNKED else Counted(length)
        self._pieces = []
        self.buffer = b""
        return self.more(buffer[start:])

    def more(self, data: bytes) -> bytes | None:
        """One more segment of a body: the whole body when it is complete, else None.

        Raises:
            Refused: its framing is malformed, or it is too large.
        """
        found: list[bytes] = []
        try:
            end = self._framing.feed(data, 0, found)
        except FramingError as error:
            raise Refused(400, f"malformed body: {error}") from error
        payload = b"".join(found)
        self._pieces.append(payload)
        self.held += len(payload)
        if self.held > self._limits.body_bytes:
            raise Refused(413, f"the body is larger than {self._limits.body_bytes} bytes")
        if end < 0:
            return None
        self.buffer = data[end:]
        whole = b"".join(self._pieces)
        self._pieces = []
        return whole

    def forget(self) -> None:
        """Let go of what was received: nobody will read on."""
        self.buffer = b""
        self._pieces = []
