"""Reading requests and deciding, without a network."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

import orjson
import pytest

from kvroute.router.core.replica import Spec, State
from kvroute.router.dataplane.contract import Endpoint, Failure, Head, Outcome, Reply
from kvroute.router.exchange import Ending, Exchange
from kvroute.router.knowledge.text import TextLens
from kvroute.router.traffic import Target, Traffic, TrafficOptions
from kvroute.scorers.contract import Column
from tests.router.core.deciding import world

CHAT = b"/v1/chat/completions"


class Silent:
    """Observer, health and local paths that only remember."""

    def __init__(self) -> None:
        self.endings: list[tuple[Outcome, Ending]] = []
        self.failures: list[str] = []
        self.retries = 0

    def decided(self, seconds: float) -> None: ...

    def began(self, exchange: Exchange) -> None: ...

    def retried(self, exchange: Exchange) -> None:
        self.retries += 1

    def settled(self, exchange: Exchange, outcome: Outcome, end: Ending) -> None:
        self.endings.append((outcome, end))

    def answered(self, status: int, head: Head | None) -> None: ...

    def poisoned(self) -> None: ...

    def budget_spent(self) -> None: ...

    def report_failure(self, endpoint: Endpoint, now: float) -> None:
        self.failures.append(endpoint.host)

    def suspect(self, endpoint: Endpoint) -> None: ...

    def report_success(self, endpoint: Endpoint) -> None: ...

    def answer(self, path: bytes) -> Reply | Awaitable[Reply]:
        return Reply(200, path)

    async def broadcast(self, head: Head, body: bytes) -> Reply:
        return Reply(207)


def traffic(count: int = 3, **options: Any) -> tuple[Traffic, Silent]:
    """Traffic over `count` ready replicas r0, r1, ..."""
    silent = Silent()
    made = Traffic(world(count), TextLens(), silent, silent, silent, TrafficOptions(**options), clock=lambda: 0.0)
    made.targets = {f"r{i}": Target(Endpoint(f"r{i}", 8000)) for i in range(count)}
    return made, silent


def head(path: bytes = CHAT, method: bytes = b"POST", *headers: tuple[bytes, bytes]) -> Head:
    """A request head as a client sends it."""
    sent = [(b"Host", b"x"), (b"Content-Type", b"application/json; charset=utf-8"), *headers]
    return Head(method, path, path.partition(b"?")[0], b"1.1", sent, "id-1", "10.9.9.9", notes=[])


def forwarded(answer: object) -> Exchange:
    """The exchange, where one must have been made."""
    assert isinstance(answer, Exchange), answer
    return answer


def refused(answer: object) -> tuple[int, dict[str, Any]]:
    """Status and error of the router's own answer."""
    assert isinstance(answer, Reply), answer
    return answer.status, json.loads(answer.body)["error"]


def body(**fields: Any) -> bytes:
    """A chat body for model m."""
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields})


def test_session_and_explain_headers_are_read() -> None:
    """Whatever their case; the body's own session is second to the header's."""
    made, _ = traffic()
    exchange = forwarded(
        made.handle(head(CHAT, b"POST", (b"x-SESSION-id", b"s1"), (b"X-Kvroute-Explain", b"1")), body(), 0.0)
    )
    assert exchange.request.session == "s1"
    assert dict(exchange.response_headers)[b"X-Kvroute-Replica"] == exchange.decision.replica.name.encode()
    assert forwarded(made.handle(head(), body(user="u"), 0.0)).request.session == "u"


def test_what_is_no_json_never_reaches_a_replica() -> None:
    """Not the media type, not the body."""
    made, _ = traffic()
    wrong = Head(b"POST", CHAT, CHAT, b"1.1", [(b"Content-Type", b"text/plain")], "i", "p")
    assert refused(made.handle(wrong, body(), 0.0))[0] == 400
    assert refused(made.handle(head(), b"{", 0.0))[1]["type"] == "Bad Request"
    assert len(made.deciding.ledger) == 0


def test_an_unknown_path_is_routed_by_load_alone() -> None:
    """Its body is not judged, and its model, where it names one, is kept to."""
    made, _ = traffic()
    assert forwarded(made.handle(head(b"/v1/rerank"), b'{"model":"m"}', 0.0)).request.keys == []
    assert forwarded(made.handle(head(b"/v1/rerank"), b"\x00garbage", 0.0)).body == b"\x00garbage"
    assert refused(made.handle(head(b"/v1/rerank"), b'{"model":"other"}', 0.0))[0] == 404
    odd = forwarded(made.handle(head(b"/v1/rerank"), b'{"model":1,"kv_transfer_params":{}}', 0.0))
    assert orjson.loads(odd.body) == {"model": 1}


@pytest.mark.parametrize("path", [CHAT, b"/v1/completions", b"/inference/v1/generate"])
@pytest.mark.parametrize("key", ["kv_transfer_params", "kv_\\u0074ransfer_params"])
def test_transfer_instructions_of_clients_are_taken_out(path: bytes, key: str) -> None:
    """However the key is spelled: an engine would read it all the same."""
    made, _ = traffic()
    data = f'{{"model":"m","{key}":{{"do_remote_prefill":true}},"prompt":"x"}}'.encode()
    assert orjson.loads(forwarded(made.handle(head(path), data, 0.0)).body) == {"model": "m", "prompt": "x"}


