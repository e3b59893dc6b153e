"""Making presets, and setting the roofline's efficiencies, from measured points."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kvroute.simulator.latency import building, tuning
from kvroute.simulator.latency.fitted import errors
from kvroute.simulator.latency.kind import Kind
from kvroute.simulator.latency.measured import COLUMNS, Group, read
from kvroute.simulator.latency.presets import preset
from kvroute.simulator.latency.roofline import EFFICIENCY

POINTS = Path(__file__).parents[4] / "shared" / "data" / "ground_truth" / "silicon_vllm_h100_b200.csv"


def _lines() -> list[str]:
    if not POINTS.exists():
        pytest.skip("the measured points are not here (../shared/data/ground_truth)")
    return POINTS.read_text().splitlines(keepends=True)


def _groups() -> list[Group]:
    _lines()
    return [group for group in read(POINTS) if len(group.points) >= 5]


def test_presets_are_written_as_they_are_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same points give the same file, and a line for people."""
    head, *lines = _lines()
    some = tmp_path / "points.csv"
    some.write_text(head + "".join(line for line in lines if "llama_3_1_70b_h100" in line and "tp4" in line))
    assert building.main([str(some), str(tmp_path / "out.json")]) == 0
    (kind,) = msgspec.json.decode((tmp_path / "out.json").read_bytes(), type=list[Kind])
    assert kind == preset("llama-3.1-70b-h100-fp8-tp4")
    assert "llama-3.1-70b-h100-fp8-tp4" in capsys.readouterr().out


@pytest.mark.parametrize("command", [building.main, tuning.main])
def test_what_is_wrong_is_told(command: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage, and files that cannot be read."""
    assert callable(command)
    assert (command([]), command([str(tmp_path / "none.csv")])) == (2, 1)
    assert "none.csv: No such file" in capsys.readouterr().err


def test_too_few_points_make_no_preset(tmp_path: Path) -> None:
    """Seven points, or one length of prompt, are not enough."""
    rows = "".join(f"1,Qwen/Qwen3-32B,h100_sxm,,1024,128,{c},2,,1,{100 + c},{15 + c / 10}\n" for c in range(1, 21))
    path = tmp_path / "points.csv"
    path.write_text(",".join(COLUMNS) + "\n" + rows)
    assert building.build(read(path)) == []


def test_the_efficiencies_are_set() -> None:
    """No single change within what is believable makes the roofline's numbers better by more than 3 %."""
    groups = _groups()
    least = tuning.loss(groups, EFFICIENCY)
    for name, (low, high) in tuning.RANGES.items():
        for change in (1.15, 1 / 1.15):
            tried = min(high, max(low, getattr(EFFICIENCY, name) * change))
            other = msgspec.structs.replace(EFFICIENCY, **{name: tried})
            assert tuning.loss(groups, other) > 0.97 * least, name


def test_the_roofline_is_worth_what_it_says() -> None:
    """Over dense models and over mixtures of experts, half of its TPOT is within 20 %, half of its TTFT within 25 %."""
    for mixture in (False, True):
        own = [group for group in _groups() if (group.sizes.experts > 0) == mixture]
        found = errors([pair for group in own for pair in tuning.judged(group, EFFICIENCY)])
        assert found.tpot_median < 0.2
        assert found.ttft_median < 0.25
