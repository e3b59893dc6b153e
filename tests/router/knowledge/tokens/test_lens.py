"""The token lens: exact keys, at once or as soon as a thread is done, and never a request that waits for long."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from kvroute.router.core import blocks
from kvroute.router.knowledge.text import Prompt, TextLens
from kvroute.router.knowledge.tokens import lens as tokenlens
from kvroute.router.knowledge.tokens.encoding import SHORT, TINY, Encoding
from kvroute.router.knowledge.tokens.lens import MOST_PIECES, TokenLens
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.segments import Segments
from kvroute.router.parse import Body, parse
from tests.router.knowledge.tokens.tokenizers_made import made

BLOCK = 4
LONG = "many words and 12 figures, " * 40
tokenizer = functools.cache(made)


class Says:
    """A renderer that gives what the test put in the body."""

    def render(self, body: Body) -> Rendered:
        return Rendered(**body.fields["rendered"])

    def note(self, rendered: Rendered) -> None:
        """Nothing is counted."""


class Held(Segments):
    """Segments whose threads wait until they are let go, and count what they were asked."""

    def __init__(self, longer_than: int = 0) -> None:
        """`longer_than`: shorter texts are encoded at once [characters]."""
        super().__init__(tokenizer("bytes"))
        self.longer_than = longer_than
        self.gate = threading.Event()
        self.asked: list[str] = []

    def encoded(self, text: str, place: int) -> bytes:
        self.asked.append(text)
        assert len(text) <= self.longer_than or self.gate.wait(30)
        return super().encoded(text, place)


def asking(path: bytes = b"/v1/completions", salt: str | None = None, **rendered: Any) -> Body:
    fields = {"model": "m", "prompt": "Hello", "rendered": rendered}
    return parse(path, orjson.dumps(fields if salt is None else fields | {"cache_salt": salt}))


@pytest.fixture
def lens() -> Iterator[TokenLens]:
    made = TokenLens(Segments(tokenizer("bytes")), Says(), BLOCK)
    yield made
    made.close()


async def answer(lens: TokenLens, body: Body, adapter: str | None = None) -> Prompt:
    found = lens.read(body, "m", adapter)
    return found if isinstance(found, Prompt) else await found


def engine_ids(text: str, special: bool = False) -> list[int]:
    found: list[int] = tokenizer("bytes").encode(text, add_special_tokens=special).ids
    return found


def keyed(ids: list[int], adapter: str | None = None, salt: str | None = None) -> list[int]:
    return blocks.extend(blocks.token_root(adapter, salt, BLOCK), blocks.pack(ids), BLOCK * blocks.TOKEN_BYTES)


async def test_keys_are_those_of_the_engines_tokens(lens: TokenLens) -> None:
    """With and without what the post-processor adds, the count of tokens is exact and the text's bytes are not told."""
    for special in (False, True):
        text = f"<|im_start|>user\n{LONG}<|im_end|>\n"
        prompt = await answer(lens, asking(text=text, add_special_tokens=special))
        ids = engine_ids(text, special)
        assert prompt.keys == keyed(ids)
        assert (prompt.tokens, prompt.block_tokens, prompt.text_bytes) == (len(ids), BLOCK, 0)


async def test_adapter_and_salt_part_caches(lens: TokenLens) -> None:
    """As in the engine, which mixes both into its blocks."""
    ids = engine_ids(LONG)
    assert (await answer(lens, asking(text=LONG), "lora")).keys == keyed(ids, "lora")
    assert (await answer(lens, asking(text=LONG, salt="s"))).keys == keyed(ids, None, "s")


async def test_known_and_tiny_texts_are_answered_at_once(lens: TokenLens) -> None:
    """Only what is new and long goes to a thread."""
    assert isinstance(lens.read(asking(text="x" * TINY), "m", None), Prompt)
    conversation = f"<|im_start|>user\n{LONG}<|im_end|>\n"
    first = lens.read(asking(text=conversation), "m", None)
    assert not isinstance(first, Prompt)
    await first
    again = lens.read(asking(text=conversation + "<|im_start|>assistant\n"), "m", None)
    assert isinstance(again, Prompt)
    assert again.keys == keyed(engine_ids(conversation + "<|im_start|>assistant\n"))
    assert (lens.counts.known, lens.counts.encoded, lens.counts.given_up) == (2, 1, 0)


