"""A recorded run of a real engine, as it lies on disk: what was asked, when each request came and was answered."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from kvroute.router.core.blocks import TOKEN_BYTES, extend, pack, token_root
from kvroute.simulator.engine.limits import Limits
from kvroute.simulator.engine.sequence import EngineRequest
from kvroute.simulator.errors import SimulatorError

BLOCK = 16
"""Tokens a block where the run does not say."""
DEPTH = 4
"""Folders above a run in which its workload may lie."""
SAME = 600.0
"""Clocks whose times lie nearer to each other than that are one [s]."""
_Count = Annotated[int, msgspec.Meta(ge=0)]
"""0 is as good as not told."""


_T = TypeVar("_T")


class FidelityError(SimulatorError):
    """A recorded run that cannot be read: file, line, reason."""


class Timed(msgspec.Struct, frozen=True):
    """One request and when it was served, in seconds since the run's first arrival."""

    id: str
    prompt_tokens: int
    output_tokens: int
    arrival: float
    first: float
    last: float
    queued: float | None = None
    scheduled: float | None = None


class Tick(msgspec.Struct, frozen=True):
    """What the engine said of itself once a second."""

    t: float
    """Seconds since the run began, as recorded."""
    prompt_rate: float
    """[tokens/s]"""
    running: float
    waiting: float
    kv_usage: float
    """[0..1]; 0 throughout where it was not recorded."""


class Recording(msgspec.Struct, frozen=True):
    """One run."""

    name: str
    hardware: str
    model: str
    tp: int
    limits: Limits
    """As told; `blocks` only where `blocks_told`."""
    blocks_told: bool
    ahead: bool | None
    """Whether the engine schedules the next step while one runs (`async_scheduling`); None: the run does not say."""
    requests: list[Timed]
    """By arrival."""
    asked: list[EngineRequest]
    """The same requests for an engine, with the keys of their blocks where token ids are there."""
    ticks: list[Tick]
    machine: dict[str, float]
    """`mem_size` [GB], `mem_bw` [GB/s] and `mem_util` of one GPU, where told."""
    notes: list[str]
    """What could not be found out."""
    cached: list[int] | None = None
    """Prompt tokens found in the cache, where the log tells; then keys are not looked at."""
    one_clock: bool = False
    """Arrivals are of the same clock as the rest."""


class Line(msgspec.Struct):
    """A line of requests.jsonl, or of any per-request log with these names."""

    input_toks: int
    output_toks: int
    arrival_time: float
    first_token_ts: float | None
    last_token_ts: float | None
    request_id: str = ""
    queued_ts: float | None = None
    scheduled_ts: float | None = None
    cached_toks: int | None = None


class _Cache(msgspec.Struct):
    num_gpu_blocks: _Count | None = None
    block_size: _Count | None = None
    enable_prefix_caching: bool | None = None


class _Engine(msgspec.Struct):
    model: str | None = None
    tensor_parallel_size: _Count | None = None
    max_num_seqs: _Count | None = None
    max_num_batched_tokens: _Count | None = None
    block_size: _Count | None = None
    enable_prefix_caching: bool | None = None


class _Scheduler(msgspec.Struct):
    max_num_seqs: _Count | None = None
    max_num_batched_tokens: _Count | None = None
    scheduler_reserve_full_isl: bool | None = None
    async_scheduling: bool | None = None


class _Resolved(msgspec.Struct):
    scheduler_config: _Scheduler | None = None


class _Meta(msgspec.Struct):
    """What is looked at of meta.json."""

    model: str | None = None
    dataset_path: str | None = None
    kv_cache: _Cache | None = None
    engine_kwargs: _Engine | None = None
    resolved_config: _Resolved | None = None


class _Asked(msgspec.Struct):
    input_toks: int
    output_toks: int
    input_tok_ids: list[int] = []
    output_tok_ids: list[int] = []


def find(folder: Path) -> list[Path]:
    """The runs below a folder: wherever `vllm/meta.json` lies, or the folder itself.

    Raises:
        FidelityError: there is none.
    """
    found = sorted({path.parent for path in folder.rglob("meta.json") if (path.parent / "requests.jsonl").exists()})
    if not found:
        raise FidelityError(
            f"{folder}: no recorded run; expected <GPU>/<model>/vllm/meta.json with requests.jsonl next to it"
        )
    return found


def read(folder: Path, root: Path) -> Recording:
    """The run whose meta.json lies in `folder`; its workload is looked for there and above. Names count from `root`.

    Raises:
        FidelityError: a file is missing or wrong; names file, line, reason.
    """
    notes: list[str] = []
    meta = _decoded(folder / "meta.json", _Meta)
    lines = [line for _, line in read_lines(folder / "requests.jsonl")]
    kept = [line for line in lines if line.first_token_ts is not None and line.last_token_ts is not None]
    if len(kept) < len(lines):
        notes.append(f"{len(lines) - len(kept)} requests without first or last token are left out")
    requests = align(folder / "requests.jsonl", kept)
    engine, cache = meta.engine_kwargs or _Engine(), meta.kv_cache or _Cache()
    limits = _limits(meta, engine, cache)
    _fit(folder, requests, limits)
    place = folder.parent if folder.name == "vllm" else folder
    tp = engine.tensor_parallel_size or 1
    machine, hardware = _machine(place)
    told = [one for one in (cache.enable_prefix_caching, engine.enable_prefix_caching) if one is not None]
    caching = told[0] if told else True
    asked = _keyed(folder, meta.dataset_path, requests, kept, limits.block_size, notes) if caching else plain(requests)
    return Recording(
        name=str(place.relative_to(root)) if place != root and root in place.parents else place.name,
        hardware=hardware,
        model=meta.model or engine.model or place.name,
        tp=tp,
        limits=limits,
        blocks_told=limits.blocks > 0,
        ahead=_scheduler(meta).async_scheduling,
        requests=requests,
        asked=asked,
        ticks=_ticks(folder / "timeseries.csv", notes),
        machine=machine,
        notes=notes,
        one_clock=one_clock(kept),
    )


def _limits(meta: _Meta, engine: _Engine, cache: _Cache) -> Limits:
    """As told, vLLM's where not; `blocks` 0 where not."""
    scheduler = _scheduler(meta)
    return Limits(
        blocks=cache.num_gpu_blocks or 0,
        block_size=cache.block_size or engine.block_size or BLOCK,
        max_num_seqs=engine.max_num_seqs or scheduler.max_num_seqs or 256,
        max_num_batched_tokens=engine.max_num_batched_tokens or scheduler.max_num_batched_tokens or 2048,
        reserve_prompt=scheduler.scheduler_reserve_full_isl is not False,
    )


def _scheduler(meta: _Meta) -> _Scheduler:
    return (meta.resolved_config or _Resolved()).scheduler_config or _Scheduler()


