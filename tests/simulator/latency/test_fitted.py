"""Presets against the points that they were fitted to, where those are present."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from kvroute.simulator.latency.fitted import errors, fit, predict
from kvroute.simulator.latency.measured import Group, read
from kvroute.simulator.latency.presets import names, preset

POINTS = Path(__file__).parents[4] / "shared" / "data" / "ground_truth" / "silicon_vllm_h100_b200.csv"


@cache
def _groups() -> dict[tuple[str, int], Group]:
    return {(group.name, len(group.points)): group for group in read(POINTS)}


def _group(name: str) -> Group:
    if not POINTS.exists():
        pytest.skip("the measured points are not here (../shared/data/ground_truth)")
    found = [group for (known, _), group in _groups().items() if known == name]
    return max(found, key=lambda group: len([point for point in group.points if not group.crowded(point)]))


@pytest.mark.parametrize("name", names()[1:])
def test_a_preset_is_as_close_as_it_says(name: str) -> None:
    """On the points it was fitted to, a preset is no further off than the hold-out error that it states."""
    group, kind = _group(name), preset(name)
    seen = errors([(predict(kind, group, point), point) for point in group.points if not group.crowded(point)])
    stated = re.search(r"fitted to (\d+) .* TPOT (\d+)% \(p90 (\d+)%\), TTFT (\d+)% \(p90 (\d+)%\)", kind.source)
    assert stated is not None
    points, tpot, _, ttft, _ = (int(number) for number in stated.groups())
    assert points == seen.points
    assert seen.tpot_median <= tpot / 100 + 0.006
    assert seen.ttft_median <= ttft / 100 + 0.006


@pytest.mark.parametrize("name", ["llama-3.1-70b-h100-fp8-tp4", "kimi-k2.5-b200-int4-tp8", "qwen3-32b-h100-tp2"])
def test_the_fit_is_repeatable(name: str) -> None:
    """Fitting again gives the preset as it is shipped, hold-out errors included."""
    again, kind = fit(_group(name)), preset(name)
    assert again is not None
    assert again.kind.source == kind.source
    assert again.kind.limits == kind.limits
    for field in ("c0", "c1", "c2", "c3", "c4"):
        assert getattr(again.kind.step, field) == pytest.approx(getattr(kind.step, field), rel=0.01)


def test_presets_say_what_they_are_worth() -> None:
    """Every fitted preset names its points and hold-out errors; one that is far off on half of its points is rough."""
    for name in names()[1:]:
        source = preset(name).source
        tpot, ttft = (int(share) for share in re.findall(r"(?:TPOT|TTFT) (\d+)%", source))
        assert source.startswith("rough: ") or (tpot <= 10 and ttft <= 20)