async def test_a_document_asked_twice_at_once_is_encoded_once() -> None:
    """Whoever comes second waits for the same thread."""
    segments = Held()
    lens = TokenLens(segments, Says(), BLOCK)
    segments.gate.set()
    body = asking(text=LONG)
    first, second = lens.read(body, "m", None), lens.read(body, "m", None)
    assert not isinstance(first, Prompt)
    assert not isinstance(second, Prompt)
    one, two = await asyncio.gather(first, second)
    assert one == two
    assert one.keys == keyed(engine_ids(LONG))
    assert segments.asked == [LONG]


async def test_a_client_that_goes_away_breaks_nothing() -> None:
    """Its stretch is encoded all the same, for the other who waits for it and for those to come."""
    segments = Held()
    lens = TokenLens(segments, Says(), BLOCK)
    body = asking(text=LONG)
    going, staying = asyncio.ensure_future(answer(lens, body)), asyncio.ensure_future(answer(lens, body))
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    segments.gate.set()
    assert (await staying).keys == keyed(engine_ids(LONG))
    assert isinstance(lens.read(body, "m", None), Prompt)
    assert lens.encoding.backlog == 0


async def test_a_backlog_is_not_waited_for() -> None:
    """More than can be encoded in time: the known part of the prompt is keyed, the rest estimated, and counted."""
    segments = Held()
    lens = TokenLens(segments, Says(), BLOCK, Encoding(segments, workers=1))
    segments.gate.set()
    known = f"<s>{LONG}</s>"
    await answer(lens, asking(text=known))
    segments.gate.clear()
    waiting = lens.read(asking(text="other " * 5000), "m", None)
    lens.encoding.short.rate = 1e3
    prompt = lens.read(asking(text=known + "more " * 1000), "m", None)
    assert isinstance(prompt, Prompt)
    ids = engine_ids(known)
    assert prompt.keys == keyed(ids)
    assert prompt.tokens == len(ids) + int(5000 / lens.encoding.characters_per_token)
    assert lens.counts.given_up == 1
    segments.gate.set()
    assert not isinstance(waiting, Prompt)
    await waiting


async def test_a_thread_that_takes_too_long_is_not_waited_for() -> None:
    """After the most that a prompt waits, it goes with what is known; what comes late still helps the next."""
    segments = Held()
    lens = TokenLens(segments, Says(), BLOCK, Encoding(segments, most_seconds=0.01))
    lens.encoding.short.rate = 1e9
    late = await answer(lens, asking(text="<s>" + LONG))
    assert late.keys == []
    assert lens.counts.given_up == 1
    segments.gate.set()
    lens.encoding.most_seconds = 30
    assert (await answer(lens, asking(text="<s>" + LONG))).keys == keyed(engine_ids("<s>" + LONG))


async def test_short_prompts_do_not_wait_for_long_ones() -> None:
    """However many long ones are being encoded, a short one has its keys, and at once by a thread's measure."""
    segments = Held(longer_than=SHORT)
    lens = TokenLens(segments, Says(), BLOCK, Encoding(segments, most_seconds=30))
    long = [asyncio.ensure_future(answer(lens, asking(text=f"{i} " + "x" * SHORT * 4))) for i in range(8)]
    await asyncio.sleep(0)
    for number in range(6):
        text = f"{number} {LONG}"
        async with asyncio.timeout(10):
            assert (await answer(lens, asking(text=text))).keys == keyed(engine_ids(text))
    assert not any(task.done() for task in long)
    segments.gate.set()
    await asyncio.gather(*long)
    lens.close()


