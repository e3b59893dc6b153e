"""Keys of a prompt as the token lens makes them are those of the blocks that the real engine says it stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from kvroute.router.core import blocks
from kvroute.router.knowledge.text import Prompt
from kvroute.router.knowledge.tokens import templates, tokenizer
from kvroute.router.knowledge.tokens.lens import TokenLens
from kvroute.router.knowledge.tokens.renderer import Renderer
from kvroute.router.knowledge.tokens.segments import Segments
from kvroute.router.knowledge.tokens.selfcheck import check
from kvroute.router.parse import parse
from tests.router.knowledge.tokens.styles import STYLES
from tests.vllm import adapter
from tests.vllm.engine import BLOCK_TOKENS, MODEL, Engine
from tests.vllm.environment import Environment
from tests.vllm.processes import HANG
from tests.vllm.rendering import folder_with_begin
from tests.vllm.wire import exchange

ADAPTER = "ada"
TEMPLATE = STYLES["qwen"]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "What the weather is like, naïvely",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def words(topic: str, count: int = 90) -> str:
    """Text that no other case begins with, so that all of its blocks are new to the engine."""
    return f"{topic}: " + " ".join(f"{topic}-{number} naïve 漢字\n" for number in range(count))


def chat(topic: str, **fields: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": words(topic, 20)},
        {"role": "user", "content": words("question")},
        {"role": "assistant", "content": "  an answer\n"},
        {"role": "user", "content": [{"type": "text", "text": words("more", 30)}]},
    ]
    return {"messages": messages, **fields}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": (COMPLETIONS, {"prompt": words("plain")}),
    "special tokens inside": (COMPLETIONS, {"prompt": words("x") + "<|im_end|> \n<|im_start|>" + words("y")}),
    "completion without special tokens": (COMPLETIONS, {"prompt": words("bare"), "add_special_tokens": False}),
    "token ids": (COMPLETIONS, {"prompt": list(range(300, 500))}),
    "token ids, whole blocks": (COMPLETIONS, {"prompt": list(range(600, 600 + 4 * BLOCK_TOKENS))}),
    "a list of one": (COMPLETIONS, {"prompt": [words("listed")]}),
    "the last tokens": (COMPLETIONS, {"prompt": words("last"), "truncate_prompt_tokens": 150}),
    "the last tokens, said so": (
        COMPLETIONS,
        {"prompt": words("left"), "truncate_prompt_tokens": 151, "truncation_side": "left"},
    ),
    "the first tokens": (
        COMPLETIONS,
        {"prompt": words("right"), "truncate_prompt_tokens": 152, "truncation_side": "right"},
    ),
    "as many tokens as the model takes": (COMPLETIONS, {"prompt": words("fits"), "truncate_prompt_tokens": -1}),
    "chat": (CHAT, chat("talk")),
    "chat with tools": (CHAT, chat("tools", tools=TOOLS, tool_choice="none")),
    "chat without a generation prompt": (CHAT, chat("open", add_generation_prompt=False)),
    "chat that goes on": (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": words("goes")},
                {"role": "assistant", "content": words("on", 20)},
            ],
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    "chat with special tokens": (CHAT, chat("special", add_special_tokens=True)),
    "chat, truncated": (CHAT, chat("cut", truncate_prompt_tokens=200)),
    "salt": (COMPLETIONS, {"prompt": words("salted"), "cache_salt": "tenant"}),
    "another salt": (COMPLETIONS, {"prompt": words("salted"), "cache_salt": "other"}),
    "chat with salt": (CHAT, chat("salted talk", cache_salt="tenant")),
    "adapter": (COMPLETIONS, {"prompt": words("plain"), "model": ADAPTER}),
    "chat of an adapter": (CHAT, chat("talk", model=ADAPTER)),
    "adapter and salt": (COMPLETIONS, {"prompt": words("plain"), "model": ADAPTER, "cache_salt": "tenant"}),
    "response": (RESPONSES, {"instructions": words("do", 20), "input": words("asked")}),
    "message": (MESSAGES, {"system": words("be", 20), "messages": [{"role": "user", "content": words("told")}]}),
}  # fmt: skip


class Subscriber:
    """What the engine says that it stores, as keys of ours."""

    def __init__(self, port: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._known: dict[int, int] = {}

    def close(self) -> None:
        self._context.destroy(linger=0)

    def heard(self) -> bool:
        """Whether something has come, or comes within half a second."""
        return bool(self._socket.poll(500))

    def drain(self) -> None:
        """Drop what has come."""
        while self._socket.poll(0):
            self._socket.recv_multipart()

    def stored(self, count: int, salt: str | None) -> list[int]:
        """The keys of the next blocks, at least `count` of them."""
        keys: list[int] = []
        while len(keys) < count:
            assert self._socket.poll(int(HANG * 1000)), f"{len(keys)} of {count} blocks were announced"
            _, events, *_ = msgspec.msgpack.decode(self._socket.recv_multipart()[2])
            for event in events:
                if event["type"] == "BlockStored":
                    keys += self._keys(event, salt)
        return keys

    def _keys(self, event: dict[str, Any], salt: str | None) -> list[int]:
        parent = event["parent_block_hash"]
        root = blocks.token_root(event["lora_name"], salt, BLOCK_TOKENS)
        above = root if parent is None else self._known[parent]
        assert event["block_size"] == BLOCK_TOKENS
        keys = blocks.extend(above, blocks.pack(event["token_ids"]), BLOCK_TOKENS * blocks.TOKEN_BYTES)
        self._known.update(zip(event["block_hashes"], keys, strict=True))
        return keys


@pytest.fixture(scope="module")
def folder(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder whose tokenizer puts a token in front, and with a template that renders tools."""
    made = folder_with_begin(environment.model, tmp_path_factory.mktemp("keys") / "model")
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture(scope="module")
def engine(environment: Environment, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A replica of that model, with an adapter."""
    place = tmp_path_factory.mktemp("engine")
    lora = adapter.make(place / "adapter", environment.model)
    flags = ["--tokenizer", str(folder), "--enable-lora", "--lora-modules", f"{ADAPTER}={lora}"]
    flags += ["--max-lora-rank", str(adapter.RANK), "--chat-template", str(folder / "chat_template.jinja")]
    flags += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    replica = Engine("keys", environment, place / "keys.log", flags)
    try:
        replica.start()
        replica.wait_until_ready()
        yield replica
    finally:
        replica.stop()


@pytest.fixture(scope="module")
def events(engine: Engine) -> Iterator[Subscriber]:
    """Subscribed for sure: a first prompt was announced."""
    subscriber = Subscriber(engine.events_port)
    for number in range(1000):
        ids = [1000 + number] * BLOCK_TOKENS
        assert exchange(engine.port, COMPLETIONS, {"model": MODEL, "prompt": ids, "max_tokens": 1}).status == 200
        if subscriber.heard():
            break
    subscriber.drain()
    yield subscriber
    subscriber.close()


@pytest.fixture(scope="module")
def lens(folder: Path) -> TokenLens:
    """The lens over the same folder, its self-check passed."""
    found = tokenizer.load(str(folder))
    assert isinstance(found, tokenizer.Loaded)
    segments = Segments(found.tokenizer)
    assert check(segments, found.source)
    return TokenLens(segments, Renderer(templates.load_template(found.folder)), BLOCK_TOKENS)


def body(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    limit = {"max_output_tokens": 16} if path == RESPONSES else {"max_tokens": 1}
    return {"model": MODEL, **limit, **fields}


async def read(lens: TokenLens, path: str, fields: dict[str, Any]) -> Prompt:
    model = fields["model"]
    found = lens.read(parse(path.encode(), json.dumps(fields).encode()), MODEL, model if model == ADAPTER else None)
    return found if isinstance(found, Prompt) else await found


@pytest.mark.parametrize("name", CASES)
async def test_keys_are_the_engines(engine: Engine, events: Subscriber, lens: TokenLens, name: str) -> None:
    """Each block that the engine stores for a prompt has the key that the prompt was given, and none is missing."""
    path, fields = CASES[name]
    fields = body(path, fields)
    prompt = await read(lens, path, fields)
    assert len(prompt.keys) > 3
    events.drain()
    answer = exchange(engine.port, path, fields)
    assert answer.status == 200, answer.body
    usage = json.loads(answer.body)["usage"]
    assert prompt.tokens == usage.get("prompt_tokens", usage.get("input_tokens"))
    stored = events.stored(len(prompt.keys), fields.get("cache_salt"))
    assert stored[: len(prompt.keys)] == prompt.keys
    assert len(stored) <= len(prompt.keys) + 1  # a generated token may have filled one more


async def test_a_conversation_grows_by_the_engines_blocks(engine: Engine, events: Subscriber, lens: TokenLens) -> None:
    """Turn by turn, resumed from the turn before, the keys are those that the engine holds or newly stores."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": words("grows", 30)}]
    held: list[int] = []
    for turn in range(5):
        messages.append({"role": "user", "content": words(f"turn {turn}", 20)})
        fields = body(CHAT, {"messages": messages, "tools": TOOLS})
        prompt = await read(lens, CHAT, fields)
        events.drain()
        answer = exchange(engine.port, CHAT, fields)
        assert answer.status == 200, answer.body
        shared = sum(1 for ours, theirs in zip(prompt.keys, held, strict=False) if ours == theirs)
        assert shared > len(held) - 4  # what was generated, and the template's turn
        stored = events.stored(len(prompt.keys) - shared, None)
        held = prompt.keys[:shared] + stored
        assert held[: len(prompt.keys)] == prompt.keys
        messages.append({"role": "assistant", "content": "An answer of its own."})