def _fit(folder: Path, requests: list[Timed], limits: Limits) -> None:
    """Refuse a cache that could not have held what was served."""
    room = (limits.blocks - 1) * limits.block_size
    large = sum(one.prompt_tokens + one.output_tokens > room for one in requests)
    if limits.blocks and large:
        raise FidelityError(
            f"{folder / 'meta.json'}: kv_cache.num_gpu_blocks is {limits.blocks}, room for {room} tokens, but"
            f" {large} of {len(requests)} requests are larger; correct it, or leave it out to have it found"
        )


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """(line number, request) of a per-request log.

    Raises:
        FidelityError: the file cannot be read, or a line is not such a request.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FidelityError(f"{path}: {error.strerror}") from error
    decoder = msgspec.json.Decoder(Line)
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip():
            continue
        try:
            line = decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise FidelityError(f"{path}, line {number}: {error}; needs input_toks, output_toks, arrival_time,"
                                " first_token_ts, last_token_ts") from error  # fmt: skip
        if line.input_toks < 1 or line.output_toks < 1:
            raise FidelityError(f"{path}, line {number}: input_toks and output_toks must be at least 1")
        if line.first_token_ts is not None and line.last_token_ts is not None:
            if not all(map(math.isfinite, (line.arrival_time, line.first_token_ts, line.last_token_ts))):
                raise FidelityError(f"{path}, line {number}: a time is not finite")
            if line.last_token_ts < line.first_token_ts:
                raise FidelityError(f"{path}, line {number}: its last token stands before its first")
        yield number, line


def align(path: Path, lines: list[Line]) -> list[Timed]:
    """One clock for all, by arrival.

    Arrivals may be of the wall clock and the rest of a monotonic one; then they are made to meet at the least delay,
    and what a request spends at least on its way to the engine is part of no time here.

    Raises:
        FidelityError: there are no requests, or nothing tells how two clocks belong together.
    """
    if not lines:
        raise FidelityError(f"{path}: no request that was answered")
    offset = 0.0 if one_clock(lines) else min(_entered(path, line) - line.arrival_time for line in lines)
    start = min(line.arrival_time for line in lines)
    origin = start + offset

    def since(stamp: float | None) -> float | None:
        return None if stamp is None else stamp - origin

    timed = [
        Timed(
            line.request_id or str(index),
            line.input_toks,
            line.output_toks,
            line.arrival_time - start,
            (line.first_token_ts or 0.0) - origin,
            (line.last_token_ts or 0.0) - origin,
            since(line.queued_ts),
            since(line.scheduled_ts),
        )
        for index, line in enumerate(lines)
    ]
    return sorted(timed, key=lambda one: one.arrival)


def one_clock(lines: list[Line]) -> bool:
    """Whether arrivals are of the same clock as first tokens: none comes before its request, nor an hour after."""
    waits = [(line.first_token_ts or 0.0) - line.arrival_time for line in lines]
    entries = [line.queued_ts - line.arrival_time for line in lines if line.queued_ts is not None]
    return 0.0 <= min([*waits, *entries]) < SAME


def _entered(path: Path, line: Line) -> float:
    """The first time of a request that is not its arrival."""
    stamp = line.queued_ts if line.queued_ts is not None else line.scheduled_ts
    if stamp is None:
        raise FidelityError(
            f"{path}: arrival_time and first_token_ts are of different clocks, and there is no queued_ts or"
            " scheduled_ts to bring them together; write all times of one clock"
        )
    return stamp


def plain(requests: list[Timed]) -> list[EngineRequest]:
    return [EngineRequest(one.id, one.prompt_tokens, one.output_tokens) for one in requests]


def _keyed(
    folder: Path,
    dataset: str | None,
    requests: list[Timed],
    lines: list[Line],
    size: int,
    notes: list[str],
) -> list[EngineRequest]:
    """The requests with the keys of their blocks, from the token ids of the workload that the run names."""
    path = _workload(folder, dataset)
    if path is None:
        notes.append("no workload file with token ids: prefix cache hits are not reproduced")
        return plain(requests)
    decoder = msgspec.json.Decoder(_Asked)
    asked: list[_Asked] = []
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        try:
            asked.append(decoder.decode(raw))
        except msgspec.MsgspecError as error:
            raise FidelityError(f"{path}, line {number}: {error}") from error
    seed = token_root(None, None, size)
    place = {line.request_id or str(index): index for index, line in enumerate(lines)}
    made: list[EngineRequest] = []
    unlike = 0
    for one in requests:
        index = _ordinal(one.id, place[one.id])
        own = asked[index] if index < len(asked) else None
        if own is None or own.input_toks != one.prompt_tokens:
            unlike += 1
            made.append(EngineRequest(one.id, one.prompt_tokens, one.output_tokens))
            continue
        try:
            ids = pack(own.input_tok_ids + own.output_tok_ids[: one.output_tokens])
        except (OverflowError, TypeError) as error:
            raise FidelityError(f"{path}, line {index + 1}: a token id is no unsigned 32-bit number") from error
        made.append(
            EngineRequest(one.id, one.prompt_tokens, one.output_tokens, tuple(extend(seed, ids, size * TOKEN_BYTES)))
        )
    if unlike:
        notes.append(f"{unlike} requests are not in {path.name}: their prefixes are taken as unique")
    return made


def _ordinal(name: str, otherwise: int) -> int:
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else otherwise


def _workload(folder: Path, told: str | None) -> Path | None:
    if not told:
        return None
    for place in (folder, *folder.absolute().parents[:DEPTH]):
        for candidate in (place / told, place / "workloads" / Path(told).name):
            if candidate.is_file():
                return candidate
    return None


def _machine(place: Path) -> tuple[dict[str, float], str]:
    """(memory of one GPU, its name)."""
    hardware = place.parent.name
    path = place / "config.json"
    if not path.is_file():
        return {}, hardware
    told = _decoded(path, dict[str, Any])
    try:
        instance = told["nodes"][0]["instances"][0]
        memory = instance["npu_mem"]
        machine = {key: float(memory[key]) for key in ("mem_size", "mem_bw", "mem_util") if key in memory}
        return machine, str(instance.get("hardware") or hardware)
    except (KeyError, IndexError, TypeError, ValueError):
        return {}, hardware


def _ticks(path: Path, notes: list[str]) -> list[Tick]:
    if not path.is_file():
        notes.append("no timeseries.csv: running and waiting requests are not compared")
        return []
    ticks: list[Tick] = []
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                ticks.append(
                    Tick(
                        float(row["t"]),
                        float(row.get("prompt_throughput") or 0.0),
                        float(row["running"]),
                        float(row["waiting"]),
                        float(row.get("kv_cache_pct") or 0.0) / 100.0,
                    )
                )
            except (KeyError, TypeError, ValueError) as error:
                raise FidelityError(
                    f"{path}, line {number}: needs numbers as t, running and waiting ({error})"
                ) from error
    return ticks


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise FidelityError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:  # names the field: "... at `$.engine_kwargs.max_num_seqs`"
        raise FidelityError(f"{path}: {error}") from error