async def test_stuck_threads_are_not_waited_for() -> None:
    """The first wait as long as predicted and little more, and once the threads are overdue nobody waits at all."""
    segments = Held()
    lens = TokenLens(segments, Says(), BLOCK, Encoding(segments, most_seconds=30))
    async with asyncio.timeout(10):
        prompts = await asyncio.gather(*(answer(lens, asking(text=f"{number}{LONG}")) for number in range(2)))
        assert [prompt.keys for prompt in prompts] == [[], []]
        while not isinstance(found := lens.read(asking(text="a third " + LONG), "m", None), Prompt):
            found.close()  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
    assert found.tokens > 100
    segments.gate.set()
    lens.close()


async def test_what_was_given_up_is_encoded_for_its_next_turn() -> None:
    """When the threads have nothing else to do; unless there is too much of it."""
    segments = Segments(tokenizer("bytes"))
    lens = TokenLens(segments, Says(), BLOCK, Encoding(segments, most_seconds=0))
    body = asking(text=LONG)
    lens.encoding.short.rate = 1
    assert isinstance(lens.read(body, "m", None), Prompt)
    assert lens.encoding.backlog == 0
    lens.encoding.short.rate = 1e6
    for _ in range(3):
        prompt = lens.read(body, "m", None)
        assert isinstance(prompt, Prompt)
        assert prompt.keys == []
        assert lens.encoding.backlog == len(LONG)
    async with asyncio.timeout(10):
        await asyncio.gather(*(job.future for _, job in lens.encoding._running.values()))
    known = lens.read(body, "m", None)
    assert isinstance(known, Prompt)
    assert known.keys == keyed(engine_ids(LONG))
    assert (lens.counts.given_up, lens.counts.known) == (4, 1)
    lens.close()


class Elsewhere(Says):
    """Notes in which threads prompts are rendered."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def render(self, body: Body) -> Rendered:
        self.threads.append(threading.get_ident())
        return super().render(body)


_huge: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"prompt": "x" * 2_000_000}, {"text": LONG * 20}),
    ({"messages": [{}] * 10_000}, {"text": f"<|im_start|>user\n{LONG}<|im_end|>\n" * 20}),
    ({"messages": [{}] * 10_000}, {"text": "<|im_start|>a<|im_end|>\n" * (MOST_PIECES // 2)}),
    ({"messages": [{}] * 10_000}, {"text": LONG * 20, "add_special_tokens": True}),
    ({}, {"text": "<|im_start|>a<|im_end|>\n" * MOST_PIECES}),
    ({"prompt": list(range(200_000))}, {"ids": list(range(200_000))}),
]


@pytest.mark.parametrize(("fields", "rendered"), _huge)
async def test_huge_prompts_do_not_keep_the_loop(fields: dict[str, Any], rendered: dict[str, Any]) -> None:
    """They are rendered, cut and hashed in a thread, with the same keys as others, and known from then on."""
    renderer = Elsewhere()
    segments = Segments(tokenizer("bytes"))
    lens = TokenLens(segments, renderer, BLOCK, Encoding(segments, most_seconds=30))
    body = asking(**rendered)
    body.fields |= fields
    ids = rendered.get("ids") or engine_ids(rendered["text"], rendered.get("add_special_tokens", False))
    times = 2 if fields else 1  # many pieces are no trouble once they are known
    for _ in range(times):
        found = lens.read(body, "m", None)
        assert not isinstance(found, Prompt)
        prompt = await found
        assert prompt.keys == keyed(ids)
        assert prompt.tokens == len(ids)
        assert renderer.threads[-1] != threading.get_ident()
    assert (lens.counts.known + lens.counts.encoded, lens.counts.given_up) == (times, 0)
    if "text" in rendered:
        assert isinstance(lens.read(asking(**rendered), "m", None), Prompt)
    lens.close()


async def test_huge_prompts_that_take_too_long() -> None:
    """They go without keys, by their size; and while the thread is stuck, the next such one does not wait."""

    class Stuck(Says):
        def __init__(self) -> None:
            self.gate = threading.Event()

        def render(self, body: Body) -> Rendered:
            assert self.gate.wait(30)
            return super().render(body)

    renderer = Stuck()
    segments = Segments(tokenizer("bytes"))
    lens = TokenLens(segments, renderer, BLOCK, Encoding(segments, most_seconds=30))
    body = asking(text="x")
    body.fields["prompt"] = "x" * 2_000_000
    async with asyncio.timeout(10):
        prompts = [await answer(lens, body) for _ in range(3)]
    for prompt in prompts:
        assert prompt.keys == []
        assert prompt.tokens == 2_000_000 / lens.encoding.characters_per_token
        assert prompt.anchor == TextLens().read(body, "m", None).anchor
    assert lens.counts.given_up == 3
    renderer.gate.set()
    lens.close()


async def test_no_more_is_keyed_than_any_context_takes(lens: TokenLens, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind is counted only."""
    monkeypatch.setattr(tokenlens, "MOST_TOKENS", 10)
    prompt = await answer(lens, asking(ids=list(range(21))))
    assert prompt.keys == keyed(list(range(10)))
    assert prompt.tokens == 21
    monkeypatch.setattr(tokenlens, "MOST_CHARACTERS", len(LONG) + 20)
    prompt = await answer(lens, asking(text=f"<s>{LONG}</s>{LONG}"))
    assert prompt.keys == keyed(engine_ids(f"<s>{LONG}</s>"))
    assert prompt.tokens >= int(2 * len(LONG) / lens.encoding.characters_per_token)


