"""A user's program on the official `openai` client, run by the interpreter of the engine's environment.

python openai_client.py BASE_URL MODEL      prints one JSON object of what the client made of the answers
"""

from __future__ import annotations

import asyncio
import json
import sys

import openai
from openai import AsyncOpenAI, OpenAI

QUESTION = [{"role": "system", "content": "Answer in one line."}, {"role": "user", "content": "What is a prefix?"}]
FIXED = {"temperature": 0, "seed": 7, "max_tokens": 24}


def plain(client: OpenAI, model: str) -> dict[str, object]:
    """A chat answer, a completion and the list of models."""
    chat = client.chat.completions.create(model=model, messages=QUESTION, **FIXED)
    text = client.completions.create(model=model, prompt="def prefix(", **FIXED)
    return {
        "chat": chat.choices[0].message.content,
        "finish_reason": chat.choices[0].finish_reason,
        "completion_tokens": chat.usage.completion_tokens,
        "text": text.choices[0].text,
        "models": [entry.id for entry in client.models.list()],
    }


def streamed(client: OpenAI, model: str) -> dict[str, object]:
    """The same chat as a stream with usage, put together again."""
    words, usage = [], None
    stream = client.chat.completions.create(
        model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True}, **FIXED
    )
    for chunk in stream:
        words += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    return {"streamed": "".join(words), "streamed_tokens": usage.completion_tokens if usage else None}


def refused(client: OpenAI, model: str) -> dict[str, object]:
    """The exceptions that the client raises for an unknown model and for a bad parameter."""
    raised = {}
    for case, name, limit in (("unknown model", "nobody", 4), ("bad parameter", model, -1)):
        try:
            client.chat.completions.create(model=name, messages=QUESTION, max_tokens=limit)
        except openai.APIStatusError as error:
            raised[case] = [type(error).__name__, error.status_code, bool(error.message)]
    return {"raised": raised}


async def concurrent(base_url: str, model: str) -> dict[str, object]:
    """Eight streams at once on one asynchronous client."""
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=600) as client:

        async def one(number: int) -> str:
            question = [{"role": "user", "content": f"Count from {number}."}]
            stream = await client.chat.completions.create(model=model, messages=question, stream=True, **FIXED)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(one(number) for number in range(8)))
    return {"concurrent": answers}


def main() -> None:
    """Everything on one base URL, in one JSON object."""
    base_url, model = sys.argv[1:]
    with OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=600) as client:
        seen = plain(client, model) | streamed(client, model) | refused(client, model)
    seen |= asyncio.run(concurrent(base_url, model))
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
