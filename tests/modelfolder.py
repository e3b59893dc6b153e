"""A model's folder as far as routing needs it: a tokenizer and a chat template, made in half a second."""

from __future__ import annotations

import json
from pathlib import Path

from tests.router.knowledge.tokens.styles import CHATML
from tests.router.knowledge.tokens.tokenizers_made import made


def make_model_folder(folder: Path, family: str = "bytes", template: str | None = CHATML) -> Path:
    """Write `tokenizer.json`, `tokenizer_config.json` and `config.json` for a tokenizer of a family."""
    folder.mkdir(parents=True, exist_ok=True)
    made(family, odd=False).save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>"} | ({} if template is None else {"chat_template": template})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder
