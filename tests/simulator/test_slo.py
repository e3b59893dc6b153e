"""Service level objectives: how they are read, and what is good."""

from __future__ import annotations

import numpy as np
import pytest

from kvroute.simulator.reports.summary import summarise
from kvroute.simulator.slo import Slo, SloError
from tests.simulator.reports.outcomes import outcome, scenario

NAN = float("nan")


def test_terms_are_read_with_their_units() -> None:
    """Metric, statistic and time of each part, in seconds."""
    slo = Slo.parse("ttft_p90<2s, tpot_p99.9 <= 50ms,e2e_max<1m,queue_mean<300us")
    assert [(term.metric, term.statistic, term.limit) for term in slo.terms] == [
        ("ttft", "p90", 2.0), ("tpot", "p99.9", 0.05), ("e2e", "max", 60.0), ("queue", "mean", pytest.approx(3e-4)),
    ]  # fmt: skip
    assert str(slo) == "ttft_p90<2s,tpot_p99.9<50ms,e2e_max<1m,queue_mean<300us"


def test_what_is_printed_is_read_again_as_the_same() -> None:
    """str and parse are each other's inverse."""
    slo = Slo.parse("ttft_p90 < 2s, goodput >= 95%")
    assert Slo.parse(str(slo)) == slo
    assert slo.share == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected METRIC_STATISTIC<TIME"),
        ("ttft<2s", "expected METRIC_STATISTIC<TIME"),
        ("ttft_p90>2s", "expected METRIC_STATISTIC<TIME"),
        ("ttfb_p90<2s", "no metric 'ttfb'; there are ttft, tpot"),
        ("ttft_q90<2s", "no statistic 'q90'"),
        ("ttft_p100<2s", "no statistic 'p100'"),
        ("ttft_p0<2s", "no statistic 'p0'"),
        ("ttft_p90<2", "has no unit"),
        ("ttft_p90<2h", "no unit 'h'"),
        ("ttft_p90<0s", "above 0"),
        ("ttft_p90<1.2.3s", "is no number"),
        ("goodput>0.9", "states no time"),
        ("ttft_p90<2s,goodput>95", "at most 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_an_example(text: str, reason: str) -> None:
    """Each error says what is wrong and shows what is right."""
    with pytest.raises(SloError) as caught:
        Slo.parse(text)
    assert reason in str(caught.value)
    assert "For example: ttft_p90<2s" in str(caught.value)


def test_a_request_is_good_within_the_loosest_limit_of_each_metric() -> None:
    """A median's limit does not make every request above it bad; a missing TPOT makes none bad."""
    slo = Slo.parse("ttft_p50<1s,ttft_p99<5s,tpot_p90<50ms,itl_p99<1ms")
    columns = {
        "ttft": np.array([0.5, 4.0, 6.0, 0.5, 0.5]),
        "tpot": np.array([0.01, 0.01, 0.01, 0.06, NAN]),
    }
    assert slo.limits() == {"ttft": 5.0, "tpot": 0.05}
    assert slo.good(columns).tolist() == [True, True, False, False, True]


def test_met_follows_the_measured_statistics() -> None:
    """Ten requests with a first token after 0.1 to 1.0 s."""
    run = outcome([(float(i), float(i), i + 0.1 * (i + 1), i + 2.0) for i in range(10)])

    def met(text: str) -> bool | None:
        return summarise(run, scenario(), Slo.parse(text)).slo_met

    assert met("ttft_p90<0.95s")
    assert not met("ttft_p90<0.9s")
    assert met("ttft_max<1.1s")
    assert met("ttft_p25<400ms,e2e_mean<3s")
    assert not met("ttft_p25<300ms")
    assert met("ttft_mean<2s,goodput>0.99")
    assert met("ttft_p50<650ms,goodput>0.5")
    assert not met("ttft_p50<650ms,goodput>0.9")


def test_refusing_requests_does_not_meet_an_slo() -> None:
    """A fleet that answers some at once and refuses the others is not good enough."""
    rows: list[tuple[float, float | None, float | None, float | None]] = [(0.0, 0.0, 0.1, 0.2)] * 95
    summary = summarise(
        outcome([*rows, *[(1.0, None, None, None)] * 5], refused=5), scenario(), Slo.parse("ttft_p90<2s")
    )
    assert summary.slo_met is False
    assert summary.slo_share == pytest.approx(0.95)


def test_a_percentile_that_was_not_measured_is_an_error() -> None:
    """Asking a summary afterwards for what it does not hold says so."""
    summary = summarise(outcome([(0.0, 0.0, 0.1, 0.2)]), scenario())
    assert Slo.parse("ttft_p99<1s").met(summary)
    with pytest.raises(SloError, match="ttft_p97 was not measured"):
        Slo.parse("ttft_p97<1s").met(summary)
