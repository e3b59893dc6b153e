"""Ids as the engine's own tokenizers give them: run by the interpreter of its environment.

python tokenizer_oracle.py    standard input: JSON [folders, texts]; output: per folder and text [bare, with specials]
"""

from __future__ import annotations

import json
import sys

from transformers import AutoTokenizer


def main() -> None:
    """Reads the question, prints the answers as the last line."""
    folders, texts = json.load(sys.stdin)
    answers = []
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers.append(
            [[tokenizer(text, add_special_tokens=special).input_ids for special in (False, True)] for text in texts]
        )
    sys.stdout.write("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
