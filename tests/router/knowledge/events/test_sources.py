"""Where KV events are published: read from engines' answers, from configuration, and by convention."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.dataplane.contract import Endpoint
from kvroute.router.fleetwatch.engine_client import EngineClient
from kvroute.router.knowledge.events.sources import (
    Found,
    Source,
    Sources,
    Unusable,
    ask,
    by_convention,
    configured,
    read_answer,
)
from kvroute.router.testing.children import free_ports
from kvroute.router.testing.mock_engine import StandInEngine
from kvroute.router.testing.options import Options
from tests.router.captures import exchanges

ENGINE = Endpoint("10.0.0.5", 8000)
LOCAL = Endpoint("127.0.0.1", 8000)


def told(**settings: Any) -> dict[str, Any]:
    """One rank's settings as vLLM 0.32 tells them."""
    usual = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:5557",
        "replay_endpoint": "tcp://*:5567",
        "buffer_steps": 10000,
        "hwm": 100000,
        "max_queue_size": 100000,
        "topic": "kv",
    }
    return usual | settings


def read(answer: object, endpoint: Endpoint = ENGINE) -> Sources:
    return read_answer(endpoint, orjson.dumps(answer))


def problem(answer: object, endpoint: Endpoint = ENGINE) -> str:
    found = read(answer, endpoint)
    assert found.by_rank == ()
    (said,) = found.problems
    return said


def test_the_recorded_answer_of_the_engine() -> None:
    """What vLLM 0.32 says becomes addresses at the host where the engine was reached."""
    _, response = exchanges()["GET/kv_event_sources"]
    assert read(response["body"]) == Sources(
        (Source(0, "tcp://10.0.0.5:5604", "tcp://10.0.0.5:5605", "kv@127.0.0.1:8102@tiny", Found.ENGINE),)
    )


@pytest.mark.parametrize("wildcard", ["*", "0.0.0.0", "[::]"])
def test_wildcards_become_the_engines_host(wildcard: str) -> None:
    """A publisher bound to every address is found at the one that we know."""
    (source,) = read([{"endpoint": f"tcp://{wildcard}:5557"}], Endpoint("fd00::5", 8000)).by_rank
    assert source.events == "tcp://[fd00::5]:5557"


def test_each_rank_has_its_own_ports() -> None:
    """Ranks are taken as told, in order."""
    found = read({"1": told(endpoint="tcp://*:5558"), "0": told()})
    assert [(source.rank, source.events) for source in found.by_rank] == [
        (0, "tcp://10.0.0.5:5557"),
        (1, "tcp://10.0.0.5:5558"),
    ]
    assert found.of(1) is found.by_rank[1]
    assert found.of(2) is None


def test_ranks_that_all_name_the_base_port_are_counted_up() -> None:
    """Where the answer repeats the configuration for each rank, rank n listens n ports above."""
    found = read({"0": told(), "1": told()})
    assert [(source.events, source.replay) for source in found.by_rank] == [
        ("tcp://10.0.0.5:5557", "tcp://10.0.0.5:5567"),
        ("tcp://10.0.0.5:5558", "tcp://10.0.0.5:5568"),
    ]


@pytest.mark.parametrize("wrap", [lambda entries: entries, lambda entries: {"sources": entries}])
def test_lists_of_bound_addresses_are_read_too(wrap: Any) -> None:
    """Later engines list what they bound: the engine's own host may stand in there."""
    entries = [
        {"data_parallel_rank": 1, "endpoint": "tcp://10.0.0.5:41002", "replay_endpoint": None, "topic": "t"},
        {"data_parallel_rank": 0, "endpoint": "tcp://0.0.0.0:41001", "replay_endpoint": "tcp://0.0.0.0:41003"},
    ]
    assert read(wrap(entries)).by_rank == (
        Source(0, "tcp://10.0.0.5:41001", "tcp://10.0.0.5:41003", "", Found.ENGINE),
        Source(1, "tcp://10.0.0.5:41002", None, "t", Found.ENGINE),
    )


@pytest.mark.parametrize(
    "answer", [{}, [], {"0": told(enable_kv_cache_events=False)}, {"0": told(publisher="null")}, {"sources": []}]
)
def test_an_engine_without_events_is_no_problem(answer: object) -> None:
    """Nothing to subscribe to, and nothing to complain about."""
    assert read(answer) == Sources()


def test_no_engine_sends_us_to_another_host() -> None:
    """An answer that names a third host is refused, with the way to allow it."""
    assert "configure the address for this backend" in problem([{"endpoint": "tcp://192.0.2.1:5557"}])
    assert "configure the address for this backend" in problem([{"endpoint": "tcp://127.0.0.1:5557"}])


def test_a_replay_endpoint_elsewhere_is_left_out() -> None:
    """The events are followed all the same; the problem is told."""
    found = read({"0": told(replay_endpoint="tcp://192.0.2.1:1")})
    assert found.by_rank[0].replay is None
    assert "lost events cannot be had again" in found.problems[0]


