"""Explanations as people read them."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from kvroute.router.control.contract import CandidateCost, Explanation, ScorerSeconds
from kvroute.router.control.explain import print_explanation, sentence


def candidate(name: str, queue: float, prefill: float, congestion: float, *, chosen: bool = False) -> CandidateCost:
    return CandidateCost(
        name=name,
        chosen=chosen,
        total_seconds=queue + prefill + congestion,
        predicted_ttft=queue + prefill,
        hit_tokens=128,
        scorers=(
            ScorerSeconds("queue", "start", queue),
            ScorerSeconds("prefill", "start", prefill),
            ScorerSeconds("wait", "start", 0.0),
            ScorerSeconds("congestion", "cost", congestion, 0.5),
        ),
    )


EXPLAINED = Explanation(
    policy="latency",
    model="m",
    prompt_tokens=4000,
    chosen="replica-3",
    candidates=(candidate("replica-1", 0.9, 0.02, 0.0), candidate("replica-3", 0.05, 0.16, 0.01, chosen=True)),
    reasons=("a tie was broken by the longer prefix",),
)


def test_the_sentence_of_the_design() -> None:
    """The chosen replica, its seconds, and the next best."""
    assert sentence(EXPLAINED) == (
        "replica-3 starts in 0.21 s: queue 0.050 + prefill 0.16; replica-1: queue 0.90 + prefill 0.020"
    )


def test_an_excluded_candidate_says_by_whom() -> None:
    """`role` excluded it, not a number."""
    excluded = CandidateCost(
        name="d",
        chosen=False,
        total_seconds=None,
        predicted_ttft=0.1,
        hit_tokens=0,
        scorers=(ScorerSeconds("role", "", None),),
    )
    explained = msgspec.structs.replace(EXPLAINED, candidates=(EXPLAINED.candidates[1], excluded))
    assert sentence(explained).endswith("; d: excluded by role")


def test_nobody_chosen() -> None:
    """Said plainly."""
    assert sentence(msgspec.structs.replace(EXPLAINED, candidates=())) == "no replica can take this request"


def test_a_policy_without_seconds_still_explains() -> None:
    """round-robin has no scorers; the predicted TTFT is there all the same."""
    plain = CandidateCost(name="a", chosen=True, total_seconds=None, predicted_ttft=0.5, hit_tokens=0)
    other = msgspec.structs.replace(plain, name="b", chosen=False)
    explained = msgspec.structs.replace(EXPLAINED, policy="round-robin", candidates=(plain, other))
    assert sentence(explained) == "a starts in 0.50 s; b: 0.50 s"


def test_the_table() -> None:
    """Chosen first, a column per scorer, costs marked, weights shown, reasons and sentence below."""
    console = Console(file=io.StringIO(), width=120)
    print_explanation(msgspec.to_builtins(EXPLAINED), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "policy latency, model m, 4000 prompt tokens" in text
    assert text.index("> replica-3") < text.index("replica-1")
    assert "congestion*" in text
    assert "0.010 x0.5" in text
    assert "a tie was broken by the longer prefix" in text
    assert "replica-3 starts in 0.21 s" in text


def test_what_is_no_explanation_is_refused() -> None:
    """An error answer is not printed as an empty table."""
    with pytest.raises(msgspec.ValidationError):
        print_explanation({"error": {"message": "no"}}, Console(file=io.StringIO()))
