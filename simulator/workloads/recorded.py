"""One line of an agents' trace: what it must hold."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kvroute.simulator.workloads.lines import MOST_SECONDS, MOST_TOKENS

Seconds = Annotated[float, msgspec.Meta(ge=0, le=MOST_SECONDS)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
MOST_ID = 1 << 40


class Entry(msgspec.Struct, gc=False):
    """A request, or a sub-agent (`type` "subagent") with requests of its own. Fields are the trace's."""

    t: Seconds
    """When a request was sent; when a sub-agent's result came [s]."""
    type: str
    tokens: Tokens = msgspec.field(name="in", default=0)
    """Of the prompt, the cached ones included; a request has at least 1."""
    out: Tokens = 0
    hash_ids: list[Annotated[int, msgspec.Meta(ge=0, le=MOST_ID)]] = []
    api_time: Seconds | None = None
    """From sending to the end of the answer [s]; some streams lack it."""
    duration_ms: Seconds | None = None
    """Of a sub-agent, from its start to its result."""
    requests: list[Entry] = []
    """Of a sub-agent; their `t` counts from its start."""
    tool_tokens: Tokens = 0
    system_tokens: Tokens = 0


class Session(msgspec.Struct, gc=False):
    """A session: its prompts begin with `tool_tokens` of tools, then `system_tokens` of a system prompt."""

    id: str
    block_size: Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
    requests: Annotated[list[Entry], msgspec.Meta(min_length=1)]
    hash_id_scope: Literal["local"] = "local"
    tool_tokens: Tokens = 0
    system_tokens: Tokens = 0


def fault(session: Session) -> str | None:
    """What is wrong with it that types do not say."""
    last = 0.0
    for number, entry in enumerate(session.requests):
        inner = [(f"requests[{number}]", entry)]
        if entry.type == "subagent":
            if not entry.requests or entry.duration_ms is None:
                return f"requests[{number}]: a sub-agent without requests or without duration_ms"
            inner = [(f"requests[{number}].requests[{i}]", one) for i, one in enumerate(entry.requests)]
        elif entry.t < last:
            return f"requests[{number}]: t {entry.t:g} is before the request above it, {last:g}"
        else:
            last = entry.t
        for where, one in inner:
            wrong = _request_fault(one, session.block_size)
            if wrong:
                return f"{where}: {wrong}"
    return None


def _request_fault(entry: Entry, block_size: int) -> str | None:
    if entry.tokens < 1:
        return "`in` is missing or 0: a prompt has at least one token"
    held, full, most = len(entry.hash_ids), entry.tokens // block_size, -(-entry.tokens // block_size)
    if not full <= held <= most:
        return f"{held} hash_ids, but {entry.tokens} tokens are {most} blocks of {block_size}"
    return None
