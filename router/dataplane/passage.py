"""A reply's bytes on their way from a replica to the client: followed, looked into as little as can be, passed on."""

from __future__ import annotations

from time import monotonic

from kvroute.router.dataplane.contract import Exchange
from kvroute.router.dataplane.framing import Chunked, Counted, Framing, Unbounded
from kvroute.router.dataplane.headers import CHUNKED
from kvroute.router.dataplane.tail import HEAD_BYTES, FirstOutput, Tail

_RAW, _UNWRAP, _WRAP = range(3)
"""How body bytes change: not at all, chunks taken off (HTTP/1.0), chunks put on (the body ends with its connection)."""
_LAST_CHUNK = b"0\r\n\r\n"
_NEAR_BYTES = 1200
"""How far into a segment the first bytes and the first output are looked for first."""


class Passage:
    """One reply's body. A stream's head is held until the first body byte; afterwards bytes pass as they come."""

    __slots__ = (
        "_begin",
        "_early",
        "_exchange",
        "_first",
        "_found",
        "_framing",
        "_holding",
        "_inspects",
        "_recode",
        "_segments",
        "_streaming",
        "_tail",
        "_waiting",
        "clean",
        "ended",
        "head",
    )

    def __init__(
        self, exchange: Exchange, length: int, *, old: bool, streaming: bool, ends: bool, opaque: bool
    ) -> None:
        """`length`: body bytes, CHUNKED or UNBOUNDED; `old`: the client speaks HTTP/1.0; `ends`: the exchange is
        told of the body's first and last bytes; `opaque`: it is compressed."""
        self._exchange = exchange
        self._framing: Framing
        self._recode = _RAW
        if length >= 0:
            self._framing = Counted(length)
        elif length == CHUNKED:
            self._framing = Chunked()
            self._recode = _UNWRAP if old else _RAW
        else:
            self._framing = Unbounded()
            self._recode = _RAW if old else _WRAP
        self._begin = b"" if ends else None
        self._tail = Tail() if ends else None
        self._streaming = self._holding = self._waiting = streaming
        self._found = False
        """The first output is in, and has not been told yet."""
        self._first = FirstOutput() if streaming and not opaque else None
        self._inspects = streaming or ends or self._recode != _RAW
        self._segments = 0
        self._early = 0
        """Segments that came before the first output."""
        self.head = b""
        """The head to send in front of the first bytes; the one who made the passage sets it."""
        self.ended = False
        """The body is complete."""
        self.clean = True
        """Nothing came behind the body's end."""

    @property
    def raw(self) -> bool:
        """Bytes pass unchanged."""
        return self._recode == _RAW

    @property
    def wraps(self) -> bool:
        """The client gets chunks although the replica sends none."""
        return self._recode == _WRAP

    @property
    def open_ended(self) -> bool:
        """Only the replica's close ends the body."""
        return type(self._framing) is Unbounded

    @property
    def counted(self) -> bool:
        """The client knows the body's length."""
        return type(self._framing) is Counted

    @property
    def pieces(self) -> int:
        """Segments that came, from that of a stream's first output on."""
        return 0 if self._waiting else self._segments - self._early

    def carry(self, data: bytes, position: int, start: int) -> bytes:
        """Follow a segment whose body bytes begin at `position`; returns what the client gets of it from `start` on.

        Raises:
            FramingError: the replica breaks the framing it announced.
        """
        self._segments += 1
        framing = self._framing
        tail = self._tail
        mark = framing.mark() if tail is not None and type(framing) is Chunked else None
        payload: bytes | None = None
        if not self._inspects:
            end = framing.feed(data, position, None)
        elif self._recode == _RAW:
            end = self._watch(data, position)
        else:
            out: list[bytes] = []
            end = framing.feed(data, position, out)
            payload = b"".join(out)
            self._see(payload)
        if end >= 0:
            self.ended = True
            if end - position == len(_LAST_CHUNK) and type(framing) is Chunked:
                self._segments -= 1
            if end < len(data):
                data = data[:end]
                self.clean = False
        if self._inspects:
            self._tell()
        if tail is not None:
            tail.keep(data, position, mark)
        if payload is not None:
            data = self._recoded(payload)
        elif start:
            data = data[start:]
        return self._headed(data) if self.head else data

    def close(self) -> bytes:
        """The replica closed where that is the body's end: the last bytes for the client."""
        self.ended = True
        self._tell()
        head, self.head = self.head, b""
        return head + _LAST_CHUNK if self._recode == _WRAP else head

    def tail(self) -> bytes | None:
        """The body's last bytes, where they are of use."""
        tail = self._tail
        if tail is None or (self._streaming and not tail.may_tell_usage()):
            return None
        return tail.read()

    def _headed(self, data: bytes) -> bytes:
        data = self.head + data
        if self._holding and not self.ended:
            self.head = data
            return b""
        self.head = b""
        return data

    def _watch(self, data: bytes, position: int) -> int:
        """Follow the framing, and look at the payload only until the first output: that is near, most of the time."""
        near = position + _NEAR_BYTES
        end = -1
        looks = True
        for piece in (data[:near], data) if len(data) > near else (data,):
            out: list[bytes] | None = [] if looks else None
            end = self._framing.feed(piece, position, out)
            position = len(piece)
            if out is not None:
                looks = self._see(b"".join(out))
            if end >= 0:
                break
        return end

    def _see(self, payload: bytes) -> bool:
        """Look for the first body bytes, the first of which lets a held head go, and for the first output of a stream.
        False when there is nothing more to look for."""
        if payload:
            self._holding = False
            if self._begin is not None:
                self._begin += payload[: HEAD_BYTES - len(self._begin)]
            if self._waiting and not self._found:
                self._found = self._first is None or self._first.feed(payload)
        begins = self._begin is not None and len(self._begin) < HEAD_BYTES
        return begins or (self._waiting and not self._found)

    def _tell(self) -> None:
        """Report what was seen: not before the whole segment has proved to be sound, for if it is not, none of it is
        relayed, and what was told of it would belong to an attempt that failed."""
        begin = self._begin
        if begin is not None and (self.ended or len(begin) >= HEAD_BYTES):
            if begin:
                self._exchange.head(begin)
            self._begin = None
        if self._found:
            self._exchange.first_output(monotonic())
            self._waiting = self._found = False
            self._early = self._segments - 1
            self._first = None
        self._inspects = self._waiting or self._begin is not None or self._recode != _RAW

    def _recoded(self, payload: bytes) -> bytes:
        """The payload in the framing that the client needs."""
        if self._recode == _UNWRAP or not payload:
            return payload
        return b"%x\r\n%b\r\n" % (len(payload), payload)
