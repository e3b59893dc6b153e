"""A tokenizer is found where the operator or the engine says, and a failure says why."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.errors import ConfigError
from kvroute.router.knowledge.tokens.segments import Segments
from kvroute.router.knowledge.tokens.tokenizer import Loaded, Unavailable, load
from tests.router.knowledge.tokens.tokenizers_made import made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with a tokenizer."""
    place = tmp_path / "model"
    place.mkdir()
    made("bytes", odd=False).save(str(place / "tokenizer.json"))
    return place


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local hub cache with one model, and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    snapshot = cache / "models--maker--small" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "models--maker--small" / "refs").mkdir()
    (cache / "models--maker--small" / "refs" / "main").write_text("abc")
    made("bytes", odd=False).save(str(snapshot / "tokenizer.json"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def loaded(wanted: str, root: str | None = None) -> Loaded:
    found = load(wanted, root)
    assert isinstance(found, Loaded), found
    return found


def why_not(wanted: str, root: str | None = None) -> str:
    found = load(wanted, root)
    assert isinstance(found, Unavailable), found
    return found.reason


def test_a_file_or_a_folder(folder: Path) -> None:
    """Both mean the same; where it came from is told, and where its chat template is to be looked for."""
    for wanted in (folder, folder / "tokenizer.json"):
        found = loaded(str(wanted))
        assert found.folder == folder
        assert found.source == str(folder / "tokenizer.json")
        assert found.tokenizer.encode("<s>a").ids


def test_a_hub_id_comes_from_the_local_cache(hub: Path) -> None:
    """Nothing is downloaded for what is there."""
    found = loaded("maker/small")
    assert hub in found.folder.parents
    assert (found.folder / "tokenizer.json").is_file()


def test_a_hub_id_that_cannot_be_fetched(hub: Path) -> None:
    """The reason names it."""
    assert "maker/other" in why_not("maker/other")


def test_auto_takes_what_the_engine_names(folder: Path, hub: Path) -> None:
    """A folder of this machine, or a hub id that is cached here."""
    assert loaded("auto", str(folder)).folder == folder
    assert loaded("auto", "maker/small").source.endswith("tokenizer.json")


def test_auto_never_downloads(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not on this machine is named, and left."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert why_not("auto", "maker/other") == "maker/other is not in the local hub cache"
    assert "not on this machine" in why_not("auto", str(tmp_path / "elsewhere"))
    assert "does not tell" in why_not("auto", None)
    assert "neither a folder" in why_not("auto", "../a/b/c")


def test_what_is_no_tokenizer_says_so(tmp_path: Path) -> None:
    """A missing path, a folder without the file, a file that is something else."""
    assert "no such file" in why_not("./nowhere/at/all")
    assert "has no tokenizer.json" in why_not(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert str(tmp_path / "tokenizer.json") in why_not(str(tmp_path))


def test_truncation_and_padding_of_the_file_are_left_out(folder: Path) -> None:
    """Engines set them anew for each prompt."""
    tokenizer = made("bytes", odd=False)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert 3 < len(loaded(str(folder)).tokenizer.encode("some more words").ids) < 50


def test_tokens_that_only_the_configuration_names(folder: Path) -> None:
    """transformers adds them as it loads, in the order of their ids; so do we."""
    size = made("bytes", odd=False).get_vocab_size()
    tokens = {str(size + i): {"content": f"<|extra{i}|>", "special": i == 0, "lstrip": False} for i in (1, 0)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    tokenizer = loaded(str(folder)).tokenizer
    assert tokenizer.encode("<|extra0|><|extra1|>", add_special_tokens=False).ids == [size, size + 1]


def test_special_tokens_that_the_configuration_names(folder: Path) -> None:
    """A word of the vocabulary that is named as a special token is looked for as one."""
    config = {"pad_token": "<pad>", "additional_special_tokens": [{"content": "<more>"}], "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = loaded(str(folder)).tokenizer
    assert len(tokenizer.encode("<pad><more></s>", add_special_tokens=False).ids) == 3


def test_what_stands_around_is_the_tokenizers_own(folder: Path) -> None:
    """As transformers 5 has it, whatever the configuration says of a first token."""
    before = loaded(str(folder)).tokenizer.encode("word").ids
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "bos_token": "<|a|>"}))
    assert loaded(str(folder)).tokenizer.encode("word").ids == before


def test_special_tokens_that_are_text(folder: Path) -> None:
    """Where the configuration says so, they are split like other text, and nothing is cut at them."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"split_special_tokens": True}))
    segments = Segments(loaded(str(folder)).tokenizer)
    assert not segments.splits
    assert segments.encode("<s>a", False) == segments.encode_whole("<s>a", False)
    assert len(segments.encode("<s>a", False)) > 2 * 4


def test_a_configuration_that_makes_no_sense(folder: Path) -> None:
    """It is named."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"x": 1}}))
    assert "tokenizer_config.json" in why_not(str(folder))


def test_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked for a tokenizer is told what to install; "auto" goes on without."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install kvroute\[tokenizer\]"):
        load(str(folder))
    assert "pip install kvroute[tokenizer]" in why_not("auto", str(folder))
