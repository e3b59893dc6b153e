"""The real engine's own rendering, without an engine: run by the interpreter of its environment.

python render_oracle.py FOLDER      standard input: a JSON list of [template, path, body]; output: a list of answers
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import cache
from typing import Any

import jinja2
from vllm.config import ModelConfig, VllmConfig
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tokenizers.registry import cached_tokenizer_from_config

REFUSALS = (VLLMValidationError, ValueError, TypeError, LookupError, AttributeError, jinja2.TemplateError)
"""What the engine answers with an error."""

CONFIG = ModelConfig(model=sys.argv[1], max_model_len=4096)
RENDERER = HfRenderer(VllmConfig(model_config=CONFIG), cached_tokenizer_from_config(CONFIG))


@cache
def online(template: str) -> OnlineRenderer:
    """What a server with this `--chat-template` renders with."""
    return OnlineRenderer(
        CONFIG, RENDERER, request_logger=None, chat_template=template, chat_template_content_format="auto"
    )


@cache
def anthropic(template: str) -> AnthropicServingMessages:
    """Only that part of its handler of `/v1/messages` which converts and renders."""
    handler = AnthropicServingMessages.__new__(AnthropicServingMessages)
    handler.online_renderer = online(template)
    handler.model_config = CONFIG
    handler._disabled_thinking_effort = None
    return handler


async def chat(template: str, request: ChatCompletionRequest) -> list[Any]:
    request.tool_choice = "none"  # "auto" asks for a parser of the model's tool calls, which changes no prompt
    rendered = await online(template).render_chat(request)
    return list(rendered[1]) if isinstance(rendered, tuple) else []


async def inputs(template: str, path: str, body: dict[str, Any]) -> list[Any]:
    """What the engine would be given; empty where the body is answered with an error."""
    if path == "/v1/chat/completions":
        return await chat(template, ChatCompletionRequest.model_validate(body))
    if path == "/v1/completions":
        completed = await online(template).render_completion(CompletionRequest.model_validate(body))
        return completed if isinstance(completed, list) else []
    if path == "/v1/responses":
        responded = await online(template).render_responses(ResponsesRequest.model_validate(body))
        return [responded.engine_input] if hasattr(responded, "engine_input") else []
    handler = anthropic(template)
    request = handler.to_chat_completion_request(
        AnthropicMessagesRequest.model_validate(body | {"model": "m"}),
        merge_inline_system=handler._should_merge_inline_system(online(template)),
        disabled_thinking_effort=await handler._get_disabled_thinking_effort(),
    )
    return await chat(template, request)


async def answer(template: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        given = await inputs(template, path, body)
    except REFUSALS as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if not given:
        return {"error": "refused"}
    return {"text": given[0].get("prompt") or "", "ids": [list(each["prompt_token_ids"]) for each in given]}


async def main() -> None:
    cases = json.load(sys.stdin)
    answers = [await answer(*case) for case in cases]
    json.dump(answers, sys.stdout)


asyncio.run(main())