def test_transfer_instructions_are_kept_when_clients_are_trusted() -> None:
    """Then the body is the client's, byte for byte."""
    made, _ = traffic(trust_kv_transfer_params=True)
    data = b'{"model":"m","kv_transfer_params":{},"messages":[]}'
    assert forwarded(made.handle(head(), data, 0.0)).body is data


def test_management_needs_a_word_from_the_operator() -> None:
    """403 before the body is read; enabled, it is spread."""
    made, _ = traffic()
    answer = made.admit(head(b"/sleep?level=1"))
    assert answer is not None
    assert answer.status == 403
    assert traffic(management=True)[0].admit(head(b"/sleep")) is None


def test_connect_failures_go_on_until_all_were_tried() -> None:
    """Each replica once, then 503 with Retry-After; every failure is reported to the watch."""
    made, silent = traffic(3)
    exchange = forwarded(made.handle(head(), body(), 0.0))
    assert exchange.failed(Failure.CONNECT, 0.0) is None
    assert exchange.failed(Failure.CONNECT, 0.0) is None
    answer = exchange.failed(Failure.CONNECT, 0.0)
    assert answer is not None
    assert answer.status == 503
    assert (b"Retry-After", b"1") in answer.headers
    assert sorted(silent.failures) == ["r0", "r1", "r2"]
    exchange.settle(Outcome.FAILED, 0.0)
    assert (len(made.deciding.ledger), silent.retries) == (0, 2)


def test_a_stale_connection_is_tried_again_at_the_same_replica() -> None:
    """It counts as the one try after bytes were sent."""
    made, _ = traffic(2)
    exchange = forwarded(made.handle(head(), body(), 0.0))
    first = exchange.endpoint
    assert exchange.failed(Failure.STALE, 0.0) is None
    assert exchange.endpoint == first


def test_retries_stop_when_the_budget_is_spent() -> None:
    """A fleet in trouble is not sunk by retries."""
    made, _ = traffic(2, retry_share=1e-9)
    outcomes = []
    for _ in range(66):
        exchange = forwarded(made.handle(head(), body(), 0.0))
        outcomes.append(exchange.failed(Failure.CUT, 0.0))
        exchange.settle(Outcome.FAILED, 0.0)
    assert [answer is None for answer in outcomes] == [True] * 64 + [False] * 2
    assert outcomes[-1] is not None
    assert outcomes[-1].status == 502


@pytest.mark.parametrize("end", [Outcome.COMPLETED, Outcome.FAILED, Outcome.ABORTED])
def test_every_way_out_settles_once(end: Outcome) -> None:
    """A second settle is not heard of."""
    made, silent = traffic()
    exchange = forwarded(made.handle(head(), body(stream=True), 0.0))
    exchange.body_sent()
    exchange.replied(200, True, 0.1)
    exchange.first_output(0.2)
    exchange.settle(end, 0.3)
    exchange.settle(end, 0.4)
    assert [(outcome, ending.ttft, ending.seconds) for outcome, ending in silent.endings] == [(end, 0.2, 0.3)]
    assert len(made.deciding.ledger) == 0


def test_usage_teaches_how_many_bytes_make_a_token() -> None:
    """The tokens of the next prompt are estimated by what the engine counted for the last ones."""
    made, _ = traffic()
    data = body(messages=[{"role": "user", "content": "x" * 4000}])
    before = forwarded(made.handle(head(), data, 0.0)).request.tokens
    for _ in range(50):
        exchange = forwarded(made.handle(head(), data, 0.0))
        exchange.replied(200, False, 0.0)
        exchange.tail(b'"usage":{"prompt_tokens":2000,"completion_tokens":1}}', False)
        exchange.settle(Outcome.COMPLETED, 0.0)
    after = forwarded(made.handle(head(), data, 0.0)).request.tokens
    assert abs(after - 2000) < 200 < abs(before - 2000)


def test_an_alias_and_a_body_without_model_share_what_is_learnt_of_their_base() -> None:
    """Bytes per token belong to the model, not to the name it was asked for by."""
    made, _ = traffic(0)
    replica = made.deciding.fleet.join(Spec(name="r0", endpoint="r0", models=("m", "alias")), 0.0)
    made.deciding.fleet.move(replica, State.READY)
    made.targets["r0"] = Target(Endpoint("r0", 8000))
    data = orjson.dumps({"model": "alias", "prompt": "x" * 4000})
    for _ in range(50):
        exchange = forwarded(made.handle(head(b"/v1/completions"), data, 0.0))
        exchange.replied(200, False, 0.0)
        exchange.tail(b'"usage":{"prompt_tokens":2000,"completion_tokens":1}}', False)
        exchange.settle(Outcome.COMPLETED, 0.0)
    assert (
        abs(
            forwarded(made.handle(head(b"/v1/completions"), b'{"prompt":"' + b"y" * 4000 + b'"}', 0.0)).request.tokens
            - 2000
        )
        < 200
    )


