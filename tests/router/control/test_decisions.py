"""The decision log as it is written: what stands in it, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvroute.router.config import load
from kvroute.router.control.appended import Appended
from kvroute.router.control.decisions import DecisionLog
from kvroute.router.core.decided import VERSION, Began, Decided, Line, Looked, Member, Restored
from kvroute.router.core.steptime import StepTime
from kvroute.router.errors import ConfigError
from kvroute.router.server import Server
from kvroute.scorers.contract import Request
from kvroute.scorers.plugins import PolicySpec
from tests.router.running import engines, running, until

_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
LONG = "a long system prompt " * 200


def began(wall: float, clock: float, order: int) -> Began:
    """A file's first line."""
    return Began(VERSION, "0", wall, clock, order, PolicySpec("latency"), 0, StepTime(), (0.0, 0.0, 0.0), 512)


def lines(path: Path) -> list[Line]:
    """What a log holds, keys restored."""
    found = [_DECODER.decode(text) for text in path.read_bytes().splitlines()]
    restored = Restored()
    for line in found:
        if isinstance(line, Began):
            restored = Restored()
        elif isinstance(line, Decided):
            restored.restore(line)
    return found


def requests(found: Sequence[Line]) -> list[Decided]:
    """The requests among them."""
    return [line for line in found if isinstance(line, Decided)]


async def written(log: DecisionLog, refused: Sequence[Request]) -> None:
    """A log's whole life."""
    log.start()
    for request in refused:
        log.refused(request, 1.0)
    await log.close()


async def test_each_request_leaves_one_line_and_no_text(tmp_path: Path) -> None:
    """Streamed or not: what was decided, what came of it, the fleet before it; of the prompt only keys."""
    path = tmp_path / "decisions.jsonl"
    async with engines(2) as pair, running(*(e.url for e in pair), logging__decisions=str(path)) as router:
        await router.chat(LONG + "one", session_id="s1")
        body = {"model": "mock", "prompt": LONG, "max_tokens": 5, "stream": True}
        body["stream_options"] = {"include_usage": True}
        async with router.session.post(f"{router.url}/v1/completions", json=body) as answer:
            await answer.read()
    found = lines(path)
    assert isinstance(found[0], Began)
    assert found[0].order == 0
    joined = [line for line in found if isinstance(line, Member) and line.what == "join"]
    assert [line.name for line in joined] == [f"127.0.0.1:{engine.port}" for engine in pair]
    chat, stream = requests(found)
    assert (chat.kind, chat.session, chat.stream, chat.first) == ("chat", "s1", False, None)
    assert (stream.kind, stream.outcome, stream.status, stream.output_tokens) == ("completion", "completed", 200, 5)
    assert stream.first is not None
    assert stream.at <= stream.decided <= stream.first <= stream.ended
    assert len(stream.keys) == len(LONG) // 512
    assert stream.orders[0] < stream.orders[1] < stream.orders[2]
    assert b"system prompt" not in path.read_bytes()


async def test_a_later_turn_holds_its_new_keys_only(tmp_path: Path) -> None:
    """What an earlier line has told is named by its last key."""
    path = tmp_path / "decisions.jsonl"
    async with engines(1) as (engine,), running(engine.url, logging__decisions=str(path)) as router:
        await router.chat(LONG)
        await router.chat(LONG + " more of it" * 100)
    raw = [line for line in map(_DECODER.decode, path.read_bytes().splitlines()) if isinstance(line, Decided)]
    first, second = requests(lines(path))
    assert second.keys[: len(first.keys)] == first.keys
    assert raw[1].after == first.keys[-1]
    assert len(raw[1].chain) < len(raw[0].chain)


async def test_attempts_that_failed_stand_before_the_one_that_did_not(tmp_path: Path) -> None:
    """With the replicas that the retry was kept from."""
    path = tmp_path / "decisions.jsonl"
    async with (
        engines(2) as pair,
        running(*(e.url for e in pair), logging__decisions=str(path), policy="round-robin") as router,
    ):
        pair[0].faults.cut_next()
        pair[1].faults.cut_next()
        pair[1].faults.clear()
        for _ in range(2):
            await router.chat("x")
    tried = next(line for line in requests(lines(path)) if line.attempts == 2)
    (failed,) = tried.earlier
    assert failed.failure == "cut"
    assert tried.tried == (failed.replica,)
    assert tried.replica != failed.replica
    assert failed.orders[1] < tried.orders[0]


async def test_a_request_that_nobody_could_take_is_told_too(tmp_path: Path) -> None:
    """It is load that a larger fleet would have taken; an unknown model's is not."""
    path = tmp_path / "decisions.jsonl"
    async with engines(1) as (engine,):
        url = engine.url
        await engine.stop()
        async with running(url, ready=0, logging__decisions=str(path)) as router:
            assert (await router.chat("x"))[0] == 503
    (refused,) = requests(lines(path))
    assert (refused.outcome, refused.replica, refused.attempts) == ("refused", "", 0)


