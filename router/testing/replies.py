"""What every reply has: its id, its limits, its usage, and the way its stream runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from kvroute.router.testing.faults import Cut, Fault
from kvroute.router.testing.options import Options
from kvroute.router.testing.service import Job, Service
from kvroute.router.testing.wire import Refusal, asked_rank
from kvroute.router.testing.work import Exchange, Piece

FINGERPRINT = "vllm-0.32.0-mock"
VERSION = "0.32.0"
COMPLETION_TOKENS = 16
"""vLLM's `max_tokens` of a completion that names none."""


class Head(msgspec.Struct, gc=False):
    """What stands at the top of a reply and of each of its chunks."""

    id: str
    model: str
    created: int
    finish_reason: str
    """How its choices will end: `length` where the request set a limit, else `stop`."""


def new_id(request: web.Request, fields: dict[str, Any], prefix: str) -> str:
    """The reply's id: the client's X-Request-Id or `request_id`, or one made here."""
    given = request.headers.get("X-Request-Id") or fields.get("request_id")
    return f"{prefix}{given or secrets.token_hex(8)}"


def head(request: web.Request, fields: dict[str, Any], prefix: str, model: str, limited: bool) -> Head:
    """A reply's head."""
    return Head(new_id(request, fields, prefix), model, int(time.time()), "length" if limited else "stop")


def output_tokens(limit: Any, default: int, longest_prompt: int, options: Options) -> int:
    """How many tokens a reply gets: what was asked for, cut to what the context leaves."""
    wanted = limit if isinstance(limit, int) else default
    return max(1, min(wanted, options.context_tokens - longest_prompt))


def job(
    request: web.Request, fields: dict[str, Any], head: Head, prompts: list[list[int]], tokens: int, options: Options
) -> Job:
    """The work that a request asks for: `tokens` of output for each choice of each prompt."""
    xargs = fields.get("vllm_xargs")
    session = request.headers.get("X-Session-ID") or fields.get("session_id")
    n = fields.get("n")
    return Job(
        id=head.id,
        prompts=prompts,
        output_tokens=tokens,
        finish_reason=head.finish_reason,
        choices=n if isinstance(n, int) and n > 1 else 1,
        lora=head.model if head.model != options.model else None,
        salt=fields.get("cache_salt"),
        session=session if isinstance(session, str) else None,
        report_full=isinstance(xargs, dict) and xargs.get("kv_cache_report_mode") == "full",
        rank=asked_rank(request, options),
    )


def usage(
    service: Service, exchange: Exchange, prompts: list[list[int]], generated: int, *, stream: bool, chat: bool
) -> dict[str, Any]:
    """The usage object; cached tokens only where the engine was started to tell them."""
    prompt = sum(map(len, prompts))
    told: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + generated,
        "completion_tokens": generated,
    }
    details: dict[str, Any] | None = None
    if service.options.enable_prompt_tokens_details:
        size, cached = service.options.block_size, exchange.cached_tokens
        details = {"cached_tokens": cached}
        if chat:
            details["created_cache_tokens"] = sum(len(tokens) // size * size for tokens in prompts) - cached
        if not stream:
            details = {"created_cache_tokens": None, "multimodal_tokens": None} | details
    if not stream:
        return told | {"prompt_tokens_details": details, "completion_tokens_details": None}
    return told if details is None else told | {"prompt_tokens_details": details}


def wants_usage(service: Service, fields: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a stream carries a usage chunk, and usage in every chunk."""
    asked = fields.get("stream_options")
    asked = asked if isinstance(asked, dict) else {}
    at_end = bool(asked.get("include_usage")) or service.options.enable_force_include_usage
    return at_end, at_end and bool(asked.get("continuous_usage_stats"))


def ordered_fault(service: Service, request: web.Request) -> Fault | None:
    """Carry out the next ordered fault, as far as it comes before any work."""
    fault = service.faults.next()
    if fault is None:
        return None
    if fault.status is not None:
        raise Refusal(fault.status, "ordered by a test", "InternalServerError")
    if fault.cut_before_head:
        _cut(request, at_once=True)
    return fault


async def collect(service: Service, exchange: Exchange) -> list[list[int]]:
    """Wait for all output: the tokens of each choice."""
    texts: dict[int, list[int]] = {}
    try:
        while pieces := await exchange.take():
            for content, first, count, _ in pieces:
                start = content.prompt_tokens + first
                texts.setdefault(content.choice, []).extend(content.tokens[start : start + count])
    finally:
        service.finish(exchange)
    return [texts[choice] for choice in sorted(texts)]


async def stream(
    request: web.Request,
    service: Service,
    exchange: Exchange,
    fault: Fault | None,
    render: Callable[[Piece], list[bytes]],
    close: Callable[[], list[bytes]],
    opening: list[bytes] | None = None,
) -> web.StreamResponse:
    """Answer with SSE: the head and the `opening` events at once, before there is any output; then one event per
    token, and one write for all that one step brought."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.enable_chunked_encoding()
    left = fault.cut_after_events if fault is not None else None
    try:
        await response.prepare(request)
        if opening:
            left = await _write(request, response, opening, left)
        while pieces := await exchange.take():
            events = [event for piece in pieces for event in render(piece)]
            left = await _write(request, response, events, left)
        await _write(request, response, close(), left)
    finally:
        service.finish(exchange)
    await response.write_eof()
    return response


async def _write(
    request: web.Request, response: web.StreamResponse, events: list[bytes], left: int | None
) -> int | None:
    if left is None:
        await response.write(b"".join(events))
        return None
    if left:
        await response.write(b"".join(events[:left]))
    if len(events) >= left:
        _cut(request, at_once=False)
    return left - len(events)


def _cut(request: web.Request, *, at_once: bool) -> None:
    transport = request.transport
    if transport is not None:
        if at_once:
            transport.abort()
        else:
            transport.close()
    raise Cut
