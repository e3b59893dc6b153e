"""/v1/responses of the stand-in: one message of text, streamed or whole; replies are kept so that turns can follow."""

from __future__ import annotations

import secrets
from typing import Any

from aiohttp import web

from kvroute.router.testing import replies
from kvroute.router.testing.replies import Head
from kvroute.router.testing.service import Service
from kvroute.router.testing.wire import (
    Refusal,
    asked_rank,
    check_length,
    check_sampling,
    demand,
    named_event,
    read_object,
    reply,
    served_model,
)
from kvroute.router.testing.work import Exchange, Piece


async def responses(service: Service, request: web.Request) -> web.StreamResponse:
    """POST /v1/responses."""
    fields = await read_object(request)
    demand(fields, "input")
    model = served_model(fields, service.options)
    check_sampling(fields)
    asked_rank(request, service.options)
    messages = _conversation(service, fields)
    prompt = service.tokenizer.chat(messages, fields.get("tools"))
    check_length(len(prompt), service.options)
    limit = fields.get("max_output_tokens")
    tokens = replies.output_tokens(limit, service.options.output_tokens, len(prompt), service.options)
    fault = replies.ordered_fault(service, request)
    head = replies.head(request, fields, "resp_", model, limit is not None)
    exchange = service.submit(replies.job(request, fields, head, [prompt], tokens, service.options))
    answer = _Answer(service, fields, head, len(prompt), tokens, exchange)
    if fields.get("stream") is True:
        response = await replies.stream(
            request, service, exchange, fault, answer.render, answer.close, answer.opening()
        )
    else:
        (generated,) = await replies.collect(service, exchange)
        answer.text = service.tokenizer.decode(generated)
        response = reply(answer.finished())
    said = {"role": "assistant", "content": answer.text}
    service.kept.keep(answer.finished(), [*messages, said])
    return response


async def response_by_id(service: Service, request: web.Request) -> web.Response:
    """GET /v1/responses/{id}: a reply that this engine made."""
    body, _ = service.kept.find(request.match_info["id"])
    return reply(body)


async def cancel_response(service: Service, request: web.Request) -> web.Response:
    """POST /v1/responses/{id}/cancel: only background replies can be cancelled, and there are none."""
    service.kept.find(request.match_info["id"])
    raise Refusal(400, "Cannot cancel a synchronous response.", "invalid_request_error", "response_id")


def _conversation(service: Service, fields: dict[str, Any]) -> list[dict[str, Any]]:
    previous = fields.get("previous_response_id")
    messages = list(service.kept.find(previous)[1]) if isinstance(previous, str) else []
    if fields.get("instructions"):
        messages.insert(0, {"role": "system", "content": fields["instructions"]})
    given = fields["input"]
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    return messages + [item for item in given if isinstance(item, dict)]


class _Answer:
    """Builds one reply and the events of its stream."""

    def __init__(
        self, service: Service, fields: dict[str, Any], head: Head, prompt_tokens: int, tokens: int, exchange: Exchange
    ) -> None:
        self._service = service
        self._fields = fields
        self._head = head
        self._prompt_tokens = prompt_tokens
        self._tokens = tokens
        self._exchange = exchange
        self._message_id = f"msg_{secrets.token_hex(8)}"
        self._number = 0
        self.text = ""

    def opening(self) -> list[bytes]:
        """What a stream starts with, before there is any output."""
        return [
            self._event("response.created", response=self._body("in_progress", [])),
            self._event("response.in_progress", response=self._body("in_progress", [])),
        ]

    def render(self, piece: Piece) -> list[bytes]:
        """One delta a token; before the first, its message's start."""
        content, first, count, _ = piece
        events = self._message_start() if first == 0 else []
        return events + [
            self._delta(content.tokens[content.prompt_tokens + index]) for index in range(first, first + count)
        ]

    def _message_start(self) -> list[bytes]:
        item = {"id": self._message_id, "content": [], "role": "assistant", "status": "in_progress"}
        part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        return [
            self._event("response.output_item.added", item=item | {"type": "message", "phase": None}, output_index=0),
            self._event(
                "response.content_part.added", content_index=0, item_id=self._message_id, output_index=0, part=part
            ),
        ]

    def close(self) -> list[bytes]:
        """What ends a stream."""
        where = {"content_index": 0, "item_id": self._message_id, "output_index": 0}
        return [
            self._event("response.output_text.done", **where, logprobs=[], text=self.text),
            self._event("response.content_part.done", **where, part=self._part()),
            self._event("response.output_item.done", item=self._message(), output_index=0),
            self._event("response.completed", response=self.finished()),
        ]

    def finished(self) -> dict[str, Any]:
        """The reply object, when all is said."""
        limited = self._head.finish_reason == "length"
        return self._body("incomplete" if limited else "completed", [self._message()])

    def _delta(self, token: int) -> bytes:
        text = self._service.tokenizer.text(token)
        self.text += text
        where = {"content_index": 0, "item_id": self._message_id, "output_index": 0}
        return self._event("response.output_text.delta", **where, delta=text, logprobs=[])

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return named_event(fields | {"sequence_number": number, "type": kind})

    def _part(self) -> dict[str, Any]:
        return {"annotations": [], "text": self.text, "type": "output_text", "logprobs": None}

    def _message(self) -> dict[str, Any]:
        message = {"id": self._message_id, "content": [self._part()], "role": "assistant", "status": "completed"}
        return message | {"type": "message", "phase": None}

    def _usage(self) -> dict[str, Any]:
        told = self._service.options.enable_prompt_tokens_details
        cached = self._exchange.cached_tokens if told else 0
        return {
            "input_tokens": self._prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": self._tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": self._prompt_tokens + self._tokens,
        }

    def _body(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        fields = self._fields
        done = status != "in_progress"
        return {
            "id": self._head.id,
            "created_at": self._head.created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": fields.get("instructions"),
            "metadata": fields.get("metadata"),
            "model": self._head.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": fields.get("temperature", 1.0),
            "tool_choice": fields.get("tool_choice", "none"),
            "tools": fields.get("tools", []),
            "top_p": fields.get("top_p", 1.0),
            "background": False,
            "max_output_tokens": self._tokens,
            "max_tool_calls": None,
            "previous_response_id": fields.get("previous_response_id"),
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            "user": fields.get("user"),
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }
