"""The fused sum equals the sum of the separate scorers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.scorers.adapter import Adapter
from kvroute.scorers.congestion import Congestion
from kvroute.scorers.contract import Candidates, Request, Scorer
from kvroute.scorers.fused import FusedSum, predicted_start
from kvroute.scorers.interference import Interference
from kvroute.scorers.prefill import Prefill
from kvroute.scorers.queue import Queue
from kvroute.scorers.role import RoleFilter
from kvroute.scorers.testing import candidates, request
from kvroute.scorers.wait import Wait

INF = float("inf")
SCORERS: dict[str, Scorer] = {
    "queue": Queue(),
    "wait": Wait(),
    "prefill": Prefill(),
    "congestion": Congestion(),
    "interference": Interference(),
    "adapter": Adapter(),
    "role": RoleFilter(),
}


@st.composite
def situations(draw: st.DrawFn) -> tuple[Request, Candidates]:
    """A request and candidates: idle and loaded, rates of zero, caches and limits that are full or unknown."""
    count = draw(st.sampled_from([1, 2, 7, 12, 13, 20]))
    tokens = draw(st.sampled_from([0, 1, 17, 1000, 120_000]))

    def column(*values: float) -> list[float]:
        return draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))

    asked = request(tokens, sequences=draw(st.sampled_from([1, 4])))
    among = candidates(
        count,
        tokens=tokens,
        hit_tokens=np.minimum(column(0, 16, 512, 120_000), tokens).tolist(),
        adapter_resident=draw(st.sampled_from([None, column(0.0, 1.0)])),
        fetch_seconds=draw(st.sampled_from([None, column(0.0, 0.5)])),
        queued_tokens=column(0, 100, 90_000),
        queued_quadratic=column(0, 1e4, 1e9),
        outside_seconds=column(0, 0.5),
        seconds_per_token=column(0, 1e-5, 1e-3),
        seconds_per_quadratic=column(0, 1e-9),
        requests=column(0, 3, 256, 300),
        decoding=column(0, 1, 200),
        busy=column(0, 0.3, 0.95, 1.0),
        active_tokens=column(0, 1000, 99_999, 100_000),
        cached_tokens=column(0, 97_000, 100_000),
        capacity_tokens=column(100_000, 100_001, INF),
        slots=column(1, 256, INF),
        output_tokens=column(1, 300),
        step_seconds=column(0, 0.02),
        adapter_seconds=column(0, 0.7),
        role=column(0, 1, 2),
    )
    return asked, among


WEIGHTS = st.fixed_dictionaries({name: st.sampled_from([0.0, 0.3, 1.0, 2.0]) for name in SCORERS})


@settings(max_examples=300, deadline=None)
@given(situations(), WEIGHTS)
def test_fused_equals_separate(situation: tuple[Request, Candidates], weights: dict[str, float]) -> None:
    """Loop and arrays give what the separate scorers add up to, for every weight, load and unknown."""
    asked, among = situation
    expected = np.zeros(len(among))
    for name, scorer in SCORERS.items():
        if weights[name]:
            expected += weights[name] * scorer.seconds(asked, among, 0.0)
    fused = FusedSum(
        **{name: weights[name] for name in ("queue", "wait", "prefill", "congestion", "adapter")},
        interference=0.05 * weights["interference"],
        role=weights["role"] > 0.0,
    )
    rows, hits = among.table.T.tolist(), among.hit_tokens.tolist()
    assert not np.isnan(expected).any()
    if among.fetch_seconds is None:  # decisions with something to fetch go by columns
        looped = fused.of_rows(asked, among.tokens, hits, rows, among.adapter_resident)
        np.testing.assert_allclose(looped, expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(fused.of_columns(asked, among), expected, rtol=1e-9, atol=1e-15)


@settings(max_examples=100, deadline=None)
@given(situations())
def test_predicted_start_is_the_start_parts(situation: tuple[Request, Candidates]) -> None:
    """The prediction is the unweighted sum of the built-in scorers whose part is start."""
    asked, among = situation
    expected = sum(
        (scorer.seconds(asked, among, 0.0) for scorer in SCORERS.values() if scorer.part == "start"),
        np.zeros(len(among)),
    )
    predicted = [predicted_start(asked, among, index) for index in range(len(among))]
    np.testing.assert_allclose(predicted, expected, rtol=1e-9, atol=1e-15)


def test_the_input_is_left_alone() -> None:
    """The arrays' quick way works in place, but only on its own arrays."""
    among = candidates(4, hit_tokens=[0, 1, 2, 3], busy=0.5)
    table, hits = among.table.copy(), among.hit_tokens.copy()
    FusedSum(queue=1.0, wait=1.0, prefill=1.0, congestion=1.0).of_columns(request(), among)
    assert np.array_equal(table, among.table)
    assert np.array_equal(hits, among.hit_tokens)
