"""Tokenizers of four families, trained here in well under a second on generated text."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIALS = ("<s>", "</s>", "<|a|>", "<|a|>b", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")
"""Special tokens that may be cut at; one begins like another."""
ODD = (
    AddedToken("<left>", special=True, lstrip=True, normalized=False),
    AddedToken("<right>", special=True, rstrip=True, normalized=False),
    AddedToken("<both>", special=True, lstrip=True, rstrip=True, normalized=False),
    AddedToken("<Found after normalising>", special=False, normalized=True),
    AddedToken("lone", special=False, single_word=True, normalized=True),
    AddedToken(" spaced ", special=False, normalized=False),
)
"""Added tokens that take of their neighbourhood, or are looked for elsewhere than in the raw text."""
FAMILIES = ("bytes", "metaspace-first", "metaspace-always", "prepend", "wordpiece", "unigram", "single-word")

_SYLLABLES = (
    "ba",
    "de",
    "ki",
    "lo",
    "mu",
    "ra",
    "sen",
    "ti",
    "vo",
    "na",
    "the",
    "ing",
    "er",
    "on",
    "é",
    "ü",
    "漢",
    "ы",
)
_SPLIT = r"'\p{L}{1,2}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Words with the blank before them, numbers by three digits, signs, white space: the split of recent tokenizers."""


def corpus() -> Iterator[str]:
    """Lines of words that are made of few syllables, with figures and code."""
    rng = random.Random(3)
    words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(400)]
    for _ in range(400):
        line = " ".join(rng.choices(words, k=rng.randint(3, 15)))
        yield line.capitalize() + rng.choice(
            [".", "?\n", ",  ", "\n\n", f" = {rng.randint(0, 9999)};", " {'x': [1, 2]}"]
        )


def made(family: str, *, odd: bool = True) -> Tokenizer:
    """A tokenizer of a family; `odd`: with added tokens that take of their neighbourhood."""
    tokenizer = _TRAINED[family]()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    if odd:
        tokenizer.add_tokens(list(ODD))
    if family == "single-word":
        tokenizer.add_tokens([AddedToken("alone", special=False, single_word=True, normalized=False)])
        tokenizer.add_tokens([AddedToken("wordlike", special=True, normalized=False)])
    begin = tokenizer.token_to_id("<s>")
    end = tokenizer.token_to_id("</s>")
    if family in ("metaspace-first", "prepend", "bytes"):
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    elif family in ("wordpiece", "unigram"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
        )
    return tokenizer


def _bytes() -> Tokenizer:
    """Byte-level pairs behind a split as of Llama 3."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def _pairs(tokenizer: Tokenizer) -> Tokenizer:
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *alphabet], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def _sentence_pairs(scheme: str) -> Tokenizer:
    """Pairs over words that a mark stands before."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always")
    return _pairs(tokenizer)


def _prepend() -> Tokenizer:
    """Pairs over whole stretches: the mark is put in by the normaliser, as in older Llamas."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _pairs(trained)


def _wordpiece() -> Tokenizer:
    """Words in lower case and without accents, as of BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    """Likeliest pieces of normalised words, as of T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


_TRAINED = {
    "bytes": _bytes,
    "metaspace-first": lambda: _sentence_pairs("first"),
    "metaspace-always": lambda: _sentence_pairs("always"),
    "prepend": _prepend,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
    "single-word": _bytes,
}
