"""Reading a trace's lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.lines import lines


def test_lines_are_numbered_and_empty_ones_left_out(tmp_path: Path) -> None:
    """Numbers count all lines, as an editor does."""
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \nfour\n")
    assert list(lines(str(path))) == [(1, "one"), (4, "four")]


def test_gz_is_unpacked(tmp_path: Path) -> None:
    """By its name."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n"))
    assert list(lines(str(path))) == [(1, "one"), (2, "two")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "the file is empty"),
        ("a", b"\n\n", "the file is empty"),
        ("a", b"one\n\xff\n", ":2: not UTF-8"),
        ("a.gz", gzip.compress(b"one\n" * 1000)[:-12], "cut off or damaged"),
        ("a.gz", b"plain", "(?i)not a gzip"),
        ("a.gz", gzip.compress(b"one\n")[:12] + b"\xff\xff\xff\xff\xff\xff\xff", "cut off or damaged"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """File, line and reason."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WorkloadError, match=message) as raised:
        list(lines(str(path)))
    assert str(path) in str(raised.value)


def test_a_folder_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    """In the system's own words."""
    with pytest.raises(WorkloadError, match="directory"):
        list(lines(str(tmp_path)))
    with pytest.raises(WorkloadError, match="No such file"):
        list(lines(str(tmp_path / "nothing.jsonl")))
