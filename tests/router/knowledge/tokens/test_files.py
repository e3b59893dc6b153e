"""Whatever lies in a folder that an engine names is read in no time, or refused with a reason."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvroute.router.knowledge.tokens import files
from kvroute.router.knowledge.tokens.templates import SPECIAL_TOKENS, Templates, load_template
from kvroute.router.knowledge.tokens.tokenizer import Loaded, Unavailable, load
from tests.router.knowledge.tokens.tokenizers_made import made

READ_FILES = ("tokenizer_config.json", "config.json", "special_tokens_map.json", "chat_template.json")
FIELDS = (
    *("chat_template", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "tokenizer_class"),
    *("architectures", "model_type", "split_special_tokens", *SPECIAL_TOKENS),
)
INNER = ("name", "template", "content", "special", "lstrip", "7", "99999", "default", "tool_use")

_leaves = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "<s>", "{% if %}", "{{ 1 }}", "\ud800"])
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=3),
    max_leaves=8,
)
_objects = st.dictionaries(st.sampled_from(FIELDS), _values, max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with a tokenizer, and a processor's configuration."""
    place = tmp_path_factory.mktemp("model")
    made("bytes", odd=False).save(str(place / "tokenizer.json"))
    (place / "processor_config.json").write_text("{}")
    return place


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(READ_FILES), value=_objects | _values)
def test_any_json_is_taken_or_refused_with_a_reason(folder: Path, name: str, value: Any) -> None:
    """Nothing but a reason or a ValueError comes out of configurations of unexpected shapes."""
    (folder / name).write_text(json.dumps(value))
    try:
        assert isinstance(load("auto", str(folder)), Loaded | Unavailable)
        with contextlib.suppress(ValueError):
            assert isinstance(load_template(folder), Templates)
    finally:
        (folder / name).unlink()


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": [{"name": "default"}]},
        {"chat_template": {"default": 5}},
        {"chat_template": 5},
    ],
)
def test_templates_of_unexpected_shapes(folder: Path, config: dict[str, Any]) -> None:
    """They are refused by the name of the field."""
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="chat_template"):
        load_template(folder)
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"9": ["x"]}},
        {"additional_special_tokens": 5},
        {"additional_special_tokens": "letters"},
    ],
)
def test_added_tokens_of_unexpected_shapes(folder: Path, config: dict[str, Any]) -> None:
    """There is no tokenizer then, and the reason names the file."""
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = load("auto", str(folder))
    assert isinstance(found, Unavailable)
    assert "tokenizer_config.json" in found.reason
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize("source", ["{{ " + "(" * 3000 + "}}", "{% for a in b %}" * 200 + "{% endfor %}" * 200])
def test_templates_that_python_cannot_compile(folder: Path, source: str) -> None:
    """They are unsupported, with the reason."""
    (folder / "chat_template.jinja").write_text(source)
    assert "cannot be compiled" in load_template(folder).unsupported
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize("root", ["/" + "x" * 5000, "/tmp\0x", "x" * 5000, "/dev/stdin", "/dev/null", "..", "~nobody"])
def test_roots_that_no_folder_has(root: str) -> None:
    """The reason is short, whatever the engine says."""
    found = load("auto", root)
    assert isinstance(found, Unavailable)
    assert len(found.reason) < 600


def test_a_named_tokenizer_that_no_file_is() -> None:
    """An operator's typing error is a reason too."""
    for wanted in ("~no-such-person/model", "/" + "x" * 5000, "/tmp\0x"):
        assert isinstance(load(wanted), Unavailable)


@pytest.mark.parametrize("name", ["tokenizer.json", *READ_FILES[:3], "chat_template.jinja"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """It would never end: it is refused at once, as a file that is no plain file."""
    if name != "tokenizer.json":
        made("bytes", odd=False).save(str(tmp_path / "tokenizer.json"))
    os.mkfifo(tmp_path / name)
    found = load("auto", str(tmp_path))
    if isinstance(found, Loaded):
        with pytest.raises(ValueError, match="no plain file"):
            load_template(tmp_path)
    else:
        assert name in found.reason


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """Beyond the limit a file is refused, however it came there."""
    with (tmp_path / "huge.json").open("wb") as stream:
        stream.truncate(files.MOST_BYTES + 1)
    with pytest.raises(ValueError, match="larger than 4 MiB"):
        files.json_object(tmp_path / "huge.json")
    with (tmp_path / "tokenizer.json").open("wb") as stream:
        stream.truncate(files.MOST_TOKENIZER_BYTES + 1)
    found = load("auto", str(tmp_path))
    assert isinstance(found, Unavailable)
    assert "larger than 64 MiB" in found.reason


def test_text_is_read_as_the_engine_reads_it(tmp_path: Path) -> None:
    """Each line's end is a newline, as in Python's text files."""
    (tmp_path / "a").write_bytes("one\r\ntwo\rthrée\n".encode())
    assert files.text(tmp_path / "a") == (tmp_path / "a").read_text(encoding="utf-8")
