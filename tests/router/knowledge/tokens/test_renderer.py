"""A body's prompts as the engine tokenises them, compared with what the real engine rendered."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvroute.router import parse
from kvroute.router.knowledge.tokens import templates
from kvroute.router.knowledge.tokens.chat import Options
from kvroute.router.knowledge.tokens.rendered import Rendered
from kvroute.router.knowledge.tokens.renderer import Renderer
from kvroute.router.knowledge.tokens.templates import Templates
from tests.router.knowledge.tokens.bodies import CASES, Case
from tests.router.knowledge.tokens.goldens import goldens
from tests.router.knowledge.tokens.styles import SPECIAL_TOKENS, STYLES

CHAT = "/v1/chat/completions"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@cache
def renderer(style: str, options: Options | None = None) -> Renderer:
    return Renderer(templates.of(STYLES[style], SPECIAL_TOKENS), options)


def render(style: str, path: str, body: dict[str, Any]) -> Rendered:
    return renderer(style).render(parse.parse(path.encode(), json.dumps(body).encode()))


def with_options(style: str, body: dict[str, Any], **options: Any) -> Rendered:
    made = Renderer(templates.of(STYLES[style], SPECIAL_TOKENS), Options(**options))
    return made.render(parse.parse(CHAT.encode(), json.dumps(body).encode()))


def asked(*contents: Any, **fields: Any) -> dict[str, Any]:
    """A chat in which user and assistant take turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[turn % 2], "content": each} for turn, each in enumerate(contents)]} | fields


@pytest.mark.parametrize("style", sorted(STYLES))
def test_text_is_the_engines(style: str) -> None:
    """Every body that was given to the real engine is rendered in the same characters."""
    for golden in goldens():
        if golden["style"] == style:
            rendered = render(style, golden["path"], golden["body"])
            assert rendered.whole, golden
            assert rendered.ids is not None or rendered.text == golden["text"], golden


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(STYLES)), CASES, st.data())
def test_never_raises(style: str, case: Case, data: st.DataObject) -> None:
    """Whatever stands in a body's fields, it is rendered or declared not whole, with a reason."""
    path, body = case
    field = data.draw(st.sampled_from([*sorted(body), "tools", "chat_template_kwargs", "system", "instructions"]))
    place: Any = body
    key: Any = field
    while data.draw(st.booleans()) and isinstance(place.get(key) if type(place) is dict else place[key], dict | list):
        place = place[key]
        if not place:
            place, key = body, field
            break
        key = data.draw(st.sampled_from(sorted(place) if type(place) is dict else range(len(place))))
    place[key] = data.draw(JSON)
    rendered = render(style, path, body)
    assert rendered.whole == (not rendered.reason)


@pytest.mark.parametrize(("path", "special"), [(CHAT, False), ("/v1/completions", True), ("/v1/responses", True)])
def test_special_tokens_are_added_as_the_endpoint_does(path: str, special: bool) -> None:
    """Chats carry their special tokens in the text; completions, and this engine's responses, get them in front."""
    body = {"input": "hi"} if path == "/v1/responses" else asked("hi") | {"prompt": "hi"}
    assert render("chatml", path, body).add_special_tokens is special


def test_special_tokens_are_added_as_the_body_says() -> None:
    """`add_special_tokens` in the body decides."""
    assert render("chatml", CHAT, asked("hi", add_special_tokens=True)).add_special_tokens
    assert not render("chatml", "/v1/completions", {"prompt": "a", "add_special_tokens": False}).add_special_tokens


def test_further_prompts_are_told_apart() -> None:
    """Of a list of prompts the first is rendered, the others are kept for their counts."""
    rendered = render("chatml", "/v1/completions", {"prompt": ["one", "two", "three"]})
    assert (rendered.text, rendered.others) == ("one", ("two", "three"))
    rendered = render("chatml", "/v1/embeddings", {"input": [[1, 2], [3]]})
    assert (rendered.ids, rendered.others, rendered.text) == ([1, 2], ([3],), "")


def test_truncation_is_told() -> None:
    """How many tokens the engine keeps, and of which end where the body says so."""
    rendered = render("chatml", CHAT, asked("hi", truncate_prompt_tokens=7, truncation_side="right"))
    assert (rendered.truncate, rendered.truncation_side) == (7, "right")
    assert render("chatml", "/v1/responses", {"input": "hi", "truncation": "auto"}).truncate == -1


def test_text_ends_before_the_first_picture() -> None:
    """A template that walks through parts: the text up to what it writes for the picture is known, and no more."""
    body = asked("first", "answer", [{"type": "text", "text": "look: "}, PICTURE, {"type": "text", "text": "what?"}])
    rendered = render("vision", CHAT, body)
    assert rendered.text.endswith("<|im_start|>user\nlook: ")
    assert not rendered.whole


def test_text_ends_before_a_message_with_a_picture() -> None:
    """A template that takes text: the engine puts a placeholder in front of the message's text."""
    rendered = render("chatml", CHAT, asked("first", "answer", [{"type": "text", "text": "look: "}, PICTURE]))
    assert rendered.text.endswith("answer<|im_end|>\n<|im_start|>user\n")
    assert not rendered.whole


