"""A model's chat templates and special tokens, found in its folder as the engine's tokenizer finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import msgspec

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
    config = _json(folder / "config.json")
    tokenizer = _json(folder / "tokenizer_config.json")
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
    except jinja2.TemplateSyntaxError as error:
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
        named["default"] = main.read_text(encoding="utf-8")
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        named[file.stem] = file.read_text(encoding="utf-8")
    if not named:
        return _configured(config.get("chat_template"))
    return named["default"] if list(named) == ["default"] else named


def _configured(entry: Any) -> str | dict[str, str] | None:
    if isinstance(entry, list):
        return {each["name"]: each["template"] for each in entry if isinstance(each, dict) and "name" in each}
    return entry if isinstance(entry, str | dict) else None


def _processors(folder: Path) -> str | None:
    """The template of a multimodal model's processor, which goes before the tokenizer's where there are no tools."""
    legacy = folder / "chat_template.json"
    processor = (folder / "preprocessor_config.json").exists() or (folder / "processor_config.json").exists()
    if not (processor and legacy.exists()):
        return None
    template = _json(legacy).get("chat_template")
    return template if isinstance(template, str) else None


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    kind = str(config.get("tokenizer_class") or "").lower().removesuffix("fast").removesuffix("tokenizer")
    found: dict[str, Any] = {**CLASS_TOKENS.get(kind, {}), **config}
    if "added_tokens_decoder" not in config:
        found |= _json(folder / "special_tokens_map.json")
    named = {name: _content(found.get(name)) for name in SPECIAL_TOKENS}
    return {name: token for name, token in named.items() if token is not None}


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _json(file: Path) -> dict[str, Any]:
    """A file's object; empty where there is no such file."""
    if not file.exists():
        return {}
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object")
    return value
