"""Reading measured points."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvroute.simulator.errors import FleetError
from kvroute.simulator.latency.measured import COLUMNS, Point, read

ROWS = """\
0.19.0,MiniMaxAI/MiniMax-M2.5,b200_sxm,fp8,1024,1024,2,2,2,4,74,9.5
0.19.0,MiniMaxAI/MiniMax-M2.5,b200_sxm,fp8,1024,1024,4,2,1,2,72,9.6
0.19.0,MiniMaxAI/MiniMax-M2.5,b200_sxm,fp8,1024,1024,4,2,1,2,76,9.9
0.12.0,Qwen/Qwen3-32B,h100_sxm,,4096,128,8,2,,1,742,26
"""


def _file(folder: Path, rows: str, head: str = ",".join(COLUMNS)) -> Path:
    path = folder / "points.csv"
    path.write_text(f"{head}\n{rows}")
    return path


def test_rows_of_one_deployment_are_one_group(tmp_path: Path) -> None:
    """Per-rank batches are multiplied by the ranks; a loop that was measured again gives the median."""
    minimax, qwen = read(_file(tmp_path, ROWS))
    assert minimax.name == "minimax-m2.5-b200-fp8-tp2-ep2"
    assert minimax.points == (Point(1024, 1024, 4, 0.074, 0.0096),)
    assert (qwen.name, qwen.points[0].prompt, qwen.precision) == ("qwen3-32b-h100-tp2", 4096, "bf16")


def test_full_caches_are_told_from_slow_steps(tmp_path: Path) -> None:
    """A loop that wants more KV room than the GPUs have is known as such."""
    rows = "".join(f"0.12.0,Qwen/Qwen3-32B,h100_sxm,,4096,512,{c},2,,1,742,26\n" for c in (8, 128))
    (group,) = read(_file(tmp_path, rows))
    assert [group.crowded(point) for point in group.points] == [False, True]


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        (",".join(COLUMNS[1:]), "", r"points\.csv:1: no column backend_version"),
        (",".join(COLUMNS), "0.1,a/b,h100_sxm,,1,1,1,1,1,1,1,1\n", r"points\.csv:2: the sizes of a/b are not known"),
        (",".join(COLUMNS), "0.1,Qwen/Qwen3-32B,h100_sxm,,x,1,1,1,1,1,1,1\n", r"points\.csv:2: invalid literal"),
        (",".join(COLUMNS), "0.1,Qwen/Qwen3-32B,h100_sxm,fp6,1,1,1,1,1,1,1,1\n", r"points\.csv:2: precision fp6"),
        (",".join(COLUMNS), "0.1,Qwen/Qwen3-32B,tpu,,1,1,1,1,1,1,1,1\n", r"points\.csv:2: system tpu"),
        (",".join(COLUMNS), "0.1,Qwen/Qwen3-32B,h100_sxm\n", r"points\.csv:2: "),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, head: str, row: str, message: str) -> None:
    """File, line and reason."""
    with pytest.raises(FleetError, match=message):
        read(_file(tmp_path, row, head))
