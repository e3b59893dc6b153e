"""The token lens' own cost: the next turn of a long conversation, and cold prompts beside the tokenizer alone.

python -m bench.lens
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

from bench import machine
from bench.bodies import words
from bench.cases import KIB, SEED
from bench.decision import PATH, build
from kvroute.router.core.decide import Decision
from kvroute.router.knowledge.text import Prompt
from kvroute.router.knowledge.tokens import templates
from kvroute.router.knowledge.tokens.lens import TokenLens
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.renderer import Renderer
from kvroute.router.knowledge.tokens.segments import Segments
from kvroute.router.parse import Body, parse
from kvroute.scorers.contract import Request
from kvroute.scorers.latency import latency

REPLICAS = 64
MESSAGES = 100
TOKENS = 100_000
CONVERSATIONS = 6
TURNS = 12
"""Next turns of each conversation; each adds an answer and a question of NEW tokens each."""
NEW = 250
COLD = 40
SIZES = (KIB, 16 * KIB)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer() -> Tokenizer:
    """Byte-level pairs of about four bytes a token on our texts, with as many special tokens as large models have."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    rng = random.Random(SEED)
    trainer = trainers.BpeTrainer(
        vocab_size=1100, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([words(rng, 4000) for _ in range(60)], trainer)
    names = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", *(f"<|reserved_{number}|>" for number in range(250))]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return made


class Clocked(Renderer):
    """Notes the CPU seconds of rendering."""

    seconds = 0.0

    def render(self, body: Body) -> Rendered:
        begun = time.process_time()
        rendered = super().render(body)
        self.seconds = time.process_time() - begun
        return rendered


@dataclass(slots=True)
class Spent:
    """CPU milliseconds of each decision, by part; the threads that encode are included."""

    parse: list[float] = field(default_factory=list)
    render: list[float] = field(default_factory=list)
    lens: list[float] = field(default_factory=list)
    decide: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    """render + lens + decide."""
    encode: list[float] = field(default_factory=list)
    """Beside: the tokenizer alone over as much new text; not over the same, whose words it would remember."""
    encode_all: list[float] = field(default_factory=list)
    """Beside: tokenizers' own encode of as much text as the whole prompt has."""

    def medians(self) -> dict[str, float]:
        """Part -> median [ms]."""
        return {name: statistics.median(getattr(self, name)) for name in self.__slots__ if getattr(self, name)}


class Bench:
    """A token lens before a decision over 64 replicas."""

    def __init__(self) -> None:
        self.tokenizer = tokenizer()
        self.renderer = Clocked(templates.of(TEMPLATE))
        self.lens = TokenLens(Segments(self.tokenizer), self.renderer)
        self.deciding = build(REPLICAS, latency())
        self.rng = random.Random(SEED)
        sample = words(self.rng, 100_000)
        self.bytes_per_token = len(sample) / len(self.tokenizer.encode(sample).ids)
        self.number = 0

    def message(self, role: str, tokens: float) -> dict[str, str]:
        return {"role": role, "content": words(self.rng, int(tokens * self.bytes_per_token))}

    async def decided(self, messages: list[dict[str, str]], spent: Spent | None, row: int | None = None) -> Prompt:
        """One request decided and settled; `row`: sent to that replica, whatever the policy thinks."""
        data = orjson.dumps({"model": "m", "messages": messages, "max_tokens": 16})
        clock = time.process_time
        begun = clock()
        body = parse(PATH, data)
        parsed = clock()
        found = self.lens.read(body, "m", None)
        prompt = found if isinstance(found, Prompt) else await found
        read = clock()
        self.number += 1
        request = Request(
            id=str(self.number),
            model="m",
            tokens=prompt.tokens,
            keys=prompt.keys,
            block_tokens=prompt.block_tokens,
            anchor=prompt.anchor,
        )
        now = time.monotonic()
        if row is None:
            decision = self.deciding.decide(request, now)
        else:
            decision = self.deciding.at(request, list(self.deciding.fleet)[row], now)
        done = clock()
        if not isinstance(decision, Decision):
            raise RuntimeError(f"no replica was chosen: {decision}")
        self.deciding.settle(request, decision, now, completed=True, output_tokens=16)
        if spent is not None:
            rendering = self.renderer.seconds
            for name, seconds in (
                ("parse", parsed - begun),
                ("render", rendering),
                ("lens", read - parsed - rendering),
                ("decide", done - read),
                ("whole", done - parsed),
            ):
                getattr(spent, name).append(seconds * 1e3)
        return prompt

    async def turns(self) -> tuple[Spent, int]:
        """Next turns of long conversations, of which each replica holds an earlier turn; and their tokens."""
        spent = Spent()
        tokens = 0
        for _ in range(CONVERSATIONS):
            roles = ("user", "assistant")
            earlier = MESSAGES - 2 * TURNS - 1
            size = (TOKENS - 2 * TURNS * NEW) / earlier
            messages = [self.message(roles[i % 2], size) for i in range(earlier)]
            for row in range(REPLICAS):
                length = len(messages) if row == 0 else len(messages) * (row + 1) // REPLICAS // 2 * 2 + 1
                await self.decided(messages[:length], None, row)
            for _ in range(TURNS):
                new = [self.message("assistant", NEW), self.message("user", NEW)]
                messages += new
                prompt = await self.decided(messages, spent)
                tokens = prompt.tokens
                spent.encode.append(sum(self._alone(words(self.rng, len(message["content"]))) for message in new))
        spent.encode_all.append(self._alone(self._text(messages)))
        return spent, tokens

    async def cold(self, size: int) -> Spent:
        """Prompts of which nothing is known."""
        spent = Spent()
        for _ in range(COLD):
            messages = [{"role": "user", "content": words(self.rng, size)}]
            await self.decided(messages, spent)
            spent.encode_all.append(self._alone(words(self.rng, size)))
        return spent

    def _text(self, messages: list[dict[str, str]]) -> str:
        body = parse(PATH, orjson.dumps({"model": "m", "messages": messages}))
        return self.renderer.render(body).text

    def _alone(self, text: str) -> float:
        """CPU milliseconds of tokenizers' own `encode`, ids as a list."""
        begun = time.process_time()
        len(self.tokenizer.encode(text, add_special_tokens=False).ids)
        return (time.process_time() - begun) * 1e3


def run() -> dict[str, Any]:
    """All cases: name -> medians in CPU milliseconds."""
    found: dict[str, Any] = {}

    async def all_cases() -> None:
        bench = Bench()
        spent, tokens = await bench.turns()
        found["next turn"] = {"tokens": tokens, **spent.medians()}
        for size in SIZES:
            found[f"cold {size // KIB} KB"] = (await bench.cold(size)).medians()
        bench.lens.close()

    _on_one_core(lambda: uvloop.run(all_cases()))
    return found


def _on_one_core(work: Callable[[], None]) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {machine.cores()[0]})
    try:
        work()
    finally:
        os.sched_setaffinity(0, allowed)


def lines(found: dict[str, Any]) -> list[str]:
    """The table, as text."""
    names = ("parse", "render", "lens", "decide", "whole", "encode", "encode_all")
    table = [
        f"token lens, CPU milliseconds at the median, {REPLICAS} replicas (whole = render + lens + decide; beside it "
        "tokenizers' encode of the new messages, and of the whole text)",
        f"{'':>12} " + " ".join(f"{name:>10}" for name in names),
    ]
    for case, row in found.items():
        cells = " ".join(f"{row[name]:>10.3f}" if name in row else f"{'':>10}" for name in names)
        table.append(f"{case:>12} {cells}")
    tokens = found["next turn"]["tokens"]
    table.append(f"the last turn has {MESSAGES - 1} messages and {tokens:,} tokens; the goal for the whole is 2 ms")
    return table


if __name__ == "__main__":
    print("\n".join(lines(run())))
