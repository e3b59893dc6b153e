"""Reading decision logs, whole and broken."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from kvroute.router.core.decided import VERSION, Member, Reading
from kvroute.simulator.errors import WorkloadError
from kvroute.simulator.workloads.decisions import beginning, fleet, lines, paths, records
from tests.simulator.workloads.logs import began, request, write


def member(name: str, what: str, state: str) -> Member:
    """A replica's line."""
    return Member(VERSION, 1, 0.0, what, name, name, state, "both", 256.0)  # type: ignore[arg-type]


def test_keys_come_back_whole(tmp_path: Path) -> None:
    """Whatever part of them an earlier line has told."""
    path = write(tmp_path / "log", began(), request(1.0, [1, 2, 3]), request(2.0, [1, 2, 9]), request(3.0, [1, 2, 3]))
    assert [one.keys for one in records(path)] == [[1, 2, 3], [1, 2, 9], [1, 2, 3]]


def test_lives_and_files_stand_on_one_clock(tmp_path: Path) -> None:
    """A router that was started anew, and another worker: times are since the beginning of the first."""
    write(tmp_path / "log.0", began(1000.0, 50.0), request(51.0))
    write(tmp_path / "log.0", began(1010.0, 3.0), request(4.0))
    write(tmp_path / "log.1", began(1002.0, 7.0), request(7.5))
    found = list(records(str(tmp_path / "log.*")))
    assert [one.at for one in found] == [1.0, 11.0, 2.5]
    assert [(one.decided, one.ended) for one in found] == [(1.0, 1.5), (11.0, 11.5), (2.5, 3.0)]
    assert [one.first for one in found] == pytest.approx([1.1, 11.1, 2.6])


@pytest.mark.parametrize("more", [False, True])
def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, more: bool) -> None:
    """At the end of the file, or before the next life began; it is said which."""
    path = tmp_path / "log"
    write(path, began(), request(1.0))
    with path.open("ab") as file:
        file.write(b'{"line":"request","v":1,"id":"\xc3\n' if more else b'{"line":"reque')
    if more:
        write(path, began(), request(2.0))
    with caplog.at_level(logging.WARNING):
        assert len(list(records(str(path)))) == 1 + more
    assert f"{path}:3: " in caplog.text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{nonsense\n", "malformed"),
        (b'{"line":"request","v":1}\n', "missing required field"),
        (b'{"line":"strange","v":1}\n', "Invalid value 'strange'"),
        (b'{"line":"looked","v":2,"order":1,"at":0.5}\n', "written in version 2 of the format"),
        (b'{"line":"request","v":1,"id":"a","at":1.0,"decided":1.0,"ended":1.0,"orders":[1,2,3],"outcome":"failed",'
         b'"after":77}\n', "no line before it has told key 77"),
        (b'{"line":"request","v":1,"id":"a","at":1.0,"decided":1.0,"ended":1.0,"orders":[1,2,3],"outcome":"failed",'
         b'"chain":"AAAA"}\n', "chain is no base64 of 64-bit numbers"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(tmp_path: Path, bad: bytes, reason: str) -> None:
    """With file, line and reason, wherever lines follow it."""
    path = tmp_path / "log"
    write(path, began())
    with path.open("ab") as file:
        file.write(bad)
    write(path, request(1.0))
    with pytest.raises(WorkloadError, match=rf"log:2: .*{reason}"):
        list(lines(str(path)))


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """Another file, an empty one, none at all, a pattern that fits nothing."""
    path = tmp_path / "log"
    write(path, request(1.0))
    with pytest.raises(WorkloadError, match="log:1: a decision log begins with a line that says so"):
        list(lines(str(path)))
    path.write_bytes(b"timestamp,tokens\n")
    with pytest.raises(WorkloadError, match="log:1: "):
        list(lines(str(path)))
    path.write_bytes(b"")
    with pytest.raises(WorkloadError, match="log: the file is empty"):
        beginning(str(path))
    with pytest.raises(WorkloadError, match="No such file"):
        list(records(str(tmp_path / "none")))
    with pytest.raises(WorkloadError, match="no file fits"):
        paths(str(tmp_path / "x*"))


def test_packed_logs_are_read(tmp_path: Path) -> None:
    """As log rotation leaves them."""
    path = write(tmp_path / "log", began(), request(1.0, [1, 2]))
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(Path(path).read_bytes()))
    assert [one.keys for one in records(str(packed))] == [[1, 2]]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(WorkloadError, match="cut off or damaged"):
        list(records(str(packed)))


def test_the_fleet_is_who_was_ready(tmp_path: Path) -> None:
    """With what its metrics told last."""
    path = write(
        tmp_path / "log", began(), member("a", "join", "joining"), member("b", "join", "joining"),
        member("a", "state", "ready"), Reading(VERSION, 2, 0.0, "a", capacity_tokens=1000.0, block_tokens=16),
        member("a", "state", "ejected"),
    )  # fmt: skip
    (seen,) = fleet(path)
    assert (seen.name, seen.role, seen.capacity_tokens, seen.block_tokens) == ("a", "both", 1000.0, 16)
