"""Headline numbers: what is read first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvroute.simulator.reports.html.run import Run
from kvroute.simulator.reports.measures import better, value
from kvroute.simulator.reports.summary import Summary
from kvroute.simulator.reports.units import count, digits, percent, time


class Tile(NamedTuple):
    """One headline number."""

    name: str
    value: str
    about: str = ""
    tone: str = ""
    """good, warn or bad; "": neither."""


TONES = {"below": "good", "at": "warn", "beyond": "bad"}
JUDGED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("TTFT mean", "ttft_mean", time),
    ("TTFT p90", "ttft_p90", time),
    ("TPOT p90", "tpot_p90", time),
    ("End to end mean", "e2e_mean", time),
    ("Cached prompt tokens", "cached_token_rate", percent),
    ("Goodput", "goodput", lambda rate: f"{digits(rate)}/s"),
    ("Balance of work", "balance_work", digits),
)


def tiles(runs: Sequence[Run]) -> list[Tile]:
    """Of one run its numbers; of many who was best at what."""
    return _of_one(runs[0].summary) if len(runs) == 1 else _of_many(runs)


def _of_one(summary: Summary) -> list[Tile]:
    tiles = [Tile("Load", _standing(summary), f"policy {summary.policy}", TONES[summary.regime])]
    if summary.slo is not None:
        share = f"{percent(summary.slo_share or 0.0)} of requests within its limits"
        tiles.append(Tile("SLO", "met" if summary.slo_met else "missed", share, "good" if summary.slo_met else "bad"))
    for name, field in (("TTFT p90", "ttft"), ("TPOT p90", "tpot"), ("End to end p90", "e2e")):
        found = getattr(summary, field)
        if found is not None:
            tiles.append(Tile(name, time(found.p90), f"p50 {time(found.p50)} · p99 {time(found.p99)}"))
    tokens = f"{count(summary.throughput_output_tokens)} output tokens/s"
    tiles.append(Tile("Throughput", f"{digits(summary.throughput_requests)}/s", tokens))
    bound = f"at best {percent(summary.reusable_token_rate)}"
    tiles.append(Tile("Cached prompt tokens", percent(summary.cached_token_rate), bound))
    if summary.replicas > 1:
        work = f"max/mean of work; requests {digits(summary.balance_requests)}"
        tiles.append(Tile("Balance", digits(summary.balance_work), work))
    tiles.append(
        Tile(
            "KV cache in use",
            percent(summary.kv_usage_mean),
            f"at most {percent(summary.kv_usage_peak)}; {summary.preemptions:,} preemptions",
        )
    )
    return tiles


def _standing(summary: Summary) -> str:
    return {"below": "below knee", "at": "at the knee", "beyond": "saturated"}[summary.regime]


def _of_many(runs: Sequence[Run]) -> list[Tile]:
    tiles = []
    for name, measure, written in JUDGED:
        figures = [(value(run.summary, measure), run) for run in runs]
        known = [(figure, run) for figure, run in figures if figure == figure]
        if not known:
            continue
        ordered = sorted(known, key=lambda one: -better(measure) * one[0])
        (best, winner), (worst, loser) = ordered[0], ordered[-1]
        if best == worst:
            tiles.append(Tile(name, written(best), "the same for all"))
        else:
            tiles.append(Tile(name, written(best), f"best: {winner.label} · worst: {loser.label}, {written(worst)}"))
    saturated = sum(run.summary.saturated for run in runs)
    if saturated:
        tiles.append(Tile("Saturated", f"{saturated} of {len(runs)}", "work came in faster than it was done", "bad"))
    return tiles
