"""/v1/messages of the stand-in: Anthropic's shape, as vLLM serves it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from kvroute.router.testing import replies
from kvroute.router.testing.replies import Head
from kvroute.router.testing.service import Service
from kvroute.router.testing.tokenizer import content_text
from kvroute.router.testing.wire import (
    asked_rank,
    check_length,
    check_sampling,
    demand,
    demand_messages,
    named_event,
    read_object,
    reply,
    served_model,
)
from kvroute.router.testing.work import Exchange, Piece


async def messages(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/messages."""
    fields = await read_object(request)
    prompt = _prompt(service, fields)
    limit = demand(fields, "max_tokens")
    model = served_model(fields, service.options)
    check_sampling(fields)
    asked_rank(request, service.options)
    check_length(len(prompt), service.options)
    tokens = replies.output_tokens(limit, service.options.output_tokens, len(prompt), service.options)
    fault = replies.ordered_fault(service, request)
    head = replies.head(request, fields, "chatcmpl-", model, limited=True)
    exchange = service.submit(replies.job(request, fields, head, [prompt], tokens, service.options))
    answer = _Answer(service, head, len(prompt), exchange)
    if fields.get("stream") is True:
        return await replies.stream(request, service, exchange, fault, answer.render, answer.close)
    (generated,) = await replies.collect(service, exchange)
    text = {"type": "text", "text": service.tokenizer.decode(generated)}
    return reply(answer.message([text], "max_tokens", len(generated)))


async def count_tokens(service: Service, request: web.Request) -> web.Response:
    """POST /v1/messages/count_tokens."""
    fields = await read_object(request)
    served_model(fields, service.options)
    count = len(_prompt(service, fields))
    return reply({"input_tokens": count, "context_management": {"original_input_tokens": count}})


def _prompt(service: Service, fields: dict[str, Any]) -> list[int]:
    turns = list(demand_messages(fields))
    if fields.get("system"):
        turns.insert(0, {"role": "system", "content": content_text({"content": fields["system"]})})
    return service.tokenizer.chat(turns, fields.get("tools"))


class _Answer:
    """Builds one message and the events of its stream."""

    def __init__(self, service: Service, head: Head, prompt_tokens: int, exchange: Exchange) -> None:
        self._service = service
        self._head = head
        self._prompt_tokens = prompt_tokens
        self._exchange = exchange
        self._generated = 0

    def message(self, content: list[dict[str, Any]], stop_reason: str | None, generated: int) -> dict[str, Any]:
        """The message object."""
        return {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._head.model,
            "stop_reason": stop_reason,
            "usage": self._usage(generated),
        }

    def render(self, piece: Piece) -> list[bytes]:
        """One delta a token; before the first, the message's start."""
        content, first, count, _ = piece
        events = self._opening() if first == 0 else []
        for index in range(first, first + count):
            self._generated += 1
            text = self._service.tokenizer.text(content.tokens[content.prompt_tokens + index])
            delta = {"type": "text_delta", "text": text}
            events.append(named_event({"type": "content_block_delta", "index": 0, "delta": delta}))
        return events

    def close(self) -> list[bytes]:
        """What ends a stream."""
        end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": self._usage(self._generated)}
        return [
            named_event({"type": "content_block_stop", "index": 0}),
            named_event(end),
            named_event({"type": "message_stop"}),
        ]

    def _opening(self) -> list[bytes]:
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return [
            named_event({"type": "message_start", "message": self.message([], None, 0)}),
            named_event(block),
        ]

    def _usage(self, generated: int) -> dict[str, int]:
        cached = self._exchange.cached_tokens if self._service.options.enable_prompt_tokens_details else 0
        return {
            "input_tokens": self._prompt_tokens - cached,
            "output_tokens": generated,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
        }
