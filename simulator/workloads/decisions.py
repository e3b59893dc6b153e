"""Reads decision logs: every line checked and named where it is wrong, keys restored, a line that a crash cut off left
out."""

from __future__ import annotations

import glob
import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from kvroute.router.core.decided import VERSION, Began, Broken, Decided, Line, Member, Reading, Restored
from kvroute.simulator.errors import WorkloadError

log = logging.getLogger(__name__)
_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class Seen(NamedTuple):
    """One replica of the log's fleet, as it was last seen."""

    name: str
    role: str
    slots: float
    capacity_tokens: float | None
    block_tokens: int | None


def paths(text: str) -> list[str]:
    """The files that a path, or a pattern such as `decisions.jsonl*`, names; in order of their names.

    Raises:
        WorkloadError: a pattern that fits none.
    """
    if Path(text).exists() or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text))
    if not found:
        raise WorkloadError(f"{text}: no file fits this pattern")
    return found


def lines(path: str) -> Iterator[Line]:
    """Every line of one file, keys restored; times are those of its router's clock.

    Raises:
        WorkloadError: with file, line and reason.
    """
    restored: Restored | None = None
    torn: WorkloadError | None = None
    for number, text in _texts(path):
        try:
            line = _decoded(text)
            if torn is not None and not isinstance(line, Began):
                raise torn
            if isinstance(line, Began):
                if torn is not None:
                    _told(torn)
                torn, restored = None, Restored()
            elif restored is None:
                raise Broken("a decision log begins with a line that says so ('line': 'began'); this file does not")
            elif isinstance(line, Decided):
                restored.restore(line)
        except (msgspec.DecodeError, Broken) as error:
            if torn is not None:
                raise torn from error
            fault = WorkloadError(f"{path}:{number}: {error}")
            if isinstance(error, Broken):
                raise fault from error
            torn = fault  # unless what follows shows that the router died over it
            continue
        yield line
    if torn is not None:
        if restored is None:
            raise torn
        _told(torn)


def records(path: str) -> Iterator[Decided]:
    """The requests of a log, in the order in which they ended; of several files one after the other. Times are seconds
    since the log's beginning, on one clock for all files and lives of routers.

    `path` may be a pattern.

    Raises:
        WorkloadError: with file, line and reason.
    """
    origin: float | None = None
    for one in paths(path):
        shift = 0.0
        for line in lines(one):
            if isinstance(line, Began):
                origin = line.wall if origin is None else origin
                shift = (line.wall - origin) - line.clock
            elif isinstance(line, Decided):
                yield _shifted(line, shift)


def beginning(path: str) -> Began:
    """What the (first) router of a log ran with."""
    for line in lines(paths(path)[0]):
        if isinstance(line, Began):
            return line
    raise WorkloadError(f"{path}: the file is empty")


def fleet(path: str) -> list[Seen]:
    """The replicas that were ready at some time, in the order of their first being so; each as it was last seen."""
    members: dict[str, Member] = {}
    ready: dict[str, None] = {}
    for one in paths(path):
        for line in lines(one):
            if isinstance(line, Member):
                before = members.get(line.name)
                if before is not None:
                    line.capacity_tokens = line.capacity_tokens or before.capacity_tokens
                    line.block_tokens = line.block_tokens or before.block_tokens
                members[line.name] = line
                if line.state == "ready":
                    ready[line.name] = None
            elif isinstance(line, Reading) and line.name in members:
                member = members[line.name]
                member.capacity_tokens = line.capacity_tokens or member.capacity_tokens
                member.block_tokens = line.block_tokens or member.block_tokens
    seen = (members[name] for name in ready)
    return [Seen(one.name, one.role, one.slots, one.capacity_tokens, one.block_tokens) for one in seen]


def _texts(path: str) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line that is not empty."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text
    except (EOFError, zlib.error) as error:
        raise WorkloadError(f"{path}:{number + 1}: the compressed file is cut off or damaged: {error}") from error
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror or error}") from error
    if not number:
        raise WorkloadError(f"{path}: the file is empty")


def _decoded(text: bytes) -> Line:
    line = _DECODER.decode(text)
    if line.v != VERSION:
        raise Broken(f"written in version {line.v} of the format; this kvroute reads version {VERSION}")
    return line


def _told(torn: WorkloadError) -> None:
    log.warning("%s (a line that was cut off when its router died; left out)", torn)


def _shifted(line: Decided, shift: float) -> Decided:
    line.at += shift
    line.decided += shift
    line.ended += shift
    if line.first is not None:
        line.first += shift
    for attempt in line.earlier:
        attempt.decided += shift
        attempt.ended += shift
    return line
