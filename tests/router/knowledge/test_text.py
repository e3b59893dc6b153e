"""The text lens: equal beginnings give equal keys, on every path, and odd bodies never raise."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router.core import blocks
from kvroute.router.knowledge import canonical
from kvroute.router.knowledge.text import Prompt, TextLens
from kvroute.router.parse import PATHS, Body, Kind, parse

LONG = "The quick brown fox jumps over the lazy dog. " * 60  # 2,700 bytes, five blocks


def body(path: str, /, **fields: Any) -> Body:
    """A body as it would arrive at a path."""
    return parse(path.encode(), orjson.dumps({"model": "m", **fields}))


def read(path: str, /, **fields: Any) -> Prompt:
    """One prompt through a fresh lens."""
    return TextLens().read(body(path, **fields), "m", None)


def chat(*messages: Any, **fields: Any) -> Prompt:
    """A chat prompt through a fresh lens."""
    return read("/v1/chat/completions", messages=list(messages), **fields)


def shared(one: Prompt, other: Prompt) -> int:
    """How many leading blocks two prompts share; later ones must all differ."""
    same = [a == b for a, b in zip(one.keys, other.keys, strict=False)]
    assert same == sorted(same, reverse=True)
    return sum(same)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_a_text_prompt_is_keyed_by_its_bytes() -> None:
    """A completion's keys are those of its UTF-8 text; the estimate is four bytes a token at first."""
    prompt = read("/v1/completions", prompt=LONG)
    assert prompt.keys == blocks.extend(blocks.root("m", None, None), LONG.encode(), 512)
    assert (prompt.tokens, prompt.block_tokens, prompt.text_bytes) == (675, 128.0, 2700)


def test_model_adapter_and_salt_part_prompts() -> None:
    """Equal texts share nothing across models, adapters or cache salts."""
    lens = TextLens()
    plain = lens.read(body("/v1/completions", prompt=LONG), "m", None)
    others = [
        lens.read(body("/v1/completions", prompt=LONG), "n", None),
        lens.read(body("/v1/completions", prompt=LONG), "m", "lora"),
        lens.read(body("/v1/completions", prompt=LONG, cache_salt="s"), "m", None),
    ]
    assert [shared(plain, other) for other in others] == [0, 0, 0]


def test_a_conversation_keeps_its_beginning() -> None:
    """The next turn shares every full block of the last one, whatever the lens has seen before."""
    lens = TextLens()
    messages: list[Any] = [{"role": "system", "content": LONG}]
    last: list[int] = []
    for turn in range(12):
        messages += [user(f"{turn} " + LONG), {"role": "assistant", "content": "yes" * turn}]
        keys = lens.read(body("/v1/chat/completions", messages=messages), "m", None).keys
        assert keys[: len(last)] == last
        assert keys == chat(*messages).keys
        last = keys


def test_roles_names_tools_and_calls_are_part_of_the_prompt() -> None:
    """What templates render beside the text parts prompts from there on."""
    base = chat(user(LONG), user(LONG))
    tools = [{"type": "function", "function": {"name": "f"}}]
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert shared(base, chat({"role": "system", "content": LONG}, user(LONG))) == 0
    assert shared(base, chat(user(LONG), user(LONG), tools=tools)) == 0
    assert shared(base, chat(user(LONG), {**user(LONG), "name": "ada"})) >= 9
    assert shared(chat(user(LONG), {"role": "assistant", "tool_calls": calls}, user(LONG)), base) == 5
    assert shared(base, chat(user(LONG), {"role": "tool", "tool_call_id": "1", "content": LONG})) == 5


