"""Tokenizers as the router loads them give the ids of those that the engine loads, however they are configured."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from kvroute.router.core import blocks
from kvroute.router.knowledge.tokens.segments import Segments
from kvroute.router.knowledge.tokens.selfcheck import battery
from kvroute.router.knowledge.tokens.tokenizer import Loaded, load
from tests.router.knowledge.tokens.tokenizers_made import FAMILIES, made
from tests.vllm.engine import OFFLINE
from tests.vllm.environment import Environment

ORACLE = Path(__file__).with_name("tokenizer_oracle.py")
ADDED = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"},
    {"add_bos_token": False, "bos_token": "<s>"},
    {"add_eos_token": True, "eos_token": "</s>"},
    {"pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"},
    {"additional_special_tokens": ["<more>", "ba"]},
    {"extra_special_tokens": {"image_token": "<img>"}},
    {"added_tokens_decoder": {"5000": {"content": "<|x|>", "special": True, **ADDED}}},
    {"added_tokens_decoder": {"5000": {"content": "zz", "special": False, **ADDED, "normalized": True}}},
    {"split_special_tokens": True},
    {"add_prefix_space": True},
)
"""Beside a byte-level tokenizer."""
TEXTS = ("word baba <|a|>b <s>x</s> <pad>q<more> ba <img> <|x|> zz", "  hello", "<|a|> a", "<left> a <right> b")


def folder(place: Path, family: str, configuration: dict[str, Any]) -> Path:
    """A model's folder with nothing but a tokenizer."""
    place.mkdir()
    made(family).save(str(place / "tokenizer.json"))
    configuration = {"tokenizer_class": "TokenizersBackend", **configuration}
    (place / "tokenizer_config.json").write_text(json.dumps(configuration))
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return place


def test_ids_are_those_of_the_engines_tokenizer(environment: Environment, tmp_path: Path) -> None:
    """Every family and configuration, in pieces and with special tokens around, over the start-up check's battery."""
    kinds = [("bytes", configuration) for configuration in CONFIGURATIONS] + [(family, {}) for family in FAMILIES]
    folders = [folder(tmp_path / str(number), *kind) for number, kind in enumerate(kinds)]
    texts = [*TEXTS, *list(battery(Segments(made("bytes"))))]
    done = subprocess.run(
        [environment.python, ORACLE],
        input=json.dumps([list(map(str, folders)), texts]),
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=True,
    )
    for kind, place, answers in zip(kinds, folders, json.loads(done.stdout.splitlines()[-1]), strict=True):
        found = load(str(place))
        assert isinstance(found, Loaded)
        segments = Segments(found.tokenizer)
        for text, both in zip(texts, answers, strict=True):
            ours = [segments.encode(text, special) for special in (False, True)]
            assert ours == [blocks.pack(ids) for ids in both], (kind, text)
