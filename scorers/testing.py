"""The conformance kit for plugin authors: candidates to try a scorer or a policy on, and checks of the contract."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kvroute.scorers.contract import Candidates, Column, Floats, Policy, Request, Role, Scorer
from kvroute.scorers.guard import wrong_seconds

DEFAULTS: dict[Column, float] = {
    Column.QUEUED_TOKENS: 0.0,
    Column.QUEUED_QUADRATIC: 0.0,
    Column.OUTSIDE_SECONDS: 0.0,
    Column.SECONDS_PER_TOKEN: 1 / 20_000,
    Column.SECONDS_PER_QUADRATIC: 1e-9,
    Column.REQUESTS: 0.0,
    Column.DECODING: 0.0,
    Column.BUSY: 0.0,
    Column.ACTIVE_TOKENS: 0.0,
    Column.CACHED_TOKENS: 0.0,
    Column.CAPACITY_TOKENS: np.inf,
    Column.SLOTS: np.inf,
    Column.OUTPUT_TOKENS: 200.0,
    Column.STEP_SECONDS: 0.01,
    Column.ADAPTER_SECONDS: 0.5,
    Column.ROLE: float(Role.BOTH),
    Column.CHOSEN: 0.0,
    Column.BASE_SECONDS: 0.005,
}
"""An idle replica of which little is known: 20,000 tokens/s of prefill, unknown capacities."""

COUNTS = (1, 4, 65, 300)
"""Numbers of replicas that the checks try."""

Plugin = TypeVar("Plugin")


def request(tokens: int = 1000, **fields: Any) -> Request:
    """A request of so many tokens; `fields` are any others of `Request`."""
    return Request(**{"id": "request-1", "model": "model", "tokens": tokens, **fields})


def candidates(
    count: int = 4,
    *,
    tokens: int = 1000,
    hit_tokens: float | Sequence[float] = 0.0,
    labels: Sequence[Mapping[str, str]] | None = None,
    adapter_resident: Sequence[float] | None = None,
    fetch_seconds: Sequence[float] | None = None,
    **columns: float | Sequence[float],
) -> Candidates:
    """Idle, equal replicas, changed by columns in lower case: `candidates(4, queued_tokens=[0, 0, 900, 0])`.

    A number stands for all replicas, a sequence gives each its own.
    """
    table = np.empty((len(Column), count))
    for column, value in DEFAULTS.items():
        table[column] = columns.pop(column.name.lower(), value)
    if columns:
        raise TypeError(f"no such column: {', '.join(columns)}")
    return Candidates(
        tuple(f"10.0.{index // 250}.{index % 250 + 1}:8000" for index in range(count)),
        table,
        np.full(count, hit_tokens, dtype=np.float64),
        tokens,
        tuple(labels) if labels is not None else ({},) * count,
        None if adapter_resident is None else np.array(adapter_resident, dtype=np.float64),
        None if fetch_seconds is None else np.array(fetch_seconds, dtype=np.float64),
    )


def varied(count: int, rng: np.random.Generator, *, tokens: int = 1000) -> Candidates:
    """Replicas in all kinds of states: loaded, full, of unknown capacity, in three zones, some with the adapter."""
    known = rng.random(count) < 0.5
    capacity = np.where(known, rng.uniform(1e4, 1e6, count), np.inf)
    room = np.where(known, capacity, 1e6)
    return candidates(
        count,
        tokens=tokens,
        hit_tokens=np.floor(rng.uniform(0.0, tokens, count)).tolist(),
        labels=[{"zone": f"z{index % 3}"} for index in range(count)],
        adapter_resident=(rng.random(count) < 0.5).tolist(),
        fetch_seconds=(rng.random(count) * (rng.random(count) < 0.5)).tolist(),
        queued_tokens=rng.integers(0, 50_000, count).tolist(),
        queued_quadratic=rng.uniform(0.0, 1e9, count).tolist(),
        outside_seconds=rng.uniform(0.0, 2.0, count).tolist(),
        seconds_per_token=rng.uniform(1e-5, 1e-3, count).tolist(),
        requests=rng.integers(0, 300, count).tolist(),
        decoding=rng.integers(0, 200, count).tolist(),
        busy=rng.random(count).tolist(),
        active_tokens=(room * rng.random(count)).tolist(),
        cached_tokens=(room * rng.random(count)).tolist(),
        capacity_tokens=capacity.tolist(),
        slots=np.where(known, 256.0, np.inf).tolist(),
        output_tokens=rng.uniform(1.0, 1000.0, count).tolist(),
        step_seconds=rng.uniform(0.005, 0.05, count).tolist(),
        chosen=rng.permutation(count).tolist(),
    )


def check_scorer(scorer: Scorer | Callable[[], Scorer]) -> None:
    """Assert that a scorer, or what a factory makes, keeps the contract of `kvroute.scorers.contract.Scorer`.

    Shape (n,), float64, >= 0, no NaN; the input is not changed and no part of it returned; the same input gives the
    same answer; the order of the candidates does not matter; 1, 4, 65 and 300 replicas, idle ones, unknown capacities.

    Raises:
        AssertionError: with the sentence that says what is wrong.
    """
    made = _made(scorer, "seconds")
    _claim(isinstance(made, Scorer), "a scorer needs an attribute part and a method seconds")
    _claim(made.part in ("start", "cost"), f"part must be 'start' or 'cost', not {made.part!r}")
    for asked, given in _cases():
        _check_seconds(made, asked, given)


def check_policy(policy: Policy | Callable[[], Policy]) -> None:
    """Assert that a policy, or what a factory makes, keeps the contract of `kvroute.scorers.contract.Policy`.

    It names a candidate or says -1; it does not change its input; the same requests and the same seed give the same
    choices; 1, 4, 65 and 300 replicas, idle ones, unknown capacities.

    Raises:
        AssertionError: with the sentence that says what is wrong.
    """
    first, second = _made(policy, "choose"), _made(policy, "choose")
    _claim(isinstance(first, Policy), "a policy needs a method choose")
    one, other = np.random.default_rng(7), np.random.default_rng(7)
    for now, (asked, given) in enumerate(_cases()):
        before = _frozen(given)
        try:
            index = first.choose(asked, given, float(now), one)
        except Exception as error:
            raise AssertionError(f"choose raised {type(error).__name__}: {error}") from error
        _claim(_frozen(given) == before, "choose changed the candidates it was given")
        try:
            whole = operator.index(index)
        except TypeError:
            raise AssertionError(f"choose must return an int, not {type(index).__name__}") from None
        _claim(-1 <= whole < len(given), f"choose returned {whole} for {len(given)} candidates")
        again = second.choose(asked, given, float(now), other)
        _claim(whole == again, f"the same requests and seed gave {whole} once and {again} once")
        for made in (first, second):
            if hasattr(made, "on_decided"):
                made.on_decided(asked, given, max(whole, 0), float(now))
            if hasattr(made, "on_settled"):
                made.on_settled(asked.id, given.names[max(whole, 0)], float(now))


def _cases() -> list[tuple[Request, Candidates]]:
    """Requests and candidates that a plugin meets in life."""
    rng = np.random.default_rng(20)
    cases = []
    for count in COUNTS:
        cases.append((request(), candidates(count)))
        for tokens in (1, 1000, 100_000):
            given = varied(count, rng, tokens=tokens)
            asked = request(tokens, adapter="adapter", session="session", anchor=int(rng.integers(1 << 62)))
            cases.append((asked, given))
    return cases


def _check_seconds(scorer: Scorer, asked: Request, given: Candidates) -> None:
    before = _frozen(given)
    try:
        answer = scorer.seconds(asked, given, 1.0)
    except Exception as error:
        raise AssertionError(f"seconds raised {type(error).__name__}: {error}") from error
    _claim(_frozen(given) == before, "seconds changed the candidates it was given")
    fault = wrong_seconds(answer, len(given))
    _claim(fault is None, f"seconds {fault} (at {len(given)} candidates)")
    for lent in (given.table, given.hit_tokens, given.prefill_seconds):
        _claim(not np.may_share_memory(answer, lent), "seconds returned an array of the candidates': return a copy")
    kept: Floats = answer.copy()
    again = scorer.seconds(asked, given, 1.0)
    _claim(np.array_equal(kept, again), "the same input gave two different answers")
    order = np.random.default_rng(21).permutation(len(given)).tolist()
    shuffled = scorer.seconds(asked, given.take(order), 1.0)
    _claim(
        np.allclose(shuffled, kept[order], rtol=1e-9, atol=0.0),
        "the answer depends on the order of the candidates: index i must speak of candidate i alone",
    )


def _frozen(given: Candidates) -> tuple[object, ...]:
    """All that a plugin could change, as values."""
    resident = given.adapter_resident
    return (
        given.table.tobytes(),
        given.hit_tokens.tobytes(),
        given.prefill_seconds.tobytes(),
        None if resident is None else resident.tobytes(),
        None if given.fetch_seconds is None else given.fetch_seconds.tobytes(),
        tuple(given.names),
        tuple(tuple(sorted(label.items())) for label in given.labels),
        given.tokens,
    )


def _made(plugin: Plugin | Callable[[], Plugin], method: str) -> Plugin:
    """A fresh plugin: what a class or a factory makes, or a copy of an object."""
    if isinstance(plugin, type) or not hasattr(plugin, method):
        made: Plugin = plugin()  # type: ignore[operator]
        return made
    return copy.deepcopy(plugin)  # type: ignore[return-value]


def _claim(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
