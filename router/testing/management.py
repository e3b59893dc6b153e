"""The stand-in's paths that do not generate: models, tokenizer, health, metrics, sleep and cache control."""

from __future__ import annotations

import secrets
import time
from typing import Any

from aiohttp import web

from kvroute.router.testing import metrics
from kvroute.router.testing.completions import tokens_of
from kvroute.router.testing.kvevents import Publisher
from kvroute.router.testing.replies import VERSION
from kvroute.router.testing.service import Service
from kvroute.router.testing.wire import Refusal, demand, demand_messages, read_object, reply, served_model


async def health(service: Service, request: web.Request) -> web.Response:
    """GET /health and /ping: an empty 200."""
    return web.Response()


async def version(service: Service, request: web.Request) -> web.Response:
    """GET /version."""
    return reply({"version": VERSION})


async def load(service: Service, request: web.Request) -> web.Response:
    """GET /load: requests in flight, counted only with --enable-server-load-tracking."""
    return reply({"server_load": service.in_flight if service.options.enable_server_load_tracking else 0})


async def models(service: Service, request: web.Request) -> web.Response:
    """GET /v1/models: the model and its adapters."""
    return reply({"object": "list", "data": [_model(service, name) for name in service.options.models]})


def _model(service: Service, name: str) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    base = service.options.model
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": service.options.model_folder or name,
        "parent": None if name == base else base,
        "max_model_len": service.options.context_tokens if name == base else None,
        "permission": [permission],
    }


async def tokenize(service: Service, request: web.Request) -> web.Response:
    """POST /tokenize: a prompt or chat messages; the counts are those of `usage`."""
    fields = await read_object(request)
    served_model(fields, service.options)
    if "messages" in fields:
        tokens = service.tokenizer.chat(
            demand_messages(fields),
            fields.get("tools"),
            generation=fields.get("add_generation_prompt", True) is not False,
            open_end=fields.get("continue_final_message") is True,
        )
    else:
        tokens = tokens_of(service, demand(fields, "prompt"))
    texts = [service.tokenizer.text(token) for token in tokens] if fields.get("return_token_strs") else None
    body = {"count": len(tokens), "max_model_len": service.options.context_tokens, "tokens": tokens}
    return reply(body | {"token_strs": texts})


async def detokenize(service: Service, request: web.Request) -> web.Response:
    """POST /detokenize."""
    fields = await read_object(request)
    served_model(fields, service.options)
    return reply({"prompt": service.tokenizer.decode(demand(fields, "tokens"))})


async def show_metrics(service: Service, request: web.Request) -> web.Response:
    """GET /metrics."""
    return web.Response(body=service.metrics(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def kv_event_sources(service: Service, request: web.Request) -> web.Response:
    """GET /kv_event_sources: where each rank publishes, in vLLM's usual words; empty without events."""
    return reply(
        {
            str(rank.number): _event_source(rank.publisher, service.options.events_topic)
            for rank in service.ranks
            if rank.publisher is not None
        }
    )


def _event_source(publisher: Publisher, topic: str) -> dict[str, Any]:
    replay = None if publisher.replay_port is None else f"tcp://*:{publisher.replay_port}"
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{publisher.events_port}",
        "replay_endpoint": replay,
        "buffer_steps": 10000,
        "hwm": 100000,
        "max_queue_size": 100000,
        "topic": topic,
    }


async def sleep(service: Service, request: web.Request) -> web.Response:
    """POST /sleep: hang requests and forget the cache."""
    level = int(request.query.get("level", "1"))
    service.sleep_level = level
    service.pause()
    service.reset_cache()
    return reply({"status": "sleeping", "level": level})


async def wake_up(service: Service, request: web.Request) -> web.Response:
    """POST /wake_up."""
    service.sleep_level = 0
    service.resume()
    return reply({"status": "awake", "tags": None})


async def is_sleeping(service: Service, request: web.Request) -> web.Response:
    """GET /is_sleeping."""
    return reply({"is_sleeping": service.sleep_level > 0})


async def pause(service: Service, request: web.Request) -> web.Response:
    """POST /pause: requests hang, health stays 200."""
    service.pause()
    service.reset_cache()
    return reply({"status": "paused"})


async def resume(service: Service, request: web.Request) -> web.Response:
    """POST /resume."""
    service.resume()
    return reply({"status": "resumed"})


async def is_paused(service: Service, request: web.Request) -> web.Response:
    """GET /is_paused."""
    return reply({"is_paused": service.paused and not service.sleep_level})


async def reset_prefix_cache(service: Service, request: web.Request) -> web.Response:
    """POST /reset_prefix_cache: forget the cache, unless requests run."""
    return reply({"success": service.reset_cache()})


async def release_kv_cache_memory(service: Service, request: web.Request) -> web.Response:
    """POST /release_kv_cache_memory: refused, for the stand-in holds no memory to give back."""
    message = "release_kv_cache_memory() requires a completed pause first"
    raise Refusal(500, f"Call to release_kv_cache_memory method failed: {message}", "InternalServerError")


async def scale_out(service: Service, request: web.Request) -> web.Response:
    """The render and token-in paths, which need --enable-scale-out."""
    message = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
    raise Refusal(403, message, "PermissionDeniedError")
