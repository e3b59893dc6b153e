"""The decision log: what stands in it, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvroute.router.config import load
from kvroute.router.core.decided import Began, Decided, Looked, Member
from kvroute.router.errors import ConfigError
from kvroute.router.server import Server
from tests.router.control.decisionlogs import DECODER, lines, requests
from tests.router.running import engines, running, until

LONG = "a long system prompt " * 200


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
    raw = [line for line in map(DECODER.decode, path.read_bytes().splitlines()) if isinstance(line, Decided)]
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


def test_each_worker_has_a_file(tmp_path: Path) -> None:
    """Its number behind the name."""
    config = load(None, {"backends": ["http://127.0.0.1:1"], "logging.decisions": str(tmp_path / "log")})
    server = Server(config, config.listen, worker=3)
    assert server.decisions is not None
    assert server.decisions.path == str(tmp_path / "log.3")