def test_parts_of_text_are_the_text() -> None:
    """Content as one text part is keyed as plain content, and a cache marker changes nothing."""
    part = {"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}
    assert chat(user([part])).keys == chat(user(LONG)).keys


def test_an_image_parts_prompts_where_it_stands() -> None:
    """Another picture: equal before it, different from it on; it takes the room of its tokens."""

    def pictured(url: str) -> Prompt:
        return chat(
            user(LONG), user([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": LONG}])
        )

    assert shared(pictured("data:a"), pictured("data:a")) == len(pictured("data:a").keys)
    assert shared(pictured("data:a"), pictured("data:b")) == 5
    assert pictured("data:a").tokens - chat(user(LONG), user(LONG)).tokens == pytest.approx(512, abs=4)


def test_token_ids_are_counted_exactly() -> None:
    """A prompt of ids has its own number of tokens, and a block of them stands for 128."""
    ids = list(range(1000, 1300))
    prompt = read("/v1/completions", prompt=ids)
    assert (prompt.tokens, prompt.block_tokens, len(prompt.keys), prompt.text_bytes) == (300, 128.0, 2, 0)
    assert shared(prompt, read("/v1/completions", prompt=[*ids[:200], 5, *ids[201:]])) == 1


def test_a_list_of_prompts_keys_the_first_and_counts_all() -> None:
    """One lease carries them all, and follows the first."""
    one = read("/v1/completions", prompt=LONG)
    many = read("/v1/completions", prompt=[LONG, LONG, "x"])
    assert many.keys == one.keys
    assert many.tokens == (2 * 2700 + 1) // 4
    assert read("/v1/embeddings", input=[[1, 2, 3], [4, 5]]).tokens == 5


def test_other_paths_speak_their_own_shapes() -> None:
    """Responses and messages API: instructions or system, then tools' prompts, in the same canonical form."""
    system = {"role": "system", "content": LONG}
    expected = chat(system, user("hi " + LONG)).keys
    assert read("/v1/responses", instructions=LONG, input="hi " + LONG).keys == expected
    items = [user([{"type": "input_text", "text": "hi " + LONG}])]
    assert read("/v1/responses", instructions=LONG, input=items).keys == expected
    assert read("/v1/messages", system=LONG, messages=[user("hi " + LONG)]).keys == expected
    blocks_of_text = [{"type": "text", "text": LONG}]
    assert read("/v1/messages", system=blocks_of_text, messages=[user("hi " + LONG)]).keys == expected
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    done = {"type": "function_call_output", "call_id": "1", "output": LONG}
    talk = read("/v1/responses", input=[user(LONG), {**call, "id": "x", "status": "completed"}, done])
    assert talk.keys == read("/v1/responses", input=[user(LONG), call, done]).keys
    assert shared(talk, read("/v1/responses", input=[user(LONG), {**call, "name": "g"}, done])) == 5


def test_a_tool_result_is_keyed_by_its_content() -> None:
    """The messages API's tool results part prompts by what they say."""

    def answered(text: str) -> Prompt:
        result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": text}]}
        return read("/v1/messages", messages=[user(LONG), user([result]), user(LONG)])

    assert shared(answered("a"), answered("a")) == len(answered("a").keys)
    assert shared(answered("a"), answered("b")) == 5


def test_a_continued_response_is_not_keyed() -> None:
    """With `previous_response_id` the prompt begins with what only the replica knows."""
    assert read("/v1/responses", input=LONG, previous_response_id="resp_1").keys == []


def test_the_anchor_is_what_the_user_wrote_first() -> None:
    """Adapter and the first 100 characters of the first user message; the rest does not matter."""
    first = "x" * 100
    one = chat({"role": "system", "content": "a"}, user(first + "1"))
    other = chat({"role": "system", "content": "b"}, user([{"type": "text", "text": first + "2"}]), user("more"))
    assert one.anchor == other.anchor == read("/v1/completions", prompt=first + "3").anchor
    assert one.anchor != chat(user("y" * 100)).anchor
    assert one.anchor != TextLens().read(body("/v1/completions", prompt=first), "m", "lora").anchor


def test_lone_surrogates_are_text() -> None:
    """JSON may carry them; the prompt is keyed all the same."""
    path = b"/v1/chat/completions"
    raw = json.dumps({"messages": [user("\ud800" + LONG), {**user("x"), "name": "\udc00"}]}).encode()
    prompt = TextLens().read(parse(path, raw), "m\ud800", "a\ud800")
    assert len(prompt.keys) == 5


def test_reading_ends_at_the_first_doubtful_part() -> None:
    """A message that the engine will refuse is not keyed, and nothing behind it."""
    for doubtful in (user(5), user([7]), {"role": 3, "content": "x"}, "x", user([{"type": "text", "text": None}]), {}):
        prompt = chat(user(LONG), doubtful, user(LONG))
        assert prompt.keys == chat(user(LONG)).keys


def test_ids_are_keyed_up_to_the_first_that_is_none() -> None:
    """A float, a negative or a huge id ends the reading."""
    for odd in (1.5, -1, 1 << 40, "x", None):
        assert len(read("/v1/completions", prompt=[*range(200), odd, *range(200)]).keys) == 1


def test_deeply_nested_json_does_not_raise() -> None:
    """Nesting to the parser's limit is read, or left as doubtful."""
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    inner: Any = "x"
    for _ in range(200):
        inner = [{"type": "tool_result", "content": inner}]
    for fields in ({"tools": deep}, {"messages": [user(deep)]}, {"messages": [user(inner)]}):
        data = b'{"model":"m",' + json.dumps(fields).encode()[1:]
        assert TextLens().read(parse(b"/v1/chat/completions", data), "m", None).tokens >= 1


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**70), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "image_url",
                    "url",
                    "source",
                    "tool_calls",
                    "name",
                    "input",
                    "output",
                ]
            ),
            st.one_of(inner, st.sampled_from(["text", "image_url", "tool_result", "input_text", "function_call"])),
            max_size=5,
        ),
    ),
    max_leaves=25,
)
FIELDS = ["messages", "prompt", "input", "system", "instructions", "tools", "documents", "previous_response_id"]


