"""The headers that mean something to a proxy, found by name whatever their spelling, and what Connection nominates."""

from __future__ import annotations

from collections.abc import Sequence

ORDINARY, DROP, CONNECTION, HOST, LENGTH, CODING, EXPECT, UPGRADE = range(8)
FORWARDED_FOR, FORWARDED, REQUEST_ID, TYPE, CONTENT_CODING = range(8, 13)

_SPECIAL = {
    b"connection": CONNECTION,
    b"content-encoding": CONTENT_CODING,
    b"content-length": LENGTH,
    b"content-type": TYPE,
    b"expect": EXPECT,
    b"forwarded": FORWARDED,
    b"host": HOST,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"te": DROP,
    b"transfer-encoding": CODING,
    b"upgrade": UPGRADE,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-request-id": REQUEST_ID,
}
_NEVER_NOMINATED = frozenset((b"content-length", b"content-type", b"host", b"authorization", b"x-request-id"))
"""End-to-end fields that a Connection header cannot take away (a known way to confuse the next hop)."""
_KINDS_KEPT = 2048
REMEMBERED_BYTES = 8 * 1024
"""Longest head that a connection remembers, to recognise it when it comes again."""

CHUNKED = -1
"""Stands for the length of a body in chunks."""
UNBOUNDED = -2
"""Stands for the length of a reply that ends with its connection."""


class Refused(Exception):
    """A request (or a reply: 502) that is refused, with the status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Kinds(dict[bytes, int]):
    """What a header means to us, by its name as spelt. Spellings are remembered, a bounded number of them."""

    def __missing__(self, name: bytes) -> int:
        kind = _SPECIAL.get(name.lower(), ORDINARY)
        if len(self) < _KINDS_KEPT:
            self[name] = kind
        return kind


kinds = Kinds()


class Sink:
    """What llhttp calls: collects the target, the reason and the headers."""

    __slots__ = ("headers", "reason", "target")

    def __init__(self) -> None:
        self.target = b""
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


def options(values: Sequence[bytes]) -> set[bytes]:
    """The options of all Connection headers, in lower case."""
    return {option.strip().lower() for value in values for option in value.split(b",")}


def nominated(options: set[bytes]) -> set[bytes]:
    """The fields among the options that are for this hop only."""
    return options - _NEVER_NOMINATED - {b"close", b"keep-alive", b"upgrade"}


def without(lines: Sequence[bytes], names: set[bytes]) -> list[bytes]:
    """The header lines whose names (lower case) are not among `names`."""
    return [line for line in lines if line.split(b":", 1)[0].lower() not in names]


def length_cut(raw: bytes, name: bytes, digits: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and after the digits of the length header `name`, or None where they are not plain."""
    start = raw.find(b"\r\n%b:" % name) + len(name) + 3
    while raw[start : start + 1] in (b" ", b"\t"):
        start += 1
    stop = start + len(digits)
    if not digits.isdigit() or raw[start:stop] != digits or raw[stop : stop + 2] != b"\r\n":
        return None
    return raw[:start], raw[stop:]


def same_again(front: bytes, back: bytes, data: bytes) -> tuple[bytes, int] | None:
    """The digits and the end of a head in `data` that equals front + digits + back, or None.

    Such a head needs no parsing: apart from its length it was parsed before. Empty digits stand for heads that have
    no length header, whose `back` is the empty line.
    """
    if not data.startswith(front):
        return None
    start = len(front)
    stop = data.find(b"\r\n", start, start + 20)
    if stop < 0 or not data.startswith(back, stop):
        return None
    return data[start:stop], stop + len(back)
