"""Traces in Mooncake's form: one JSON object a line, prompts as hashes of their blocks of 512 tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kvroute.simulator.workloads.contract import Workload
from kvroute.simulator.workloads.lines import MOST_SECONDS, MOST_TOKENS, lines, refuse
from kvroute.simulator.workloads.source import Source, Wanted
from kvroute.simulator.workloads.trace import OPTIONS, Row, replayed

KEY_TOKENS = 512


class _Line(msgspec.Struct, gc=False):
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=MOST_SECONDS * 1e3)]
    """[ms]"""
    input_length: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
    hash_ids: list[int]


def make(wanted: Wanted) -> Workload:
    """The trace as a workload."""
    return replayed(wanted, read(wanted.path), KEY_TOKENS)


def read(path: str) -> list[Row]:
    """All rows. Ids are chained again, so that equal keys are equal prefixes even where ids are of blocks alone; a last
    block that is not full has an id in the trace, but no key.

    Raises:
        WorkloadError: with file, line and reason.
    """
    decoder = msgspec.json.Decoder(_Line)
    rows: list[Row] = []
    chain: dict[tuple[int, int], int] = {}
    sessions = Sessions()
    for number, text in lines(path):
        try:
            line = decoder.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            refuse(path, number, f"{error}; wanted are timestamp (ms), input_length, output_length, hash_ids")
        most = -(-line.input_length // KEY_TOKENS)
        if len(line.hash_ids) > most:
            held = len(line.hash_ids)
            refuse(path, number, f"{held} hash_ids, but {line.input_length} tokens are {most} blocks of {KEY_TOKENS}")
        if line.hash_ids and len(line.hash_ids) < line.input_length // KEY_TOKENS:
            held, least = len(line.hash_ids), line.input_length // KEY_TOKENS
            refuse(
                path, number, f"{held} hash_ids, but {line.input_length} tokens are {least} full blocks of {KEY_TOKENS}"
            )
        key, keys = 0, []
        for block in line.hash_ids[: line.input_length // KEY_TOKENS]:
            key = chain.setdefault((key, block), len(chain) + 1)
            keys.append(key)
        output = max(1, line.output_length)
        rows.append(Row(line.timestamp / 1e3, line.input_length, output, keys, sessions.of(keys)))
    return rows


class Sessions:
    """Which requests belong together, in traces that do not say: a prompt that continues all of an earlier one, of two
    blocks at least, is that one's next turn."""

    __slots__ = ("_ends", "_sessions")

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}
        self._sessions = 0

    def of(self, keys: list[int]) -> int:
        """The session of the next request."""
        ends = self._ends
        session = next((ends[key] for key in reversed(keys[1:]) if key in ends), None)
        if session is None:
            session = self._sessions
            self._sessions += 1
        if len(keys) > 1:
            ends[keys[-1]] = session
        return session


SOURCE = Source("a trace of Mooncake's form, JSON lines", OPTIONS, make)