@given(st.sampled_from(sorted(PATHS)), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
@settings(max_examples=400, deadline=None)
def test_no_json_raises(path: bytes, fields: dict[str, Any]) -> None:
    """Any JSON object is read; the same object always alike."""
    made = Body(PATHS[path], fields, None, False, 1, None, 0, None, None)
    assert TextLens().read(made, "m", None) == TextLens().read(made, "m", None)


texts = st.text(alphabet="aé\U0001f600\ud800", max_size=3).map(lambda text: text * 900)
turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "tool"]), texts, st.booleans()).map(
        lambda made: {"role": made[0], "content": [{"type": "text", "text": made[1]}] if made[2] else made[1]}
    ),
    max_size=6,
)


@given(st.lists(st.tuples(turns, st.integers(0, 6)), min_size=1, max_size=6), st.sampled_from([64, 512]))
@settings(max_examples=100, deadline=None)
def test_a_used_lens_keys_as_a_fresh_one(talks: list[tuple[list[Any], int]], size: int) -> None:
    """Incremental hashing over turns and branches equals hashing the joined canonical bytes at once."""
    lens = TextLens(size)
    said: list[Any] = []
    for messages, kept in talks:
        said = said[:kept] + messages
        made = Body(Kind.CHAT, {"messages": said}, "m", False, 1, None, 0, None, None)
        whole = b"".join(canonical.read(made).pieces)
        assert lens.read(made, "m", None).keys == blocks.extend(blocks.root("m", None, None), whole, size)


def test_tokens_follow_what_the_engine_counts() -> None:
    """Once the engine has shown two bytes a token, estimates follow, and a block stands for more tokens."""
    lens = TextLens()
    for _ in range(200):
        lens.observe("m", 10_000, 5_000)
    prompt = lens.read(body("/v1/completions", prompt=LONG), "m", None)
    assert prompt.tokens == pytest.approx(1350, rel=0.05)
    assert prompt.block_tokens == pytest.approx(256, rel=0.05)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/responses", {"input": LONG, "previous_response_id": "resp_1"}),
        ("/v1/responses", {"input": LONG, "previous_input_messages": [user(LONG)]}),
        ("/v1/responses", {"input": [user(LONG), {"type": "reasoning", "encrypted_content": LONG}]}),
        ("/v1/chat/completions", {"messages": [user([{"type": "image_url", "image_url": {"url": "data:a"}}])]}),
        ("/v1/chat/completions", {"messages": [user([{"type": "text", "text": LONG}, {"type": "other", "x": 1}])]}),
        ("/v1/chat/completions", {"messages": [user(LONG)], "chat_template": "{{ messages }}" * 99}),
        ("/v1/chat/completions", {"messages": [user(LONG)], "truncate_prompt_tokens": 10}),
        ("/v1/chat/completions", {"messages": [user(LONG), 7]}),
        ("/v1/messages", {"messages": [user([{"type": "tool_result", "content": [{"type": "image", "source": {}}]}])]}),
        ("/v1/completions", {"prompt": LONG, "prompt_embeds": "AAAA"}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
        ("/v1/embeddings", {"input": [LONG, [1, 2, 3]]}),
        ("/v1/embeddings", {"input": [LONG, 3]}),
    ],
)
def test_what_the_engine_counts_otherwise_teaches_nothing(path: str, fields: dict[str, Any]) -> None:
    """Where a prompt is not its text alone, its tokens say nothing of bytes per token, yet they are estimated."""
    prompt = read(path, **fields)
    assert prompt.text_bytes == 0
    assert prompt.tokens >= 3


def test_text_beside_messages_teaches() -> None:
    """Tools, calls and their results are text to the engine."""
    tools = [{"type": "function", "function": {"name": "f", "description": LONG}}]
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": LONG}]}
    done = {"type": "function_call_output", "call_id": "1", "output": LONG}
    assert chat(user(LONG), tools=tools, chat_template=None).text_bytes > 5400
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": LONG}}]}
    assert read("/v1/messages", messages=[user(LONG), call, user([result])]).text_bytes > 8100
    assert read("/v1/responses", input=[user(LONG), done]).text_bytes > 5400
    assert read("/v1/completions", prompt=[LONG, LONG]).text_bytes == 5400