async def test_truncation_to_the_models_context(lens: TokenLens) -> None:
    """-1 means as much as the model takes: what fits is whole, of what does not nothing is certain but its length."""
    ids = engine_ids(LONG)
    for context, keys, tokens in ((None, keyed(ids), len(ids)), (len(ids), keyed(ids), len(ids)), (50, [], 50)):
        lens.context_tokens = context
        prompt = await answer(lens, asking(text=LONG, truncate=-1))
        assert (prompt.keys, prompt.tokens) == (keys, tokens)


async def test_a_doubtful_rest_keeps_only_what_it_cannot_change(lens: TokenLens) -> None:
    """Keys end with the last special token that holds whatever follows; the last words may become others."""
    sure = f"<|im_start|>user\n{LONG}<|im_end|>"
    for rest, kept in (("\nsome wo", sure), ("<|a|>", sure), ("<|a|>x", sure + "<|a|>")):
        prompt = await answer(lens, asking(text=sure + rest, whole=False))
        assert prompt.keys == keyed(engine_ids(kept))
    assert lens.counts.partial == 3


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("most", [0, 1, 5, 40, 10_000, -1])
async def test_truncated_prompts(lens: TokenLens, most: int, special: bool) -> None:
    """The engine keeps the last tokens, or the first; its tokenizer never cuts off what it put in front."""
    text = f"<s>{LONG}</s>{LONG}"
    ids = engine_ids(text, special)
    cut = 0 <= most < len(ids)
    expected: dict[str | None, list[int]] = {
        "left": ids[len(ids) - most :] if cut else ids,
        "right": ids[:most] if cut else ids,
        None: [*ids[:special], *ids[len(ids) - most + special :]] if cut else ids,
    }
    for side, kept in expected.items():
        if cut and side is None and most < special:
            continue
        body = asking(text=text, truncate=most, truncation_side=side, add_special_tokens=special)
        for _ in range(2):
            prompt = await answer(lens, body)
            assert prompt.keys == keyed(kept), side
            assert prompt.tokens == max(1, len(kept))


async def test_given_ids_need_no_tokenizer(lens: TokenLens) -> None:
    """They are packed as they are, up to the first that is none."""
    prompt = await answer(lens, asking(ids=list(range(21))))
    assert prompt.keys == keyed(list(range(21)))
    assert prompt.tokens == 21
    broken = await answer(lens, asking(ids=[*range(9), -1, *range(9)]))
    assert broken.keys == keyed(list(range(9)))
    assert (await answer(lens, asking(ids=list(range(21)), truncate=9))).keys == keyed(list(range(12, 21)))


async def test_lists_of_prompts_count_them_all(lens: TokenLens) -> None:
    """The first is keyed; further ones are counted, those given as text by estimate."""
    prompt = await answer(lens, asking(text="Hello", others=("word " * 400, [1, 2, 3])))
    assert prompt.keys == keyed(engine_ids("Hello"))
    assert prompt.tokens == len(engine_ids("Hello")) + int(2000 / lens.encoding.characters_per_token) + 3