def test_a_publisher_that_connects_cannot_be_subscribed_to() -> None:
    """vLLM connects to an address without a wildcard; the operator is told what to write there."""
    assert "use tcp://*:PORT there" in problem({"0": told(endpoint="tcp://10.0.0.5:5557")})


def test_a_replay_buffer_of_nothing_is_none() -> None:
    """With `buffer_steps` 0 there is nothing to ask for."""
    assert read({"0": told(buffer_steps=0)}).by_rank[0].replay is None


def test_local_sockets_count_only_where_they_are(tmp_path: Path) -> None:
    """An `ipc://` address is taken for an engine of this machine whose socket file is there."""
    path = tmp_path / "events"
    answer = {"0": told(endpoint=f"ipc://{path}", replay_endpoint=None)}
    assert "no socket is to be seen" in problem(answer, LOCAL)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        assert read(answer, LOCAL).by_rank[0].events == f"ipc://{path}"
        assert "a file of its own machine" in problem(answer)
    assert "cannot reach" in problem({"0": told(endpoint="inproc://x")}, LOCAL)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://*",
        "tcp://*:0",
        "tcp://*:70000",
        "tcp://*:-1",
        "tcp://",
        "tcp://a b:1",
        "tcp://*:5557;tcp://x:1",
        "x",
        "*:1",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    """Said, and survived."""
    assert problem({"0": told(endpoint=address)})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"1",
        b'"x"',
        b"null",
        b"[" * 10_000,
        b'{"x":{}}',
        b'{"-1":{}}',
        b'{"0":1}',
        b'{"0":{"endpoint":7}}',
        b"[1]",
    ],
)
def test_answers_that_are_none(body: bytes) -> None:
    """Malformed answers are a problem to tell, not an error."""
    found = read_answer(ENGINE, body)
    assert found.by_rank == ()
    assert len(found.problems) == 1


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["tcp://*:1", "ipc://x", "zmq", "tcp://:1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["0", "1", "sources", "endpoint", "replay_endpoint", "topic", "publisher", "data_parallel_rank"]
            ),
            inner,
        )
    ),
)


@given(_json)
def test_any_json_is_survived(answer: object) -> None:
    """Whatever an engine answers, all sources are at its own host."""
    body = orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS) if not _large(answer) else b""
    for source in read_answer(ENGINE, body).by_rank:
        assert source.events.startswith("tcp://10.0.0.5:")


def _large(answer: object) -> bool:
    if isinstance(answer, dict):
        return any(map(_large, answer.values()))
    if isinstance(answer, list):
        return any(map(_large, answer))
    return isinstance(answer, int) and abs(answer) >= 1 << 63


async def test_asking_the_stand_in() -> None:
    """The stand-in tells its ports; one without events, and one that is not there, have no sources."""
    client = EngineClient()
    async with StandInEngine(Options(events_port=0, replay_port=0, events_topic="t")) as engine:
        publisher = engine.service.ranks[0].publisher
        assert publisher is not None
        (source,) = (await ask(client, Endpoint("127.0.0.1", engine.port))).by_rank
        assert source.events == f"tcp://127.0.0.1:{publisher.events_port}"
        assert source.replay == f"tcp://127.0.0.1:{publisher.replay_port}"
        assert source.topic == "t"
    async with StandInEngine() as engine:
        assert await ask(client, Endpoint("127.0.0.1", engine.port)) == Sources()
        assert await ask(client, Endpoint("127.0.0.1", engine.port, base=b"/nothing")) == Sources()
    (port,) = free_ports(1)
    (said,) = (await ask(client, Endpoint("127.0.0.1", port))).problems
    assert "cannot connect" in said
    await client.close()


def test_configured_addresses_are_taken_as_written() -> None:
    """Any host; the ports of further ranks are counted up."""
    found = configured("tcp://events.example:5557", "tcp://[fd00::1]:6000", "t", ranks=(0, 1))
    assert found.by_rank == (
        Source(0, "tcp://events.example:5557", "tcp://[fd00::1]:6000", "t", Found.CONFIG),
        Source(1, "tcp://events.example:5558", "tcp://[fd00::1]:6001", "t", Found.CONFIG),
    )
    assert configured("ipc:///run/kv").by_rank[0].events == "ipc:///run/kv"


@pytest.mark.parametrize("address", ["", "tcp://", "tcp://h:0", "udp://h:1", "ipc://", "tcp://*:65535"])
def test_configured_addresses_that_are_none(address: str) -> None:
    """Refused with a message when the configuration is read."""
    with pytest.raises(Unusable):
        configured(address, ranks=(0, 1))


def test_the_convention_is_vllms_ports_at_the_engines_host() -> None:
    """5557 and 5558, and for several ranks a replay base that is told apart."""
    (source,) = by_convention(ENGINE).by_rank
    assert source == Source(0, "tcp://10.0.0.5:5557", "tcp://10.0.0.5:5558", None, Found.CONVENTION)
    with pytest.raises(Unusable, match="run into each other"):
        by_convention(ENGINE, ranks=(0, 1))
    assert by_convention(ENGINE, (0, 1), replay_port=5600).by_rank[1].replay == "tcp://10.0.0.5:5601"
