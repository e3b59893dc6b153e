"""`log:PATH`: the requests of a decision log, sent again when they came, or each turn after the answer before it."""

from __future__ import annotations

import logging
import math
import statistics
import sys
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from kvroute.router.core.decided import Decided
from kvroute.scorers.contract import Request
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.decisions import records
from kvroute.simulator.workloads.options import Option
from kvroute.simulator.workloads.source import Source, Wanted

log = logging.getLogger(__name__)

ENGINE_BLOCK = 16
"""A key of the workload stands for a multiple of this [tokens]."""
NO_OUTPUT = frozenset({"embedding"})
"""Kinds of requests whose answer is not generated."""
_FEW = 8
"""Output tokens that are assumed where no request of the log tells of any."""
OPTIONS = (
    Option("closed", "no", "send a turn a recorded pause after the answer before it", str, choices=("no", "yes")),
    Option("model", "", "only requests for this model (or adapter)", str),
    Option("sample", 1.0, "share of the conversations that is kept, each whole, drawn by the seed", float, 1e-9, 1),
)  # fmt: skip


class Turn(msgspec.Struct, gc=False):
    """One request of the log, and the one that it continues."""

    record: Decided
    before: int | None = None
    """Index of the turn whose answer it followed."""
    talk: int = 0
    """Index of the first turn of its conversation."""
    answer_keys: Sequence[int] = ()
    told: bool = True
    """Whether the log tells its output tokens; else they are assumed."""


class Logged:
    """A decision log as a workload. `turns[int(job.request.id)].record` is what a job was made of."""

    def __init__(self, name: str, turns: list[Turn], key_tokens: int, scale: float, closed: bool) -> None:
        """`turns` by ascending time. `scale`: what recorded times are multiplied by. `closed`: turns follow answers;
        else they are sent at their own times, whatever came of others."""
        self.name = name
        self.key_tokens = key_tokens
        self.turns = turns
        self._scale = scale
        self._closed = closed
        self._following: dict[int, list[tuple[float, int]]] = {}
        for i, turn in enumerate(turns):
            if closed and turn.before is not None:
                pause = (turn.record.at - turns[turn.before].record.ended) * scale
                self._following.setdefault(turn.before, []).append((pause, i))

    def arrivals(self) -> Iterator[Job]:
        """All jobs; where turns follow answers, those that follow none."""
        turns, scale = self.turns, self._scale
        start = turns[0].record.at
        for i, turn in enumerate(turns):
            if turn.before is None or not self._closed:
                yield _job(i, turn, (turn.record.at - start) * scale, self.key_tokens)

    def after(self, job: Job, now: float) -> Sequence[Job]:
        """The turns that followed this one's answer."""
        following = self._following.get(int(job.request.id), ())
        return [_job(i, self.turns[i], now + pause, self.key_tokens) for pause, i in following]


