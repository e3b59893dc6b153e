"""How much there is in msgpack, without decoding it: bytes say little of that, for a value may take one."""

from __future__ import annotations

import struct

_UNSIZED = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
"""Byte strings and text, whose length stands behind the tag."""
_EXTENDED = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
"""Values of an application's own kind: one more byte."""
_NESTED = {0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}
_NUMBERS = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
_FIXED_EXTENDED = {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}


def array_header(head: bytes) -> tuple[int, int]:
    """How many elements an array has, whose first five bytes (or all) these are, and where the first one stands;
    (0, 0) where it is no array."""
    if not head:
        return 0, 0
    if head[0] & 0xF0 == 0x90:
        return head[0] & 0x0F, 1
    if head[0] == 0xDC and len(head) >= 3:
        return int(struct.unpack_from(">H", head, 1)[0]), 3
    if head[0] == 0xDD and len(head) >= 5:
        return int(struct.unpack_from(">I", head, 1)[0]), 5
    return 0, 0


def is_beyond(data: bytes, most: int) -> bool:
    """Whether a value, which must be well-formed, has more than `most` values in it, at any depth."""
    if len(data) <= most:
        return False
    at, left, seen = 0, 1, 0
    while left:
        seen += 1
        if seen > most:
            return True
        tag = data[at]
        left += _INSIDE[tag] - 1
        if _WIDTHS[tag]:
            at += _WIDTHS[tag]
        else:
            width, inside = _told(data, at)
            at += width
            left += inside
    return False


def _width(tag: int) -> int:
    """Bytes up to the next value; 0: those behind the tag tell."""
    if tag & 0xE0 == 0xA0:
        return 1 + (tag & 0x1F)
    if tag in _UNSIZED or tag in _EXTENDED or tag in _NESTED:
        return 0
    return _NUMBERS.get(tag) or _FIXED_EXTENDED.get(tag) or 1


def _inside(tag: int) -> int:
    """Values within a short array or map."""
    return tag & 0x0F if tag & 0xF0 == 0x90 else 2 * (tag & 0x0F) if tag & 0xF0 == 0x80 else 0


_WIDTHS = tuple(_width(tag) for tag in range(256))
_INSIDE = tuple(_inside(tag) for tag in range(256))


def _told(data: bytes, at: int) -> tuple[int, int]:
    """(bytes up to the next value, values inside) of one whose length stands behind its tag."""
    tag = data[at]
    form = _UNSIZED.get(tag) or _EXTENDED.get(tag) or _NESTED[tag]
    size = int(struct.unpack_from(form, data, at + 1)[0])
    width = 1 + struct.calcsize(form)
    if tag in _NESTED:
        return width, 2 * size if tag >= 0xDE else size
    return width + size + (tag in _EXTENDED), 0
