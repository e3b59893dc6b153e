"""Templates and special tokens are found in a model's folder where the engine's tokenizer finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvroute.router.knowledge.tokens.templates import Templates, load_template, of

NAMED = [{"name": "default", "template": "default"}, {"name": "tool_use", "template": "tools"}]
TOKEN = {"__type": "AddedToken", "content": "<s>", "lstrip": False}


def folder(place: Path, **files: Any) -> Path:
    """A model's folder; a file's name is written with `__` for its point and `_in_` for a slash."""
    for name, content in files.items():
        file = place / name.replace("__", ".").replace("_in_", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return place


def sources(templates: Templates) -> tuple[str | None, str | None]:
    return (
        templates.plain.source if templates.plain else None,
        templates.with_tools.source if templates.with_tools else None,
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"tokenizer_config__json": {"chat_template": "one"}}, ("one", "one")),
        ({"tokenizer_config__json": {"chat_template": NAMED}}, ("default", "tools")),
        ({"tokenizer_config__json": {"chat_template": NAMED[:1]}}, ("default", "default")),
        ({"tokenizer_config__json": {"chat_template": NAMED[1:]}}, (None, "tools")),
        ({"tokenizer_config__json": {"chat_template": "one"}, "chat_template__jinja": "file"}, ("file", "file")),
        (
            {"chat_template__jinja": "file", "additional_chat_templates_in_tool_use__jinja": "more"},
            ("file", "more"),
        ),
        ({"chat_template__jinja": "file", "chat_template__json": {"chat_template": "json"}}, ("file", "file")),
        (
            {
                "chat_template__jinja": "file",
                "chat_template__json": {"chat_template": "json"},
                "preprocessor_config__json": {},
            },
            ("json", "file"),
        ),
    ],
)
def test_templates_are_found(tmp_path: Path, files: dict[str, Any], found: tuple[str | None, str | None]) -> None:
    """Files go before the tokenizer's configuration; a processor's own goes first where there are no tools."""
    assert sources(load_template(folder(tmp_path, **files))) == found


def test_a_chosen_template_goes_first(tmp_path: Path) -> None:
    """What the engine is started with as `--chat-template`, by its text or by its name."""
    place = folder(tmp_path, tokenizer_config__json={"chat_template": NAMED})
    assert sources(load_template(place, "{{ 1 }}")) == ("{{ 1 }}", "{{ 1 }}")
    assert sources(load_template(place, "tool_use")) == ("tools", "tools")


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        (
            {"tokenizer_config__json": {"bos_token": TOKEN, "eos_token": "</s>"}},
            {"bos_token": "<s>", "eos_token": "</s>"},
        ),
        (
            {"tokenizer_config__json": {"bos_token": "a"}, "special_tokens_map__json": {"bos_token": {"content": "b"}}},
            {"bos_token": "b"},
        ),
        (
            {
                "tokenizer_config__json": {"bos_token": "a", "added_tokens_decoder": {}},
                "special_tokens_map__json": {"bos_token": "b"},
            },
            {"bos_token": "a"},
        ),
        (
            {"tokenizer_config__json": {"tokenizer_class": "LlamaTokenizerFast", "eos_token": "x"}},
            {"bos_token": "<s>", "eos_token": "x", "unk_token": "<unk>"},
        ),
        (
            {"tokenizer_config__json": {"tokenizer_class": "GemmaTokenizer", "unk_token": None, "mask_token": None}},
            {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        ),
    ],
)
def test_special_tokens_are_found(tmp_path: Path, files: dict[str, Any], tokens: dict[str, str]) -> None:
    """In the tokenizer's configuration, in the older map where that is newer's place, or in the class's own."""
    place = folder(tmp_path, **files, chat_template__jinja="x")
    assert load_template(place).special_tokens == tokens


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"config__json": {"model_type": "gpt_oss"}}, "harmony"),
        ({"config__json": {"architectures": ["DeepseekV32ForCausalLM"]}}, "DeepSeek V3.2"),
        ({"tekken__json": {}, "params__json": {}}, "Mistral"),
        ({"chat_template__jinja": "{% if %}"}, "compiled"),
    ],
)
def test_what_no_template_renders_is_said(tmp_path: Path, files: dict[str, Any], word: str) -> None:
    """Models whose chats the engine writes by its own code, and templates that are none, are named with the reason."""
    place = folder(tmp_path, **({"chat_template__jinja": "x"} | files))
    found = load_template(place)
    assert word in found.unsupported
    assert sources(found) == (None, None)


def test_a_model_may_have_no_template(tmp_path: Path) -> None:
    """A base model has none: the engine refuses its chats, its completions are rendered."""
    found = load_template(tmp_path)
    assert (sources(found), found.unsupported) == ((None, None), "")


def test_broken_files_are_named(tmp_path: Path) -> None:
    """A configuration that is no JSON object is an error that names the file."""
    with pytest.raises(ValueError, match="tokenizer_config"):
        load_template(folder(tmp_path, tokenizer_config__json=[1]))


def test_equal_templates_are_compiled_once() -> None:
    """One template for requests with and without tools is one object."""
    templates = of("x")
    assert templates.plain is templates.with_tools