def test_a_picture_that_changes_what_stands_before_it() -> None:
    """A template that writes something else at the top where there is a picture is known only up to there."""
    source = (
        "A{% set ns = namespace(seen=false) %}{% for m in messages %}{% for part in m.content %}"
        "{% if part.type == 'image' %}{% set ns.seen = true %}{% endif %}{% endfor %}{% endfor %}"
        "{{ 'pictures' if ns.seen else 'text only' }}{% for m in messages %}{% for part in m.content %}"
        "{{ part.text if part.type == 'text' else '<image>' }}{% endfor %}{% endfor %}"
    )
    body = json.dumps(asked([{"type": "text", "text": "look"}, PICTURE])).encode()
    rendered = Renderer(templates.of(source)).render(parse.parse(CHAT.encode(), body))
    assert (rendered.text, rendered.whole) == ("A", False)


def test_a_template_in_the_request_is_not_rendered() -> None:
    """The engine refuses it unless told to trust clients, and nothing is known of the text then."""
    rendered = render("chatml", CHAT, asked("hi", chat_template="{{ 1 }}"))
    assert (rendered.text, rendered.whole) == ("", False)


def test_refusals_are_counted_by_reason() -> None:
    """What could not be rendered shows in the renderer's counts, once it is noted."""
    made = Renderer(templates.of(STYLES["instruct"], SPECIAL_TOKENS))
    body = json.dumps(asked("hi") | {"messages": [{"role": "assistant", "content": "me first"}]}).encode()
    made.note(made.render(parse.parse(CHAT.encode(), body)))
    made.note(made.render(parse.parse(b"/v1/completions", b'{"prompt_embeds": "AAAA"}')))
    made.note(made.render(parse.parse(b"/v1/completions", b'{"prompt": "whole"}')))
    assert made.faults == {"the template: TemplateError": 1, "prompt embeddings": 1}


def test_a_model_without_templates_still_renders_completions() -> None:
    """Chats are refused with the reason; prompts need no template."""
    made = Renderer(Templates(unsupported="it speaks harmony"))
    assert made.render(parse.parse(b"/v1/completions", b'{"prompt": "a"}')).text == "a"
    rendered = made.render(parse.parse(CHAT.encode(), json.dumps(asked("hi")).encode()))
    assert (rendered.whole, rendered.reason) == (False, "it speaks harmony")


def test_the_engines_flags_are_followed() -> None:
    """Default variables, the format of contents and hidden tools change the text as they change the engine's."""
    body = asked("hi")
    plain = with_options("qwen", body).text
    assert with_options("qwen", body, template_variables={"enable_thinking": False}).text != plain
    assert with_options("dump", body).text.startswith('{"role": "user", "content": "hi"}')
    assert '[{"type": "text", "text": "hi"}]' in with_options("dump", body, content_format="openai").text
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}
    assert (
        with_options("qwen", body | tools, exclude_tools_when_none=True).text
        == plain
        != with_options("qwen", body | tools).text
    )


def test_variables_that_are_null() -> None:
    """Do not reach a template, except those of responses, which the engine takes for its defaults as well."""
    made = Renderer(templates.of("{{ x is defined }}"))
    for path, body, seen in ((CHAT, asked("hi"), "False"), ("/v1/responses", {"input": "hi"}, "True")):
        data = json.dumps(body | {"chat_template_kwargs": {"x": None}}).encode()
        assert made.render(parse.parse(path.encode(), data)).text == seen


def test_tools_choose_their_template() -> None:
    """A model with a template of its own for tools uses it for requests with tools only."""
    made = Renderer(templates.of({"default": "plain", "tool_use": "tools"}))
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert [
        made.render(parse.parse(CHAT.encode(), json.dumps(body).encode())).text
        for body in (asked("hi"), asked("hi", **tools))
    ] == ["plain", "tools"]


def test_thinking_is_switched_off_as_the_template_allows() -> None:
    """`/v1/messages` with thinking disabled says "none" to templates that take notice, and "low" to the others."""
    body = asked("hi", max_tokens=5, thinking={"type": "disabled"})
    assert "<think>\n\n</think>" in render("qwen", "/v1/messages", body).text
    assert "effort none" in render("macro", "/v1/messages", body).text
    source = "{% if reasoning_effort == 'none' %}{{ raise_exception('none?') }}{% endif %}{{ reasoning_effort }}"
    made = Renderer(templates.of(source))
    assert made.render(parse.parse(b"/v1/messages", json.dumps(body).encode())).text == "low"


def test_the_body_is_left_as_it_was() -> None:
    """Rendering changes nothing in the parsed body: it may be sent on."""
    for golden in goldens()[::7]:
        body = parse.parse(golden["path"].encode(), json.dumps(golden["body"]).encode())
        renderer(golden["style"]).render(body)
        assert body.fields == golden["body"]
