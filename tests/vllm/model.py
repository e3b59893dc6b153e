"""Makes a random Llama of about 10 million parameters and a byte-level tokenizer: no hub, the same weights each time.

python model.py FOLDER      run by the interpreter of the engine's environment (torch, transformers, tokenizers)
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports below: they read it once

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
POSITIONS = 8192
HIDDEN = 384
"""With six layers this makes a cold prompt of 1,500 tokens cost about a second and a cached one a tenth of that."""
LAYERS = 6
FEED_FORWARD = 1024
HEADS = 4
KV_HEADS = 2
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] if message['content'] is string"
    " else message['content'] | map(attribute='text') | join('') }}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus() -> Iterator[str]:
    """Text that every machine has: this Python's own library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.glob("*.py"))[:120]:
        yield file.read_text(errors="ignore")


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding over bytes, so that any text can be written and read."""
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pairs.train_from_iterator(corpus(), trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=pairs,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def model(words: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights from a fixed seed: what it says is nonsense, but the same nonsense on every replica."""
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=FEED_FORWARD,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            head_dim=HIDDEN // HEADS,
            vocab_size=len(words),
            max_position_embeddings=POSITIONS,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            tie_word_embeddings=True,
            dtype="float32",
        )
    )
    made.generation_config.bos_token_id = None
    made.generation_config.eos_token_id = words.eos_token_id
    return made


def main() -> None:
    """Writes weights, configuration and tokenizer into the folder that was named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    words = tokenizer()
    words.save_pretrained(folder)
    made = model(words)
    made.save_pretrained(folder)
    size = sum(weight.numel() for weight in made.parameters())
    sys.stdout.write(f"{size:,} parameters, {len(words)} words\n")


if __name__ == "__main__":
    main()
