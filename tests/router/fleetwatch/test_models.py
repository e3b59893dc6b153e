"""Finding out what an engine serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvroute.router.fleetwatch.engine_client import EngineClient, Unreachable
from kvroute.router.fleetwatch.models import Served, discover, read_models
from tests.router.fleetwatch.fakes import FakeEngine

CAPTURE = Path(__file__).parents[4] / "shared/data/vllm_captures/http_surface.jsonl"


async def test_models_adapters_and_version(engine: FakeEngine, client: EngineClient) -> None:
    """Entries with a parent are adapters; the context length is the least."""
    engine.models = [
        {"id": "m", "parent": None, "max_model_len": 8192},
        {"id": "alias", "parent": None, "max_model_len": 4096},
        {"id": "sql", "parent": "m"},
    ]
    served = await discover(client, engine.endpoint)
    assert (served.models, served.adapters) == (("m", "alias"), {"sql": "m"})
    assert (served.max_model_len, served.version) == (4096, "0.32.0")
    assert [entry["id"] for entry in served.entries] == ["m", "alias", "sql"]


async def test_a_missing_key_is_explained(engine: FakeEngine, client: EngineClient) -> None:
    """The operator learns which setting is missing."""
    engine.api_key = "secret"
    with pytest.raises(Unreachable, match="--backend-api-key-env"):
        await discover(client, engine.endpoint)


def test_the_captured_list() -> None:
    """vLLM's own answer is understood."""
    if not CAPTURE.exists():
        pytest.skip(f"{CAPTURE} is not there")
    lines = (json.loads(line) for line in CAPTURE.read_text().splitlines())
    body = next(line["body"] for line in lines if line["kind"] == "response" and line["name"] == "GET/v1/models")
    served = read_models(json.dumps(body).encode())
    assert (served.models, served.adapters, served.max_model_len) == (("tiny",), {}, 8192)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": ["m"]}', b'{"data": [{}]}', b'{"data": [{"id": 5}]}']
)
def test_nonsense_is_refused(body: bytes) -> None:
    """What is no list of models is an error, not an engine without models."""
    with pytest.raises(Unreachable):
        read_models(body)


def test_an_override_narrows_what_is_served() -> None:
    """`model=` keeps the models named, and the adapters that stand on them."""
    served = Served(("a", "b"), {"x": "a", "y": "b"}, entries=({"id": "a"}, {"id": "b"}, {"id": "x"}))
    narrowed = served.only(("a",))
    assert (narrowed.models, narrowed.adapters) == (("a",), {"x": "a"})
    assert [entry["id"] for entry in narrowed.entries] == ["a", "x"]
    assert served.only(("y",)).models == ()
    assert served.only(()) is served


def test_time_stamps_are_no_change() -> None:
    """vLLM makes new ids and dates for each answer."""
    assert Served(("a",), entries=({"id": "a", "created": 1},)).same_as(Served(("a",), entries=({"id": "a"},)))
    assert not Served(("a",)).same_as(Served(("a",), {"x": "a"}))
