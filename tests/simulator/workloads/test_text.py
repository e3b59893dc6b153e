"""Real text for keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

from hypothesis import given
from hypothesis import strategies as st

from kvroute.scorers.contract import Request
from kvroute.simulator.workloads.contract import Job
from kvroute.simulator.workloads.text import WORDS, body, prompt
from tests.simulator.workloads.walked import jobs_of

KEY = 16
KEYS = st.lists(st.integers(1, 6), max_size=5)


def request(name: str, keys: list[int], rest: int = 0) -> Request:
    """A prompt of these keys and so many tokens more."""
    return Request(name, "m", len(keys) * KEY + rest, keys, KEY)


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """Leading elements that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@given(KEYS, KEYS, st.integers(0, KEY - 1), st.integers(0, KEY - 1))
def test_prompts_share_text_where_they_share_keys(one: list[int], other: list[int], rest: int, more: int) -> None:
    """The blocks of words that two prompts have in common at their beginning are those of their common keys."""
    first = prompt(request("a", one, rest), KEY).split()
    second = prompt(request("b", other, more), KEY).split()
    assert common(first, second) // KEY == common(one, other)
    assert (len(first), len(second)) == (len(one) * KEY + rest, len(other) * KEY + more)


def test_words_are_different_and_short() -> None:
    """One byte of a digest chooses one of 256; about four letters and a space each."""
    assert len(set(WORDS)) == len(WORDS) == 256
    assert 4.0 <= sum(len(word) + 1 for word in WORDS) / 256 <= 5.0
    assert all(word.isalpha() and word.islower() for word in WORDS)


def test_a_body_is_a_completion_or_a_chat() -> None:
    """With as many output tokens as the job has, whatever the text."""
    job = Job(0.0, request("a", [1, 2]), 7)
    completion = body(job, KEY)
    assert completion == {
        "model": "m",
        "prompt": prompt(job.request, KEY),
        "max_tokens": 7,
        "ignore_eos": True,
        "stream": False,
    }
    chat = body(job, KEY, model="other", chat=True)
    assert chat["messages"] == [{"role": "user", "content": completion["prompt"]}]
    assert (chat["model"], "prompt" in chat) == ("other", False)


def test_an_adapter_is_the_model_that_a_body_names() -> None:
    """As vLLM has it; and the priority goes along."""
    job = Job(0.0, Request("a", "m", 20, [1], KEY, adapter="lora", priority=3), 7)
    assert body(job, KEY)["model"] == "lora"
    assert body(job, KEY)["priority"] == 3


def test_a_chats_turns_continue_each_other() -> None:
    """A later turn's text begins with the full blocks of the turn before."""
    jobs = jobs_of("chat,systems=1,concurrency=1", requests=20)
    turns = [job for job in jobs if job.request.session == jobs[0].request.session]
    assert len(turns) > 1
    for before, after in pairwise(turns):
        whole = [*before.request.keys, *before.answer_keys]
        assert after.request.keys[: len(whole)] == whole
        text = prompt(before.request, 64).split()[: len(before.request.keys) * 64]
        assert prompt(after.request, 64).split()[: len(text)] == text
