"""What a request's path and headers say to routing."""

from __future__ import annotations

import msgspec

from kvroute.router import paths
from kvroute.router.dataplane.contract import Head
from kvroute.router.parse import PATHS, Kind

JSON = b"application/json"


class Note(msgspec.Struct, frozen=True, gc=False):
    """What a request's path and headers say, kept with heads that come again."""

    kind: Kind
    local: bool
    """One of the router's own paths."""
    management: bool
    reads: bool
    """Its body is JSON whose fields routing looks at."""
    is_json: bool
    """Its media type is JSON."""
    is_form: bool
    """Its media type is a multipart form, as for audio."""
    session: str | None
    explain: bool


def read_note(head: Head, session_header: bytes) -> Note:
    """Read them. `session_header` is the lower-case name of the header with the client's session key."""
    path = head.path
    kind = PATHS.get(path, Kind.OTHER)
    session, explain, media = _read_headers(head, session_header)
    asks = head.method == b"GET" or head.method == b"HEAD"
    is_json = media == JSON and head.method == b"POST"
    known = kind is not Kind.OTHER
    return Note(
        kind,
        asks and path in paths.LOCAL,
        not known and paths.is_management(path),
        known and head.method == b"POST",
        is_json,
        media == b"multipart/form-data",
        session,
        explain,
    )


def _read_headers(head: Head, session_header: bytes) -> tuple[str | None, bool, bytes]:
    """(session key, whether to explain, media type)."""
    session: str | None = None
    explain = False
    media = b""
    for name, value in head.headers:
        lower = name.lower()
        if lower == b"content-type":
            media = value.partition(b";")[0].strip().lower()
        elif lower == b"x-kvroute-explain":
            explain = value == b"1"
        if lower == session_header:
            session = value.decode("latin-1")
    return session, explain, media
