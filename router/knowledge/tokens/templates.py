"""A model's chat templates and special tokens, found in its folder as the engine's tokenizer finds them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jinja2
import msgspec

from kvroute.router.knowledge.tokens import files
from kvroute.router.knowledge.tokens.template import Template

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The names under which a template reads them."""

CLASS_TOKENS: dict[str, dict[str, str]] = {
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gemma": {name: f"<{name[:3]}>" for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    | {"mask_token": "<mask>"},
    "gpt2": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "qwen2": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    "cohere": {name: f"<{name[:-6].upper()}>" for name in ("unk_token", "sep_token", "pad_token", "cls_token")}
    | {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "mask_token": "<MASK_TOKEN>"},
}
"""What a tokenizer's class (in lower case, without "TokenizerFast") means where its configuration names no token."""

UNCOMPILABLE = (jinja2.TemplateError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)
"""What jinja2, and Python behind it, raise for a text that is no template: nested too deep, not UTF-8, ..."""

MOST_NAMED = 100
"""Templates of their own files that are read."""

OWN_CODE = {
    "GptOssForCausalLM": "OpenAI's harmony format",
    "KimiK3ForConditionalGeneration": "Kimi K3",
    "MoonshotKimiaForCausalLM": "Kimi Audio",
    "DeepseekV32ForCausalLM": "DeepSeek V3.2",
    "DeepseekV4ForCausalLM": "DeepSeek V4",
    "DeepseekV4ForConditionalGeneration": "DeepSeek V4",
    "DeepseekV41ForCausalLM": "DeepSeek V4.1",
    "InklingForCausalLM": "Inkling",
    "InklingForConditionalGeneration": "Inkling",
}
"""Architectures whose chats the engine puts together by code of its own, not by a template."""


class Templates(msgspec.Struct, frozen=True):
    """The templates of one model."""

    plain: Template | None = None
    """For requests without tools; None: the engine refuses them."""
    with_tools: Template | None = None
    """For requests that carry tools."""
    special_tokens: dict[str, str] = {}
    """Such as `bos_token`: variables of every template."""
    unsupported: str = ""
    """Why chats of this model cannot be rendered here, to be shown; "" where they can. Completions always can."""


def of(source: str | dict[str, str], special_tokens: dict[str, str] | None = None) -> Templates:
    """Templates from text: one for all, or by their names ("default", "tool_use")."""
    return _templates(source, source, special_tokens or {})


def load_template(folder: Path, chosen: str | None = None) -> Templates:
    """What the engine would use for the model in `folder`; `chosen`: the text or a name given as `--chat-template`.

    Raises:
        OSError, ValueError: a file cannot be read, or is not what its name says.
    """
    config = files.json_object(folder / "config.json")
    tokenizer = files.json_object(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(folder, tokenizer)
    if reason := _unsupported(folder, config):
        return Templates(special_tokens=special_tokens, unsupported=reason)
    own = _tokenizers(folder, tokenizer)
    if chosen is not None:
        text = own.get(chosen, chosen) if isinstance(own, dict) else chosen
        return _templates(text, text, special_tokens)
    plain = _processors(folder) or own
    if plain is None:  # the engine refuses chats of such a model
        return Templates(special_tokens=special_tokens)
    return _templates(plain, own, special_tokens)


def _templates(
    plain: str | dict[str, str], with_tools: str | dict[str, str] | None, special_tokens: dict[str, str]
) -> Templates:
    first = plain.get("default") if isinstance(plain, dict) else plain
    second = with_tools
    if isinstance(with_tools, dict):
        second = with_tools.get("tool_use", with_tools.get("default"))
    try:
        compiled = {text: Template(text) for text in (first, second) if isinstance(text, str)}
    except UNCOMPILABLE as error:
        reason = f"its chat template cannot be compiled: {error}"
        return Templates(special_tokens=special_tokens, unsupported=reason)
    chosen = [compiled.get(text) if isinstance(text, str) else None for text in (first, second)]
    return Templates(chosen[0], chosen[1], special_tokens)


def _unsupported(folder: Path, config: dict[str, Any]) -> str:
    kinds = config.get("architectures")
    kinds = kinds if isinstance(kinds, list) else []
    if config.get("model_type") == "gpt_oss":
        kinds = ["GptOssForCausalLM"]
    if how := next((OWN_CODE[kind] for kind in kinds if isinstance(kind, str) and kind in OWN_CODE), ""):
        return f"the engine writes its chats by code of its own ({how}), not by a chat template"
    own_tokenizer = (folder / "tekken.json").exists() or any(folder.glob("tokenizer.model.v*"))
    own_weights = (folder / "params.json").exists() or any(folder.glob("consolidated*.safetensors"))
    if own_tokenizer and own_weights:
        return "the engine uses Mistral's own tokenizer for it, not a chat template"
    return ""


def _tokenizers(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    """The tokenizer's own: files go before what its configuration holds."""
    named: dict[str, str] = {}
    if (main := folder / "chat_template.jinja").exists():
        named["default"] = files.text(main)
    for file in sorted(itertools.islice((folder / "additional_chat_templates").glob("*.jinja"), MOST_NAMED)):
        named[file.stem] = files.text(file)
    if not named:
        return _configured(config.get("chat_template"))
    return named["default"] if list(named) == ["default"] else named


def _configured(entry: Any) -> str | dict[str, str] | None:
    """The template of a configuration, or several by name.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(entry, list):
        if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in entry):
            raise ValueError("chat_template: a template of the list has no name")
        entry = {each["name"]: each.get("template") for each in entry}
    if isinstance(entry, dict) and not all(isinstance(each, str) for each in entry.values()):
        raise ValueError("chat_template: a named template has no text")
    if not (entry is None or isinstance(entry, str | dict)):
        raise ValueError("chat_template is neither text nor a list of named templates")
    return entry


def _processors(folder: Path) -> str | None:
    """The template of a multimodal model's processor, which goes before the tokenizer's where there are no tools."""
    legacy = folder / "chat_template.json"
    processor = (folder / "preprocessor_config.json").exists() or (folder / "processor_config.json").exists()
    if not (processor and legacy.exists()):
        return None
    template = files.json_object(legacy).get("chat_template")
    return template if isinstance(template, str) else None


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    kind = str(config.get("tokenizer_class") or "").lower().removesuffix("fast").removesuffix("tokenizer")
    found: dict[str, Any] = {**CLASS_TOKENS.get(kind, {}), **config}
    if "added_tokens_decoder" not in config:
        found |= files.json_object(folder / "special_tokens_map.json")
    named = {name: _content(found.get(name)) for name in SPECIAL_TOKENS}
    return {name: token for name, token in named.items() if token is not None}


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
