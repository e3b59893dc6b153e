"""The stand-in's tokenizer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvroute.router.testing.tokenizer import END, LONGEST_TOKEN, START, VOCABULARY, Tokenizer


@given(st.text())
def test_every_text_has_the_same_tokens_each_time(text: str) -> None:
    """Two tokenizers agree on any text, and no token id leaves the vocabulary or stands for too much."""
    tokens = Tokenizer().encode(text)
    assert tokens == Tokenizer().encode(text)
    assert all(0 <= token < VOCABULARY for token in tokens)
    assert len(text) <= len(tokens) * LONGEST_TOKEN


def test_english_is_about_four_bytes_a_token() -> None:
    """Prose costs between 3.5 and 5 bytes a token."""
    text = "The router sends each request to the replica that already holds the cache of its prefix, unless it is busy."
    assert 3.5 < len(text) / len(Tokenizer().encode(text)) < 5


def test_generated_text_tokenises_to_what_was_generated() -> None:
    """A reply that is sent back in the next turn has the tokens that are in the cache."""
    tokenizer = Tokenizer()
    tokens = tokenizer.generate(3, 200)
    assert tokenizer.encode(tokenizer.decode(tokens)) == tokens
    assert tokens != tokenizer.generate(4, 200)


def test_the_next_turn_starts_with_the_tokens_of_the_last() -> None:
    """A conversation, its reply and a new question extend the prompt and the generated tokens, token by token."""
    tokenizer = Tokenizer()
    first = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "who are you?"}]
    prompt = tokenizer.chat(first)
    output = tokenizer.generate(1, 20)
    reply = {"role": "assistant", "content": tokenizer.decode(output)}
    second = tokenizer.chat([*first, reply, {"role": "user", "content": "and then?"}])
    assert second[: len(prompt) + len(output)] == prompt + output


def test_chats_render_tools_parts_and_open_ends() -> None:
    """Tools come first, parts of a content are joined, and a continued message is not closed."""
    tokenizer = Tokenizer()
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    plain = tokenizer.chat([{"role": "user", "content": "one two"}])
    assert tokenizer.chat([{"role": "user", "content": parts}]) == plain
    tools = tokenizer.chat([{"role": "user", "content": "one two"}], tools=[{"name": "f"}])
    assert tools[-len(plain) :] == plain
    assert tools[0] == START
    assert len(tools) > len(plain)
    open_end = tokenizer.chat([{"role": "assistant", "content": "one"}], generation=False, open_end=True)
    assert open_end[-1] != END
    assert END not in open_end


def test_unknown_ids_have_a_text() -> None:
    """Any id can be decoded; special tokens have no text."""
    assert Tokenizer().decode([START, 77777, END]) == " t12fd1"
