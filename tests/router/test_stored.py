"""Stored responses know their maker, and the map is bounded."""

from __future__ import annotations

import pytest

from kvroute.router.stored import StoredResponses


def test_the_id_is_found_in_a_replys_first_bytes() -> None:
    """In a whole reply and in a stream's first event alike."""
    stored = StoredResponses()
    stored.learn(b'{"id":"resp_90e17d","created_at":1', "r0")
    stored.learn(b'event: response.created\ndata: {"response":{"id":"resp_77","created_at":1', "r1")
    stored.learn(b'{"error":{}}', "r2")
    assert (stored.maker("resp_90e17d"), stored.maker("resp_77"), stored.maker("x"), len(stored)) == (
        "r0",
        "r1",
        None,
        2,
    )


def test_the_oldest_are_forgotten() -> None:
    """Memory stays bounded whatever clients store."""
    stored = StoredResponses(most=3)
    for i in range(10):
        stored.learn(b'"id":"resp_%d"' % i, "r")
    assert len(stored) == 3
    assert stored.maker("resp_6") is None
    assert stored.maker("resp_9") == "r"


def test_other_processes_can_be_told() -> None:
    """What one learns the other keeps, and tells nobody again."""
    one, other = StoredResponses(), StoredResponses()
    one.learned = other.keep
    other.learned = lambda response_id, replica: pytest.fail("told again")
    one.learn(b'{"id":"resp_1"', "r0")
    one.learn(b'{"id":"chatcmpl-1"', "r1")
    assert (other.maker("resp_1"), len(other)) == ("r0", 1)