def read(
    path: str,
    *,
    seed: int = 0,
    requests: int | None = None,
    rate: float | None = None,
    speedup: float = 1.0,
    closed: bool = False,
    model: str = "",
    sample: float = 1.0,
    name: str | None = None,
) -> Logged:
    """The log as a workload; `path` may be a pattern.

    Output lengths are the recorded ones; where the engine did not tell, their mean, or the client's limit where that is
    less. Prompt lengths are the engine's where it told them, else the router's estimate. Requests whose prompt was not
    read, or that the engine answered with an error, are left out. A request of several sequences is taken for one.

    Raises:
        WorkloadError: with file, line and reason.
    """
    turns = _turns(path, model)
    key_tokens, group = _key_tokens(turns)
    number = _Numbers()
    for turn in turns:
        record = turn.record
        keys = record.keys[group - 1 :: group] if group > 1 else record.keys
        record.keys = number.chain(keys)[: record.tokens // key_tokens]
    _connect(turns, key_tokens)
    chosen = _chosen(turns, sample, seed, requests)
    scale = _scale(path, chosen, rate, speedup)
    return Logged(name or f"log:{path}", chosen, key_tokens, scale, closed)


def _make(wanted: Wanted) -> Logged:
    options = wanted.options
    return read(
        wanted.path, seed=wanted.seed, requests=wanted.requests, rate=wanted.rate, speedup=wanted.speedup,
        closed=options.text("closed") == "yes", model=options.text("model"), sample=options.number("sample"),
        name=wanted.name,
    )  # fmt: skip


SOURCE = Source(
    "a router's decision log (`kvroute serve --decision-log`); patterns such as 'x.jsonl*' too", OPTIONS, _make
)


class _Numbers:
    """Keys as small numbers, each one more than its parent's where it is that one's first child."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def chain(self, keys: list[int]) -> list[int]:
        numbers = self._numbers
        return [numbers.setdefault(key, len(numbers) + 1) for key in keys]


def _turns(path: str, model: str) -> list[Turn]:
    """What can be sent again, by time of arrival."""
    found = [_slim(one) for one in records(path) if not model or model in (one.model, one.adapter)]
    read = [one for one in found if one.tokens > 0 and not (one.outcome == "completed" and one.status >= 400)]
    if len(read) < len(found):
        words = "%s: %d requests are left out: their prompt was not read, or the engine answered with an error"
        log.warning(words, path, len(found) - len(read))
    if not read:
        raise WorkloadError(f"{path}: no request {f'for {model} ' if model else ''}can be sent again")
    models = sorted({one.model for one in read})
    if len(models) > 1:
        log.warning("%s: requests for %s go to one fleet; model=NAME takes one of them", path, ", ".join(models))
    read.sort(key=lambda one: (one.at, one.orders[0]))
    told = [bool(one.output_tokens) for one in read]
    _told(read)
    return [Turn(one, told=known) for one, known in zip(read, told, strict=True)]


def _slim(one: Decided) -> Decided:
    """Without what nobody looks at again, for logs are long."""
    one.id, one.session = "", None if one.session is None else sys.intern(one.session)
    one.replica, one.model = sys.intern(one.replica), sys.intern(one.model)
    return one


def _told(found: list[Decided]) -> None:
    """Put the engine's own counts in the place of estimates, and the mean in that of what is unknown."""
    outputs = [one.output_tokens for one in found if one.output_tokens]
    mean = round(math.fsum(outputs) / len(outputs)) if outputs else _FEW
    if not outputs:
        log.warning("no request of the log tells its output tokens: %d are taken", _FEW)
    for one in found:
        if one.prompt_tokens and one.sequences == 1:
            one.block_tokens *= one.prompt_tokens / one.tokens
            one.tokens = one.prompt_tokens
        if one.kind in NO_OUTPUT:
            one.output_tokens = 1
        elif not one.output_tokens:
            one.output_tokens = max(1, min(mean, one.max_output_tokens or mean))


def _key_tokens(turns: list[Turn]) -> tuple[int, int]:
    """What one key of the workload stands for, and how many of the log's keys make one of those."""
    sizes = [turn.record.block_tokens for turn in turns if turn.record.keys]
    size = statistics.median_low(sizes) if sizes else float(ENGINE_BLOCK)
    group = max(1, math.ceil((ENGINE_BLOCK - 0.5) / size))
    return max(1, round(size * group / ENGINE_BLOCK)) * ENGINE_BLOCK, group


def _connect(turns: list[Turn], key_tokens: int) -> None:
    """Find which turn followed which answer: a prompt that continues another's, or the next of its session.

    What the continued prompt was continued with begins with its answer, whose blocks the engine keeps too.
    """
    ends: dict[int, int] = {}
    sessions: dict[str, int] = {}
    for i, turn in enumerate(turns):
        record, keys = turn.record, turn.record.keys
        turn.talk = i
        before = next((ends[key] for key in reversed(keys) if key in ends), None)
        if before is not None and turns[before].record.ended <= record.at:
            _answer(turns[before], keys, key_tokens)
        else:
            before = None if record.session is None else sessions.get(record.session)
        if before is not None and turns[before].record.ended <= record.at:
            turn.before, turn.talk = before, turns[before].talk
        if len(keys) > 1:
            ends[keys[-1]] = i
        if record.session is not None:
            sessions[record.session] = i


def _answer(turn: Turn, keys: list[int], key_tokens: int) -> None:
    """`keys` continue this turn's prompt."""
    record = turn.record
    held = len(record.keys)
    full = (record.tokens + (record.output_tokens or 0)) // key_tokens
    if not turn.answer_keys and record.outcome == "completed":
        turn.answer_keys = keys[held:full]


def _chosen(turns: list[Turn], share: float, seed: int, requests: int | None) -> list[Turn]:
    """A sample of whole conversations, then the first so many turns; indices are set right."""
    talks = list(dict.fromkeys(turn.talk for turn in turns))
    if share < 1.0:
        count = max(1, round(share * len(talks)))
        drawn = np.random.default_rng([seed, 3]).permutation(len(talks))[:count].tolist()
        talks = [talks[i] for i in drawn]
    kept = frozenset(talks)
    chosen: list[Turn] = []
    places: dict[int, int] = {}
    for i, turn in enumerate(turns):
        if turn.talk in kept and (requests is None or len(chosen) < requests):
            places[i] = len(chosen)
            turn.before = None if turn.before is None else places[turn.before]
            chosen.append(turn)
    return chosen


def _scale(path: str, turns: list[Turn], rate: float | None, speedup: float) -> float:
    """What recorded times are multiplied by."""
    if rate is None:
        return 1.0 / speedup
    span = turns[-1].record.at - turns[0].record.at
    if span <= 0.0:
        raise WorkloadError(f"{path}: all of its {len(turns)} requests come at one moment: no rate can be set")
    return (len(turns) - 1) / span / rate / speedup


def _job(number: int, turn: Turn, at: float, key_tokens: int) -> Job:
    record = turn.record
    request = Request(
        str(number), "m", record.tokens, record.keys, float(key_tokens), record.adapter, record.session, record.anchor,
        record.priority, 1, record.stream, record.max_output_tokens,
    )  # fmt: skip
    return Job(at, request, record.output_tokens or 1, turn.answer_keys)
