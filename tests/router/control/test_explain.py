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


def printed(explanation: Explanation, width: int = 80) -> str:
    """What it looks like in a pipe."""
    console = Console(file=io.StringIO(), width=width)
    print_explanation(msgspec.to_builtins(explanation), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table() -> None:
    """Chosen first, a column per scorer that says something, costs marked, weights shown, reasons below."""
    text = printed(EXPLAINED)
    assert "policy latency, model m, 4000 prompt tokens" in text
    assert text.index("> replica-3") < text.index("replica-1")
    assert "congestion*" in text
    assert "0.010 x0.5" in text
    assert "0 everywhere: wait" in text
    assert "a tie was broken by the longer prefix" in text
    assert "replica-3 starts in 0.21 s" in text


def test_how_hits_are_known_is_said() -> None:
    """The lens in the second line, a column with each candidate's source, and what the sources mean."""
    sources = ("exact", "recovering")
    pair = zip(EXPLAINED.candidates, sources, strict=True)
    candidates = tuple(msgspec.structs.replace(candidate, knowledge=source) for candidate, source in pair)
    text = printed(
        msgspec.structs.replace(
            EXPLAINED, candidates=candidates, lens="token", lens_about="token lens: /m", keyed_tokens=3984
        )
    )
    assert text.splitlines()[1] == "token lens: /m; hits can be told up to token 3984"
    rows = [line.split() for line in text.splitlines() if line.lstrip(" >").startswith("replica-")]
    assert ["replica-1", "128", "exact"] in [row[:3] for row in rows]
    assert [">", "replica-3", "128", "recovering"] in [row[:4] for row in rows]
    assert "recovering: KV events are missing" in text
    assert "exact: its KV events tell all" in text
    assert "expected:" not in text


def test_a_pipe_gets_whole_cells() -> None:
    """Many scorers and long names are not folded into unreadable columns."""
    name = "a-replica-with-quite-a-long-name.example.internal:8000"
    scorers = tuple(ScorerSeconds(f"scorer-{number}", "start", 0.125) for number in range(12))
    wide = msgspec.structs.replace(EXPLAINED.candidates[1], name=name, scorers=scorers)
    text = printed(msgspec.structs.replace(EXPLAINED, candidates=(wide,)), width=40)
    assert f"> {name}" in text
    assert all(f"scorer-{number} " in text for number in range(12))


def test_a_large_fleet_is_cut_to_the_cheapest() -> None:
    """Twenty rows, and how many more there are."""
    many = tuple(candidate(f"r{number:03}", number, 0.1, 0.0, chosen=number == 0) for number in range(300))
    text = printed(msgspec.structs.replace(EXPLAINED, candidates=many[::-1]))
    assert "r019" in text
    assert "r020" not in text
    assert "280 more replicas" in text


def test_what_is_no_explanation_is_refused() -> None:
    """An error answer is not printed as an empty table."""
    with pytest.raises(msgspec.ValidationError):
        print_explanation({"error": {"message": "no"}}, Console(file=io.StringIO()))