async def test_a_look_at_the_load_is_told(tmp_path: Path) -> None:
    """It brings moving shares up to date, and so may change what comes next in its last digits."""
    path = tmp_path / "decisions.jsonl"
    async with (
        engines(1) as (engine,),
        running(engine.url, logging__decisions=str(path)) as router,
        router.session.get(f"{router.control}/metrics") as page,
    ):
        assert "kvroute_decision_log_dropped_total 0" in await page.text()
    assert any(isinstance(line, Looked) for line in lines(path))


async def test_a_log_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    """The new file has all that is needed to read it alone: its beginning, who is here, whole chains."""
    path = tmp_path / "decisions.jsonl"
    async with engines(1) as (engine,), running(engine.url, logging__decisions=str(path)) as router:
        await router.chat(LONG)
        assert router.server.decisions is not None
        counts = router.server.decisions.counts
        await until(lambda: any(b'"line":"request"' in text for text in path.read_bytes().splitlines()))
        path.rename(tmp_path / "old")
        before = counts.written
        await router.chat(LONG)
        await until(lambda: counts.written > before and path.exists())
    found = lines(path)
    assert isinstance(found[0], Began)
    assert found[0].order > 0
    assert [line.what for line in found if isinstance(line, Member)] == ["here"]
    assert [len(line.keys) for line in requests(found)] == [len(LONG) // 512]


async def test_a_file_that_cannot_be_had_stops_the_start(tmp_path: Path) -> None:
    """By its key, before anything listens."""
    with pytest.raises(ConfigError, match=r"logging\.decisions: .*cannot be written: No such file"):
        async with running("http://127.0.0.1:1", ready=0, logging__decisions=str(tmp_path / "none" / "x")):
            pass


async def test_a_full_disk_drops_lines_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted and said; the next lines that fit rest on nothing that was lost."""
    path = tmp_path / "log"
    log = DecisionLog(str(path), began)
    request = Request("a", "m", 100, keys=[1, 2, 3])
    full = True
    append = log._lines._file.append

    def refuse(lines: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        append(lines)

    log._lines._file.append = refuse  # type: ignore[method-assign]
    log.start()
    log.refused(request, 1.0)
    await until(lambda: log.counts.dropped == 1)
    full = False
    log.refused(request, 2.0)
    await log.close()
    (line,) = requests(lines(path))
    assert (line.at, line.keys) == (2.0, [1, 2, 3])
    assert "No space left on device" in caplog.text


async def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs costs lines, not memory."""
    monkeypatch.setattr("kvroute.router.control.lines.MOST_LINES", 3)
    log = DecisionLog(str(tmp_path / "log"), began)
    await written(log, [Request(str(i), "m", 1) for i in range(5)])
    assert (log.counts.written, log.counts.dropped) == (3, 2)


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither requests, of which lines are dropped in the end, nor the router's own end. (A pipe that nobody reads.)"""
    monkeypatch.setattr("kvroute.router.control.lines.MOST_LINES", 1000)
    monkeypatch.setattr("kvroute.router.control.lines.LAST_SECONDS", 0.2)
    os.mkfifo(tmp_path / "log")
    log = DecisionLog(str(tmp_path / "log"), began)
    log.start()
    for number in range(3000):
        log.refused(Request(str(number), "m", 100, keys=list(range(50))), 1.0)
        if number % 100 == 0:
            await asyncio.sleep(0.03)
    assert log.counts.dropped > 500
    begun = time.monotonic()
    await log.close()
    assert time.monotonic() - begun < 2.0


@pytest.mark.parametrize(
    "odd", [{"session": "\ud800"}, {"priority": 10**5000}, {"id": "\udfff", "max_output_tokens": 1 << 70}]
)
async def test_what_clients_choose_cannot_break_a_line(tmp_path: Path, odd: dict[str, Any]) -> None:
    """Lone surrogates and endless numbers are replaced."""
    path = tmp_path / "log"
    await written(DecisionLog(str(path), began), [Request(**{"id": "a", "model": "m", "tokens": 1, **odd})])
    assert len(requests(lines(path))) == 1


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


async def test_closing_waits_for_the_last_lines(tmp_path: Path) -> None:
    """A router that ends leaves nothing unsaid."""
    path = tmp_path / "log"
    log = DecisionLog(str(path), began)
    await written(log, [Request(str(i), "m", 1) for i in range(100)])
    await asyncio.sleep(0)
    assert [line.id for line in requests(lines(path))] == [str(i) for i in range(100)]


def test_each_worker_has_a_file(tmp_path: Path) -> None:
    """Its number behind the name."""
    config = load(None, {"backends": ["http://127.0.0.1:1"], "logging.decisions": str(tmp_path / "log")})
    server = Server(config, config.listen, worker=3)
    assert server.decisions is not None
    assert server.decisions.path == str(tmp_path / "log.3")
