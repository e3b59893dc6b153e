"""A recorded session ready to be sent again: its keys as what each prompt adds to the one before it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kvroute.simulator.workloads.order import Placed
from kvroute.simulator.workloads.recorded import Entry, Session
from kvroute.simulator.workloads.sessions import Turn

UNCHAINED = "hash_ids are not chained: two prompts have an id in common, but not all ids before it"


class Shape(NamedTuple):
    """How recorded sessions are changed."""

    truncate: int | None
    """Tokens to which longer prompts are cut."""
    think: float
    """What think times are multiplied by."""
    longest_think: float
    """What think times are cut to, after that [s]."""


class Keys:
    """Gives a file's ids, which count anew in each session, keys of their own.

    Ids say nothing across sessions. Prompts begin with the tools, then the system prompt: sessions with as many tool
    tokens are taken to have the same tools, and with as many system tokens too the same system prompt. That is a guess
    from sizes; the best possible hit rate of the 200 published sessions is 0.963 with it and 0.962 without.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        """Tokens of a block."""
        self._next = 1
        self._shared: dict[tuple[int, ...], int] = {}

    def beginning(self, ids: Sequence[int], tool_tokens: int, system_tokens: int) -> dict[int, int]:
        """Key of each id of the shared beginning, the ids being those of a prompt that has all of it."""
        tools = tool_tokens // self.block_size
        both = (tool_tokens + system_tokens) // self.block_size
        first = self._named((tool_tokens,), tools)
        second = self._named((tool_tokens, system_tokens), both - tools) - tools
        return {block: (first if place < tools else second) + place for place, block in enumerate(ids[:both])}

    def take(self, count: int) -> int:
        """The first of so many new keys in a row."""
        first = self._next
        self._next += count
        return first

    def _named(self, whose: tuple[int, ...], count: int) -> int:
        if whose not in self._shared:
            self._shared[whose] = self.take(count)
        return self._shared[whose]


class Recorded(msgspec.Struct, gc=False):
    """A session ready to be replayed; one entry a turn in each list."""

    id: str
    turns: list[Turn]
    lanes: list[int]
    common: list[int]
    """Leading keys that a prompt shares with the one before it in its lane."""
    tails: list[array[int]]
    """Its keys behind those."""
    answers: list[Sequence[int]]
    """Keys of the full blocks that its answer completes and that the lane's next prompt holds."""

    def first(self, count: int) -> Recorded:
        """Its first turns alone; none of them needs a later one."""
        turns = [
            msgspec.structs.replace(turn, then=tuple(index for index in turn.then if index < count))
            for turn in self.turns[:count]
        ]
        return msgspec.structs.replace(self, turns=turns)


class Replayed:
    """One run of a recorded session: keys are put together as its turns are sent."""

    def __init__(self, recorded: Recorded, most: int | None) -> None:
        """`most`: keys of a prompt that is cut."""
        self.session = recorded.id
        self.turns: Sequence[Turn] = recorded.turns
        self._recorded = recorded
        self._most = most
        self._held: dict[int, list[int]] = {}

    def prompt(self, index: int) -> list[int]:
        """What the lane's last prompt and this one share, and what is new."""
        recorded = self._recorded
        lane = recorded.lanes[index]
        keys = self._held.get(lane, [])[: recorded.common[index]]
        keys.extend(recorded.tails[index])
        self._held[lane] = keys
        return keys[: self._most]

    def answer(self, index: int) -> Sequence[int]:
        """The next prompt's keys, as far as they are this answer."""
        return self._recorded.answers[index]


def recorded(session: Session, order: list[Placed], keys: Keys, shape: Shape) -> Recorded:
    """The session, its requests being in that order.

    Raises:
        ValueError: equal ids do not stand behind equal beginnings.
    """
    named = _beginnings(session, keys)
    block_size, longest = keys.block_size, shape.truncate
    common: list[int] = []
    tails: list[list[int]] = []
    answers: list[list[int]] = [[] for _ in order]
    before: dict[int, tuple[int, Entry]] = {}
    parents: dict[int, int] = {}
    for index, one in enumerate(order):
        entry = one.entry
        ids = entry.hash_ids[: entry.tokens // block_size]
        shared = 0
        if one.lane in before:
            place, last = before[one.lane]
            whole = last.tokens // block_size
            shared = _common(last.hash_ids, min(whole, len(ids)), ids)
            end = last.tokens + last.out
            if shared == whole and entry.tokens >= end and (longest is None or last.tokens <= longest):
                answers[place] = ids[whole : end // block_size]
        before[one.lane] = index, entry
        _chained(ids, shared, parents)
        common.append(shared)
        tails.append(ids[shared:])
    base = keys.take(max(parents, default=0) + 1)

    def keyed(ids: list[int]) -> array[int]:
        return array("q", [named.get(block, base + block) for block in ids])

    lanes = [one.lane for one in order]
    return Recorded(
        session.id, _turns(order, shape), lanes, common, [keyed(ids) for ids in tails],
        [keyed(ids) if ids else () for ids in answers],
    )  # fmt: skip


def _turns(order: list[Placed], shape: Shape) -> list[Turn]:
    then: list[list[int]] = [[] for _ in order]
    for index, one in enumerate(order):
        for need in one.needs:
            then[need].append(index)
    longest = shape.truncate
    return [
        Turn(
            one.entry.tokens if longest is None else min(one.entry.tokens, longest),
            max(1, one.entry.out),
            min(one.think * shape.think, shape.longest_think),
            len(one.needs),
            tuple(following),
        )
        for one, following in zip(order, then, strict=True)
    ]


def _beginnings(session: Session, keys: Keys) -> dict[int, int]:
    """Keys of the ids that stand for tools and system prompts, the session's own and its sub-agents'."""
    named: dict[int, int] = {}
    own = [entry for entry in session.requests if entry.type != "subagent"]
    groups = [(own, session.tool_tokens, session.system_tokens)]
    groups += [(one.requests, one.tool_tokens, one.system_tokens) for one in session.requests if one.requests]
    for entries, tool_tokens, system_tokens in groups:
        both = tool_tokens + system_tokens
        whole = [entry.hash_ids for entry in entries if entry.tokens >= both and entry.hash_ids]
        if not whole or both < keys.block_size:
            continue
        # A few requests of a session have another system prompt: they name a conversation, for instance.
        usual = Counter(ids[0] for ids in whole).most_common(1)[0][0]
        ids = next(ids for ids in whole if ids[0] == usual)
        if usual not in named:
            named |= keys.beginning(ids, tool_tokens, system_tokens)
    return named


def _common(before: list[int], count: int, ids: list[int]) -> int:
    """Leading ids that are alike, of `count`. Equal ids have equal ones before them: a bisection finds where they
    part."""
    common = count
    if count and before[count - 1] != ids[count - 1]:
        common = bisect_left(range(count), True, key=lambda place: before[place] != ids[place])
    if before[:common] != ids[:common]:
        raise ValueError(UNCHAINED)
    return common


def _chained(ids: list[int], start: int, parents: dict[int, int]) -> None:
    """Enter what stands before each id from `start` on: it must be the same wherever the id is."""
    before = ids[start - 1] if start else -1
    for block in ids[start:]:
        if parents.setdefault(block, before) != before:
            raise ValueError(UNCHAINED)
        before = block