def test_an_open_tunnel_is_no_prefill() -> None:
    """A WebSocket that stays open for hours does not make its replica look busy."""
    made, _ = traffic(1)
    exchange = forwarded(made.tunnel(head(b"/v1/realtime?model=m"), 0.0))
    made.deciding.ledger.advance(1.0)
    cells = exchange.decision.replica.cells
    assert (cells[Column.QUEUED_TOKENS], cells[Column.DECODING]) == (0.0, 1.0)
    assert refused(made.tunnel(head(b"/v1/realtime?model=nope"), 0.0))[0] == 404


def test_streams_whose_prompt_was_not_read_teach_no_rates() -> None:
    """Their TTFT says nothing of a token's cost."""
    made, _ = traffic(1)
    for _ in range(60):
        exchange = forwarded(made.handle(head(b"/inference/v1/generate"), b'{"model":"m","stream":true}', 0.0))
        exchange.replied(200, True, 1.9)
        exchange.first_output(2.0)
        exchange.settle(Outcome.COMPLETED, 2.1)
    assert exchange.decision.replica.slow == 1.0


def test_ranks_of_a_dead_endpoint_are_not_tried_one_by_one() -> None:
    """They fail together: one attempt tells of all."""
    made, silent = traffic(0)
    for name, endpoint in (("a/0", "a"), ("a/1", "a"), ("a/2", "a"), ("b", "b")):
        replica = made.deciding.fleet.join(Spec(name=name, endpoint=endpoint, models=("m",)), 0.0)
        made.deciding.fleet.move(replica, State.READY)
        made.targets[name] = Target(Endpoint(endpoint, 8000))
    exchange = forwarded(made.handle(head(), body(), 0.0))
    for _ in range(2):
        tried = exchange.endpoint.host
        if exchange.failed(Failure.CONNECT, 0.0) is not None:
            break
        assert exchange.endpoint.host != tried
    assert sorted(silent.failures) == ["a", "b"]
    exchange.settle(Outcome.FAILED, 0.0)


def test_a_stale_connection_to_a_replica_that_is_no_longer_ready_moves_on() -> None:
    """A draining or ejected replica gets no new attempt."""
    made, _ = traffic(2)
    exchange = forwarded(made.handle(head(), body(), 0.0))
    first = exchange.decision.replica
    made.deciding.fleet.move(first, State.DRAINING)
    assert exchange.failed(Failure.STALE, 0.0) is None
    assert exchange.decision.replica is not first


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        (b"/tokenize", b'{"user":"\\ud800"}', None),
        (CHAT, b'{"model":"\\ud800"}', 404),
        (CHAT, b'{"model":"m","x":NaN,"n":1' + b"0" * 400 + b"}", None),
    ],
)
def test_odd_bodies_are_no_crash(path: bytes, data: bytes, status: int | None) -> None:
    """Lone surrogates and numbers without bounds are answered or forwarded like all else."""
    made, _ = traffic()
    answer = made.handle(head(path), data, 0.0)
    if status is None:
        forwarded(answer)
    else:
        assert refused(answer)[0] == status


@pytest.mark.parametrize("place", ["vllm_xargs", "extra_args", "sampling_params"])
def test_transfer_instructions_do_not_get_in_by_the_side_door(place: str) -> None:
    """An engine copies these objects into what its connector reads; no media type hides them."""
    made, _ = traffic()
    inner = {"kv_transfer_params": {"a": 1}, "b": 2}
    data = orjson.dumps({"model": "m", place: {**inner, "extra_args": inner}})
    plain = Head(b"POST", b"/inference/v1/generate", b"/inference/v1/generate", b"1.1", [], "i", "p", notes=[])
    for request in (plain, head()):
        sent = orjson.loads(forwarded(made.handle(request, data, 0.0)).body)
        assert sent == {"model": "m", place: {"b": 2, "extra_args": {"b": 2}}}


def test_a_form_names_its_model() -> None:
    """Audio goes only to replicas that serve the model that its form names."""
    made, _ = traffic()
    form = [(b"Content-Type", b"multipart/form-data; boundary=x")]
    data = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--x--\r\n'
    path = b"/v1/audio/transcriptions"
    assert refused(made.handle(Head(b"POST", path, path, b"1.1", form, "i", "p", notes=[]), data, 0.0))[0] == 404
    data = data.replace(b"whisper", b"m")
    forwarded(made.handle(Head(b"POST", path, path, b"1.1", form, "i", "p", notes=[]), data, 0.0))


def test_local_paths_are_the_routers_own() -> None:
    """They are answered without a replica, GET and HEAD alike; POST to them goes through."""
    made, _ = traffic()
    for method in (b"GET", b"HEAD"):
        answer = made.handle(head(b"/health", method), b"", 0.0)
        assert isinstance(answer, Reply)
    forwarded(made.handle(head(b"/ping", b"POST"), b"", 0.0))
