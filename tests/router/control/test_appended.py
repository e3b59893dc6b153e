"""A file that lines are appended to: whole batches or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvroute.router.control.appended import Appended


def test_what_could_not_be_written_whole_is_taken_back(tmp_path: Path) -> None:
    """The file ends with a whole line whatever happened."""
    path = tmp_path / "log"
    file = Appended(str(path))
    assert file.open()
    assert not file.open()
    file.append(b"one\n")
    read_only = os.open(path, os.O_RDONLY)
    writable, file._file = file._file, read_only
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.append(b"two\n")
    file._file = writable
    os.close(read_only)
    file.append(b"three\n")
    file.close()
    assert path.read_bytes().endswith(b"three\n")


def test_a_line_that_somebody_died_over_is_ended(tmp_path: Path) -> None:
    """What follows stands on a line of its own."""
    path = tmp_path / "log"
    path.write_bytes(b'{"half')
    file = Appended(str(path))
    file.open()
    file.append(b"whole\n")
    file.close()
    assert path.read_bytes() == b'{"half\nwhole\n'


def test_a_file_that_was_cut_in_place_begins_anew(tmp_path: Path) -> None:
    """As log rotation by copy leaves it: once, and also where something was left of it."""
    path = tmp_path / "log"
    file = Appended(str(path))
    assert file.open()
    file.append(b"one\ntwo\n")
    assert not file.open()
    os.truncate(path, 0)
    assert file.open()
    file.append(b"header\n")
    assert not file.open()
    os.truncate(path, 3)
    assert file.open()
    file.append(b"header\n")
    file.close()
    assert path.read_bytes() == b"hea\nheader\n"
