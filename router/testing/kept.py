"""The replies of /v1/responses that an engine keeps, so that they can be fetched and continued."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from kvroute.router.testing.wire import Refusal

_KEPT = 1000
"""Replies that can be asked for again, or continued."""


class Kept:
    """The replies that this engine made: their object, and the conversation that led there."""

    def __init__(self) -> None:
        self._replies: OrderedDict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = OrderedDict()

    def keep(self, body: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Remember a reply; the oldest is forgotten."""
        self._replies[body["id"]] = (body, messages)
        while len(self._replies) > _KEPT:
            self._replies.popitem(last=False)

    def find(self, reply_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A reply and its conversation; vLLM's 404 where this engine did not make it."""
        found = self._replies.get(reply_id)
        if found is None:
            raise Refusal(404, f"Response with id '{reply_id}' not found.", "invalid_request_error", "response_id")
        return found
