"""Reads a fleet: `8`, `4*qwen3-32b-h100-tp2+2*X`, `2*X:prefill+6*X:decode`, or a file that lists kinds and counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from kvroute.scorers.contract import Role
from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.presets import DEFAULT, FILES, preset, read

MOST = 10_000
"""Replicas; more are a slip of the finger."""
ROLES = {role.name.lower(): role for role in Role}
Phase = Literal["both", "prefill", "decode"]
T = TypeVar("T", bound=msgspec.Struct)
_HOW = "write a count, or COUNT*KIND[:ROLE] joined by +, such as 2*X:prefill+6*X:decode, or the path of a fleet file"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal replicas in a fleet file. What is not said is the preset's."""

    preset: str | None = None
    """As `--preset` takes it; relative paths start at the fleet's file."""
    count: int = 1
    name: str | None = None
    role: Phase | None = None
    ranks: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    blocks: int | None = None
    cache_tokens: int | None = None
    """KV tokens of each; instead of `blocks`."""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    replicas: list[Entry]


NUMBER = re.compile(r"[-+]?(\d[\d.e+-]*|nan|inf)", re.IGNORECASE)
"""What was meant as a count, whether it can be one or not."""


def parse_fleet(text: str | int, preset: str = DEFAULT, cache_tokens: int | None = None) -> tuple[Kind, ...]:
    """The replicas that `text` describes, in its order.

    Args:
        text: a count; parts `[COUNT*]KIND[:ROLE]` joined by `+`; or the path of a fleet file.
        preset: the kind where only a count is given.
        cache_tokens: KV tokens of each replica, whatever its kind says.

    Raises:
        FleetError: it cannot be read; the message names the key and says what to do.
    """
    text = str(text).strip()
    if text.endswith(FILES) and "*" not in text and not text.startswith("roofline:"):
        entries: Sequence[Entry] = _entries(text)
    else:
        entries = [_part(part.strip(), text) for part in text.split("+")]
    kinds = [kind for entry in entries for kind in _replicas(entry, preset, cache_tokens, text)]
    if not kinds or len(kinds) > MOST:
        raise FleetError(f"{text}: a fleet has 1 to {MOST} replicas, not {len(kinds)}")
    if all(kind.role is Role.PREFILL for kind in kinds):
        raise FleetError(f"{text}: prefill replicas alone answer nothing; add some with the role decode or both")
    return tuple(kinds)


def _part(part: str, text: str) -> Entry:
    if part.isdecimal():
        return Entry(count=int(part))
    if NUMBER.fullmatch(part):
        raise FleetError(f"{text}: {part} is no count of replicas: write a whole number above 0, or a kind's name")
    count, star, kind = part.partition("*")
    if not star:
        count, kind = "1", part
    if not count.strip().isdecimal():
        raise FleetError(f"{text}: {count.strip()!r} is no count; {_HOW}")
    if not kind.strip():
        raise FleetError(f"{text or 'an empty fleet'}: a part names no kind; {_HOW}")
    kind, colon, role = kind.strip().rpartition(":")
    if not colon or (role not in ROLES and kind.startswith("roofline")):
        return Entry(preset=kind + colon + role, count=int(count))
    if role not in ROLES:
        raise FleetError(f"{text}: role is one of {', '.join(ROLES)}, not {role!r}; {_HOW}")
    return Entry(preset=kind, count=int(count), role=msgspec.convert(role, Phase))


def _entries(path: str) -> list[Entry]:
    held = read(path)
    try:
        entries = msgspec.convert(held, _File).replicas
    except msgspec.ValidationError as error:
        raise FleetError(
            f"{path}: {error}; it lists `replicas`, each with any of {', '.join(Entry.__struct_fields__)}"
        ) from error
    folder = Path(path).parent
    return [
        msgspec.structs.replace(entry, preset=str(folder / entry.preset))
        if entry.preset and entry.preset.endswith(FILES) and not entry.preset.startswith("roofline:")
        else entry
        for entry in entries
    ]


def _replicas(entry: Entry, otherwise: str, cache_tokens: int | None, text: str) -> list[Kind]:
    if entry.count < 0:
        raise FleetError(f"{text}: count is at least 0, not {entry.count}")
    if entry.count > MOST:
        raise FleetError(f"{text}: a fleet has 1 to {MOST} replicas, not {entry.count}")
    if entry.blocks is not None and entry.cache_tokens is not None:
        raise FleetError(f"{text}: blocks and cache_tokens say the same; give one of them")
    kind = preset(otherwise if entry.preset is None else entry.preset)
    try:
        kind = _changed(kind, entry)
        tokens = cache_tokens if cache_tokens is not None else entry.cache_tokens
        if tokens is not None:
            kind = kind.with_cache(tokens)
    except ValueError as error:
        raise FleetError(f"{text}: {kind.name}: {error}") from error
    return [kind] * entry.count


def _changed(kind: Kind, entry: Entry) -> Kind:
    """The kind with what the entry says otherwise. Other blocks hold as many tokens as before, unless that is said."""
    size = entry.block_size or kind.limits.block_size
    blocks = entry.blocks
    if blocks is None and size != kind.limits.block_size:
        blocks = kind.cache_tokens // size + 1
    limits = _given(kind.limits, block_size=entry.block_size, blocks=blocks, max_num_seqs=entry.max_num_seqs)
    limits = _given(limits, max_num_batched_tokens=entry.max_num_batched_tokens)
    step = _given(kind.step, budget=entry.max_num_batched_tokens)
    role = ROLES[entry.role] if entry.role else None
    return _given(kind, limits=limits, step=step, role=role, ranks=entry.ranks, name=entry.name)


def _given(whole: T, **changes: object) -> T:
    return msgspec.structs.replace(whole, **{key: value for key, value in changes.items() if value is not None})