async def test_text_that_no_tokenizer_takes_ends_the_keys(lens: TokenLens) -> None:
    """Lone surrogates: what stands before them is keyed, and nothing raises."""
    for much in (1, 2000):
        body = asking(text="")
        body.fields["rendered"] = {"text": f"<s>{LONG}</s>a\ud800" + "b" * much}
        prompt = await answer(lens, body)
        assert prompt.keys == keyed(engine_ids(f"<s>{LONG}</s>"))


async def test_without_pieces_each_prompt_is_encoded_whole(lens: TokenLens) -> None:
    """After a failed check keys are right all the same; a doubtful text then has none."""
    lens.segments.stop_splitting()
    text = f"<|im_start|>user\n{LONG}<|im_end|>\n" * 10
    for special in (False, True):
        prompt = await answer(lens, asking(text=text, add_special_tokens=special))
        assert prompt.keys == keyed(engine_ids(text, special))
    assert (await answer(lens, asking(text=text, whole=False))).keys == []


_bodies: list[tuple[bytes, dict[str, Any]]] = [
    (b"/v1/chat/completions", {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u" * 9}]}),
    (b"/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}], "tools": [{"type": "function"}]}),
    (b"/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}, {}]}),
    (b"/v1/chat/completions", {"messages": []}),
    (b"/v1/chat/completions", {"messages": "nonsense"}),
    (b"/v1/completions", {"prompt": "words " * 4000}),
    (b"/v1/completions", {"prompt": ["first " * 40, "second"]}),
    (b"/v1/completions", {"prompt": list(range(3000))}),
    (b"/v1/completions", {"prompt": [[1, 2, 3], [4]]}),
    (b"/v1/responses", {"instructions": "do", "input": "question"}),
    (b"/v1/responses", {"input": [{"role": "user", "content": "question"}, {"type": "function_call"}]}),
    (b"/v1/messages", {"system": "s", "messages": [{"role": "user", "content": "u"}]}),
    (b"/v1/embeddings", {"input": ["one", "two"]}),
]  # fmt: skip


@pytest.mark.parametrize("adapter", [None, "lora"])
@pytest.mark.parametrize(("path", "fields"), _bodies)
async def test_anchors_equal_the_text_lens(
    lens: TokenLens, path: bytes, fields: dict[str, Any], adapter: str | None
) -> None:
    """Routers that do not talk agree on cold prompts, whichever lens they read with."""
    body = parse(path, orjson.dumps({**fields, "model": "m", "rendered": {}}))
    assert (await answer(lens, body, adapter)).anchor == TextLens().read(body, "m", adapter).anchor


def test_many_turns_read_concurrently_equal_the_engines() -> None:
    """Sixteen conversations that share a system prompt, growing turn by turn, all in flight at once."""

    async def talk(lens: TokenLens, number: int) -> None:
        text = f"<|im_start|>system\n{LONG * 5}<|im_end|>\n"
        for turn in range(6):
            text += f"<|im_start|>user\n{number} {turn} {LONG * (number % 3)}<|im_end|>\n"
            prompt = await answer(lens, asking(text=text + "<|im_start|>assistant\n"))
            assert prompt.keys == keyed(engine_ids(text + "<|im_start|>assistant\n"))

    async def all_of_them() -> None:
        lens = TokenLens(Segments(tokenizer("bytes")), Says(), BLOCK)
        await asyncio.gather(*(talk(lens, number) for number in range(16)))
        assert lens.encoding.backlog == 0
        lens.close()

    asyncio.run(all_of_them())


def test_the_speed_is_learned(lens: TokenLens) -> None:
    """Estimates follow the tokenizer: characters per token of what was encoded."""

    async def some() -> None:
        for number in range(40):
            await answer(lens, asking(text=f"<s>{number}" + LONG * 3))

    asyncio.run(some())
    ratio = len(LONG) / len(engine_ids(LONG))
    assert abs(lens.encoding.characters_per_token / ratio - 1) < 0.1
