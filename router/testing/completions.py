"""/v1/completions and /v1/chat/completions of the stand-in, in vLLM's shapes."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from kvroute.router.testing import replies
from kvroute.router.testing.replies import FINGERPRINT, Head
from kvroute.router.testing.service import Service
from kvroute.router.testing.tokenizer import LONGEST_TOKEN, VOCABULARY
from kvroute.router.testing.wire import (
    Refusal,
    asked_rank,
    check_length,
    check_sampling,
    demand_messages,
    event,
    read_object,
    reply,
    served_model,
)
from kvroute.router.testing.work import Exchange, Piece

_DONE = b"data: [DONE]\n\n"
_NOTHING = {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}


class _Ask(msgspec.Struct):
    """One request, read and checked."""

    chat: bool
    fields: dict[str, Any]
    head: Head
    prompts: list[list[int]]
    copies: int
    """Replies per prompt."""
    return_ids: bool


async def completions(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/completions."""
    fields = await read_object(request)
    model = served_model(fields, service.options)
    prompts = _prompts(service, fields)
    return await _answer(service, request, fields, model, prompts, chat=False)


async def chat_completions(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/chat/completions."""
    fields = await read_object(request)
    messages = demand_messages(fields)
    model = served_model(fields, service.options)
    if not messages:
        raise Refusal(400, "Cannot apply chat template to an empty conversation. Provide at least one message.")
    prompt = service.tokenizer.chat(
        messages,
        fields.get("tools"),
        generation=fields.get("add_generation_prompt", True) is not False,
        open_end=fields.get("continue_final_message") is True,
    )
    return await _answer(service, request, fields, model, [prompt], chat=True)


async def _answer(
    service: Service, request: web.Request, fields: dict[str, Any], model: str, prompts: list[list[int]], *, chat: bool
) -> web.StreamResponse:
    options = service.options
    check_sampling(fields)
    asked_rank(request, service.options)
    longest = max(map(len, prompts))
    check_length(longest, options)
    limit = (fields.get("max_completion_tokens") or fields.get("max_tokens")) if chat else fields.get("max_tokens")
    default = options.output_tokens if chat else replies.COMPLETION_TOKENS
    tokens = replies.output_tokens(limit, default, longest, options)
    fault = replies.ordered_fault(service, request)
    head = replies.head(request, fields, "chatcmpl-" if chat else "cmpl-", model, not chat or limit is not None)
    job = replies.job(request, fields, head, prompts, tokens, options)
    ask = _Ask(chat, fields, head, prompts, job.choices, fields.get("return_token_ids") is True)
    exchange = service.submit(job)
    if fields.get("stream") is True:
        writer = _Stream(service, ask, exchange)
        return await replies.stream(request, service, exchange, fault, writer.render, writer.close)
    choices = await replies.collect(service, exchange)
    return reply(_whole(service, ask, exchange, choices))


def _prompts(service: Service, fields: dict[str, Any]) -> list[list[int]]:
    """The prompts as tokens: `prompt` is a string, token ids, or a list of either."""
    prompt = fields.get("prompt")
    if prompt is None or prompt == "" or prompt == []:
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise Refusal(400, message, param="prompt")
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    prompts = [tokens_of(service, one) for one in (prompt if several else [prompt])]
    if not all(prompts):
        raise Refusal(400, "The decoder prompt cannot be empty")
    return prompts


def tokens_of(service: Service, prompt: object) -> list[int]:
    """One prompt as tokens.

    Raises:
        Refusal: it is far too long, of a wrong type, or names a token that does not exist.
    """
    options = service.options
    if isinstance(prompt, str):
        most = options.context_tokens * LONGEST_TOKEN
        if len(prompt) > most:
            message = (
                f"This model's maximum context length is {options.context_tokens} tokens. However, your prompt "
                f"contains {len(prompt)} characters (more than {most} characters, which is the upper bound for "
                f"{options.context_tokens} input tokens). Please reduce the length of the input prompt. "
                f"(parameter=input_text, value={len(prompt)})"
            )
            raise Refusal(400, message, param="input_text")
        return service.tokenizer.encode(prompt)
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        raise Refusal(400, "prompt must be a string or a list of token ids", "Bad Request", "prompt")
    for token in prompt:
        if not 0 <= token < VOCABULARY:
            raise Refusal(400, f"Token id {token} is out of vocabulary")
    return list(prompt)


def _whole(service: Service, ask: _Ask, exchange: Exchange, choices: list[list[int]]) -> dict[str, Any]:
    """A reply in one piece."""
    made = [_choice(service, ask, index, tokens) for index, tokens in enumerate(choices)]
    generated = sum(map(len, choices))
    body: dict[str, Any] = {
        "id": ask.head.id,
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": ask.head.created,
        "model": ask.head.model,
        "choices": made,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": replies.usage(service, exchange, ask.prompts, generated, stream=False, chat=ask.chat),
    }
    if ask.chat:
        ids = ask.prompts[0] if ask.return_ids else None
        body |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
    return body | _NOTHING


def _choice(service: Service, ask: _Ask, index: int, tokens: list[int]) -> dict[str, Any]:
    text = service.tokenizer.decode(tokens)
    ids = tokens if ask.return_ids else None
    common = {"logprobs": None, "finish_reason": ask.head.finish_reason, "stop_reason": None, "token_ids": ids}
    if not ask.chat:
        prompt = ask.prompts[index // ask.copies] if ask.return_ids else None
        extra = {"prompt_logprobs": None, "prompt_token_ids": prompt, "routed_experts": None}
        return {"index": index, "text": text} | common | extra
    message = {"role": "assistant", "content": text, "refusal": None, "annotations": None}
    message |= {"audio": None, "function_call": None, "reasoning": None}
    return {"index": index, "message": message} | common | {"routed_experts": None}


class _Stream:
    """Writes the chunks of one streamed reply."""

    def __init__(self, service: Service, ask: _Ask, exchange: Exchange) -> None:
        self._service = service
        self._ask = ask
        self._exchange = exchange
        self._usage, self._continuous = replies.wants_usage(service, ask.fields)
        self._generated = 0
        self._open = len(exchange.sequences)
        head = ask.head
        kind = "chat.completion.chunk" if ask.chat else "text_completion"
        self._head = {"id": head.id, "object": kind, "created": head.created, "model": head.model}

    def render(self, piece: Piece) -> list[bytes]:
        """The chunks for one output: one a token."""
        content, first, count, finished = piece
        events = [self._role(content.choice)] if self._ask.chat and first == 0 else []
        for offset in range(first, first + count):
            last = finished and offset == first + count - 1
            prompt = content.tokens[: content.prompt_tokens] if self._ask.return_ids and offset == 0 else None
            token = content.tokens[content.prompt_tokens + offset]
            events.append(self._chunk(content.choice, token, last, prompt))
        return events

    def close(self) -> list[bytes]:
        """What stands behind the last token."""
        if not self._usage:
            return [_DONE]
        told = replies.usage(
            self._service, self._exchange, self._ask.prompts, self._generated, stream=True, chat=self._ask.chat
        )
        return [event(self._head | {"choices": [], "usage": told, "system_fingerprint": FINGERPRINT}), _DONE]

    def _role(self, choice: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        ids = self._ask.prompts[0] if self._ask.return_ids else None
        chunk = self._head | {
            "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}],
            "prompt_token_ids": ids,
            "prompt_text": None,
        }
        return event(chunk)

    def _chunk(self, choice: int, token: int, last: bool, prompt: list[int] | None) -> bytes:
        self._generated += 1
        reason = self._ask.head.finish_reason if last else None
        ids = [token] if self._ask.return_ids else None
        text = self._service.tokenizer.text(token)
        made: dict[str, Any]
        if self._ask.chat:
            made = {"index": choice, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}
            if last:
                made["stop_reason"] = None
        else:
            made = {"index": choice, "text": text, "logprobs": None, "finish_reason": reason, "stop_reason": None}
            made["prompt_token_ids"] = prompt
        made["token_ids"] = ids
        chunk = self._head | {"choices": [made]}
        if self._continuous:
            total = sum(map(len, self._ask.prompts))
            chunk["usage"] = {
                "prompt_tokens": total,
                "total_tokens": total + self._generated,
                "completion_tokens": self._generated,
            }
        self._open -= last
        if last and not self._open and not self._usage:
            chunk["system_fingerprint"] = FINGERPRINT
        return event(chunk)
