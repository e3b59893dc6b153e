"""Bodies read once, and refused in the engine's own words."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.errors import ClientError
from kvroute.router.parse import Kind, parse
from tests.router.captures import exchanges

CHAT = b"/v1/chat/completions"


def test_fields_that_routing_needs() -> None:
    """Model, stream, sequences, salt, priority, session and limit are read; the rest is kept as it came."""
    body = parse(
        CHAT,
        b'{"model":"m","messages":[],"stream":true,"n":3,"cache_salt":"s","priority":-2,"user":"u","max_tokens":7,"x":1}',
    )
    assert (body.kind, body.model, body.stream, body.sequences) == (Kind.CHAT, "m", True, 3)
    assert (body.cache_salt, body.priority, body.session, body.max_output_tokens) == ("s", -2, "u", 7)
    assert body.fields["x"] == 1


@pytest.mark.parametrize(
    ("prompt", "sequences"), [('"a"', 1), ("[1,2,3]", 1), ('["a","b"]', 2), ("[[1,2],[3],[4]]", 3), ("[]", 1)]
)
def test_lists_of_prompts_are_several_sequences(prompt: str, sequences: int) -> None:
    """Token ids are one prompt; a list of strings or of id lists is one sequence each."""
    assert parse(b"/v1/completions", f'{{"prompt":{prompt}}}'.encode()).sequences == sequences


@pytest.mark.parametrize("name", ["err-malformed-json", "err-not-object", "err-empty-body"])
def test_refusals_are_the_engines_own(name: str) -> None:
    """A body that is no JSON object is refused in the very words that the recorded engine used."""
    request, response = exchanges()[name]
    sent = request["body"]
    data = b"" if sent is None else sent.encode() if isinstance(sent, str) else json.dumps(sent).encode()
    with pytest.raises(ClientError) as caught:
        parse(b"/v1/completions", data)
    error = response["body"]["error"]
    told = caught.value
    assert (told.message, told.kind, told.param, told.status) == tuple(
        error[k] for k in ("message", "type", "param", "code")
    )


@pytest.mark.parametrize("data", [b'{"model": 1}', b'{"model": ["m"]}'])
def test_a_model_that_is_no_string_is_refused(data: bytes) -> None:
    """Routing cannot use it and the engine would not either."""
    with pytest.raises(ClientError, match=r"body\.model"):
        parse(CHAT, data)


@pytest.mark.parametrize("data", [b'{"a": NaN}', b'{"a": "\\ud800"}', '{"model":"m"}'.encode("utf-16")])
def test_what_only_the_engines_parser_takes_is_taken(data: bytes) -> None:
    """NaN, lone surrogates and UTF-16 pass the engine's parser, so they must be seen here as they are there."""
    assert isinstance(parse(CHAT, data).fields, dict)


def test_deep_nesting_is_refused() -> None:
    """A body nested deeper than any parser follows is the client's fault, not a crash."""
    with pytest.raises(ClientError):
        parse(CHAT, b"[" * 100_000)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_body_raises_anything_else(data: bytes) -> None:
    """Whatever the bytes, the answer is fields or a ClientError."""
    with contextlib.suppress(ClientError):
        assert isinstance(parse(CHAT, data).fields, dict)
